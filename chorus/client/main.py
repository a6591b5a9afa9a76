"""`chorus`: give a node tasks and look at it. docs/client.md describes every command."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from chorus import encoding
from chorus.client import show, simulate_options, task_commands
from chorus.client.api import NodeApi
from chorus.client.command_line import parser
from chorus.client.errors import EXIT_INTERRUPTED, EXIT_USAGE
from chorus.errors import UserError
from chorus.files import FULL

USUAL = frozenset({"CHORUS_API", "CHORUS_API_TOKEN", "CHORUS_API_TOKEN_FILE", "CHORUS_DATA_DIR"})
"""Variables that need no check."""


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    if any(name.startswith("CHORUS_") and name not in USUAL for name in environ):
        # Only now: it takes longer to import than most commands take.
        from chorus.config.settings import unknown_variables

        for line in unknown_variables(environ):
            show.note(line)


class _Word(str):
    """A word of the command line that is the same object as no other."""


def _unexpected(given: list[str], command: list[str] | None, options: argparse.Namespace, rest: list[str]) -> str:
    if command is None and options.run is task_commands.submit and not rest[0].startswith("-"):
        # The same word may be there before, as an option's value.
        at = next(at for at, word in enumerate(given) if word is rest[0])
        return f"a command comes after --: chorus {shlex.join(given[:at])} -- {shlex.join(given[at:])}"
    return f"unrecognized arguments: {shlex.join(rest)}"


def main(words: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; returns the exit status."""
    if words is None:
        encoding.begin()
    given = list(sys.argv[1:] if words is None else words)
    command: list[str] | None = None
    if "--" in given:
        at = given.index("--")
        given, command = given[:at], given[at + 1 :]
    given = [_Word(word) for word in simulate_options.joined(given)]
    top = parser()
    # As a namespace: a default of the parsers would undo what stands before the command.
    unset = argparse.Namespace(api=None, token=None, json=False, run=None, complain=top.error)
    options, rest = top.parse_known_args(given, unset)
    if rest:
        options.complain(_unexpected(given, command, options, rest))
    if command is not None and options.run not in (task_commands.submit, None):
        options.complain("only `task submit` takes a command after --")
    options.argv = command
    try:
        status = _answer(top, options, environ)
        # Here and not when the interpreter ends, which could only say so with a traceback.
        sys.stdout.flush()
        return status
    except UserError as error:
        show.note(str(error))
        return getattr(error, "exit_status", EXIT_USAGE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has enough (`chorus task list | head`).
        _discard_output()
        return 0
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        _discard_output()
        show.note(f"cannot write the answer: {error.strerror}")
        return EXIT_USAGE


def _answer(top: argparse.ArgumentParser, options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    if options.version:
        from chorus.version import version_line

        print(version_line(environ).replace("CHORUS-agent", "chorus", 1))
        return 0
    if options.run is None:
        top.print_help()
        return EXIT_USAGE
    _warn_of_unknown(environ)
    return int(options.run(options, NodeApi(environ, options.api, options.token)))


def _discard_output() -> None:
    """Keep the interpreter from flushing again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
