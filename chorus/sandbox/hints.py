"""Hints on what a failed command lacks, from the last lines of its output.

A hint is added to the result's `detail` and decides nothing. The texts are those of common shells, package managers and
runtimes; what a task writes to be taken for one of them only misleads its own reader.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus.sandbox.contract import Job
from chorus.tasks.terms import Reason

TAIL_BYTES = 4096
"""Of each stream: the lines in which a command says why it gives up."""

NO_NETWORK = "sandboxes have no network: docs/dependencies.md says how to bring dependencies"

_UNREACHABLE = re.compile(
    rb"could(?: not|n't) resolve|temporary failure (?:in name resolution|resolving)|name or service not known"
    rb"|unable to resolve host|no such host|getaddrinfo|\b(?:EAI_AGAIN|ENOTFOUND|ENETUNREACH|EHOSTUNREACH)\b"
    rb"|UnknownHostException|nodename nor servname|no address associated with hostname|unknown host|bad address '"
    rb"|network is (?:unreachable|down)|no route to host|failed to establish a new connection|dns error"
    rb"|failed to lookup address|could not fetch url|unable to access 'https?://|failed to fetch https?://"
    rb"|server misbehaving",
    re.IGNORECASE,
)

_NAME = rb"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
_NOT_FOUND = re.compile(
    rb"(?:^|[\s:'\"`])(" + _NAME + rb")['\"`]?: (?:(?:command )?not found|No such file or directory)\s*$"
    rb"|[\x98'\"`](" + _NAME + rb")(?:\xe2\x80\x99|['\"`]): No such file or directory\s*$"
    rb"|command not found: (" + _NAME + rb")\s*$",
    re.MULTILINE,
)

PERSONAL = (
    ".local/bin", "bin", ".pyenv/shims", ".pyenv/bin", ".rbenv/shims", ".nvm/versions/node/*/bin", ".volta/bin",
    ".cargo/bin", ".rustup/toolchains/*/bin", "go/bin", ".deno/bin", ".bun/bin", ".asdf/shims",
    ".sdkman/candidates/*/*/bin", ".npm-global/bin", ".yarn/bin", "miniconda3/bin", "anaconda3/bin",
)  # fmt: skip
"""Where people install tools for themselves, below their home folder: no sandbox has these."""

COMMON = ("/usr/local/bin", "/usr/local/go/bin", "/usr/bin", "/bin", "/opt/*/bin", "/snap/bin")
"""Where a machine has tools that an image, or a sandbox without /opt, may lack."""


def network(tail: bytes) -> bool:
    """The output ends with a failed look-up of a name, or a connection to nowhere."""
    return _UNREACHABLE.search(tail) is not None


def missing(tail: bytes, command: Sequence[str] = ()) -> str | None:
    """The program that a shell or a runtime did not find: the last one in the output, else the command's own."""
    found = [next(filter(None, match)) for match in _NOT_FOUND.findall(tail)]
    if found:
        return str(found[-1].decode())
    own = command[0] if command else ""
    return own if re.fullmatch(_NAME.decode(), own) else None


def on_host(name: str, environ: Mapping[str, str], shared: Sequence[str] = ()) -> bool:
    """True if this machine has a program of this name where its owner, or the agent, would find it, outside of the
    folders that the sandbox sees too."""
    folders = [Path(place) for place in environ.get("PATH", "").split(os.pathsep) if place.startswith("/")]
    home = environ.get("HOME", "")
    if home.startswith("/"):
        folders += [found for pattern in PERSONAL for found in _matching(Path(home), pattern)]
    folders += [found for pattern in COMMON for found in _matching(Path("/"), pattern.lstrip("/"))]
    own = [folder for folder in map(str, folders) if not any(f"{folder}/".startswith(f"{one}/") for one in shared)]
    return shutil.which(name, path=os.pathsep.join(own)) is not None if own else False


def _matching(root: Path, pattern: str) -> list[Path]:
    try:
        return list(root.glob(pattern))
    except OSError:
        return []


def words(
    code: int | None, tail: bytes, command: Sequence[str], environ: Mapping[str, str], shared: Sequence[str] = ()
) -> str:
    """The addition to the detail of a run that ended with `code` by itself; empty for nothing. No path is named: only
    that there is such a program."""
    if not code:
        return ""
    if code == 127 and (name := missing(tail, command)) is not None and on_host(name, environ, shared):
        return f"; the sandbox has no {name}, though this machine has it: docs/dependencies.md says how to bring tools"
    return f"; {NO_NETWORK}" if network(tail) else ""


def hint(reason: Reason, code: int | None, job: Job, scratch: Path, shared: Sequence[str] = ()) -> str:
    """`words` for a run whose output was kept in `scratch`. Blocking."""
    if reason is not Reason.EXIT or not code:
        return ""
    tail = b"\n".join(_tail(scratch / name) for name in ("stdout", "stderr"))
    command = job.commands[0] if len(job.commands) == 1 else ()
    return words(code, tail, command, os.environ, shared)


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read(TAIL_BYTES)
    except OSError:
        return b""
