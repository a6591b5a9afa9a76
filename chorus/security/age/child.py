"""Encrypts or decrypts standard input to standard output, in a process of its own: pyrage holds the interpreter's lock.

    python child.py seal            writes a fresh identity and LF, then the age file
    python child.py unseal FD       reads the identity from the descriptor FD, then writes the content

Exit code 1: the input is no age file of that identity, was truncated or altered, or a pipe is gone. It ends with the
node, whose end of the pipe closes. Imports nothing of CHORUS, so that it starts fast.
"""

from __future__ import annotations

import sys

import pyrage


def main(arguments: list[str]) -> int:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    try:
        if arguments == ["seal"]:
            identity = pyrage.x25519.Identity.generate()
            sink.write(f"{identity}\n".encode("ascii"))
            pyrage.encrypt_io(source, sink, [identity.to_public()])
        else:
            _, descriptor = arguments
            with open(int(descriptor), "rb") as given:
                identity = pyrage.x25519.Identity.from_str(given.read(256).decode("ascii").strip())
            pyrage.decrypt_io(source, sink, [identity])
        sink.flush()
    except (OSError, ValueError, pyrage.DecryptError, pyrage.EncryptError, pyrage.IdentityError):
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout = None  # a broken pipe has no second message
    sys.exit(code)
