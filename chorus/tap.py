"""`twistd chorus agent | hap | config`: options, and the service that twistd runs.

Configuration comes from the environment alone (docs/configuration.md), so the commands take no options of their own.
The reactor is chosen here, before anything imports one. Everything that needs CHORUS's parts is imported late: `--help`
and `--version` work without any configuration and at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.python import usage

from chorus import descriptors, encoding, reactor
from chorus.errors import ChorusError, UserError
from chorus.version import version_line

if TYPE_CHECKING:
    from twisted.application.service import IService

EXIT_FAILED = 1
COMMANDS = ("agent", "hap", "config", "help")
USAGE = "Usage: twistd [options of twistd] chorus"


class _CommonOptions(usage.Options):
    """Options of every level."""

    def opt_help(self) -> None:
        """Display this help and exit."""
        _answer(str(self))

    def opt_version(self) -> None:
        """Print the version and exit."""
        _answer(version_line())

    opt_v = opt_version


class _Role(_CommonOptions):
    """A command without options of its own."""

    words = ""
    """Arguments that may follow the command's name."""

    def getSynopsis(self) -> str:
        assert self.parent is not None
        return f"{USAGE} {self.parent.subCommand} {self.words}".rstrip()

    def parseArgs(self, *rest: str) -> None:
        if rest:
            raise usage.UsageError(
                f"unexpected argument {rest[0]!r}: a node is configured by CHORUS_… variables "
                "(see docs/configuration.md)"
            )


class AgentOptions(_Role):
    longdesc = "An autonomous agent: joins or founds a mesh, accepts and executes tasks by itself."


class HapOptions(_Role):
    longdesc = "The Human Agent Portal: the same node with the role `human`."


class ConfigOptions(_Role):
    words = "[--table]"
    longdesc = "Print the effective configuration (secrets masked) and exit; --table prints all variables."

    optFlags = [["table", "t", "Print the table of all variables (Markdown) instead."]]


class HelpOptions(_Role):
    longdesc = "Print this help and exit."


class Options(_CommonOptions):
    """Options of `twistd chorus`."""

    longdesc = (
        "CHORUS lets autonomous agents and people work on software tasks together, on their own machines, "
        "with no central server. Configuration is by environment variables: twistd chorus config --table"
    )
    subCommands = [
        ["agent", None, AgentOptions, "Run an autonomous agent"],
        ["hap", None, HapOptions, "Run the Human Agent Portal (the same node, for a person)"],
        ["config", None, ConfigOptions, "Print the effective configuration and exit"],
        ["help", None, HelpOptions, "Print this help and exit"],
    ]

    def __init__(self) -> None:
        usage.Options.__init__(self)  # type: ignore[no-untyped-call]

    def getSynopsis(self) -> str:
        return f"{USAGE} agent | hap | config"

    def parseOptions(self, options: Any = None) -> None:
        encoding.begin()
        # -h is not among twistd's own; users type it.
        if options is not None:
            options = ["--help" if option == "-h" else option for option in options]
        try:
            self._known_command(options or ())
            usage.Options.parseOptions(self, options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            # twistd would print all of its help first, and the error below it.
            print(f"twistd chorus: {error}\n{USAGE} agent | hap | config (--help says more)", file=sys.stderr)
            sys.exit(EXIT_FAILED)

    def _known_command(self, words: Sequence[str]) -> None:
        """Raises `UsageError` for a command that does not exist, with the one that was probably meant."""
        word = next((word for word in words if not word.startswith("-")), None)
        if word is not None and word not in COMMANDS:
            near = difflib.get_close_matches(word, COMMANDS, 1)
            raise usage.UsageError(f"there is no command {word!r}" + (f"; did you mean {near[0]}?" if near else ""))

    def postOptions(self) -> None:
        if self.subCommand is None:
            raise usage.UsageError("say which: twistd chorus agent, twistd chorus hap, or twistd chorus config")
        if self.subCommand == "help":
            _answer(str(self))
        if self.subCommand == "config":
            _answer(self._configuration())

    def _configuration(self) -> str:
        from chorus.config import show
        from chorus.config.settings import load, unknown_variables

        if self.subOptions["table"]:
            return show.table_markdown()
        for line in unknown_variables(os.environ):
            print(f"chorus: {line}", file=sys.stderr)
        try:
            return show.render(load(os.environ))
        except UserError as error:
            _complain(error)
            sys.exit(error.exit_code)


def _answer(text: str) -> NoReturn:
    """Print what was asked for, and exit."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has enough (`twistd chorus config | head`). Keep the interpreter from flushing into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _complain(error: ChorusError) -> None:
    print(f"chorus: {error}", file=sys.stderr)


def makeService(options: Options) -> IService:
    """Build the node. A start that certainly fails (`preflight`) ends the process with one line here, before twistd
    goes into the background."""
    try:
        # Before the reactor, which fails without a word that helps.
        descriptors.require()
        reactor.install()
        from twisted.internet import reactor as running

        from chorus.config.settings import load
        from chorus.lifecycle import ExitStatus
        from chorus.observe import logging
        from chorus.preflight import check_twistd, preflight
        from chorus.runtime import NodeService
        from chorus.services.endpoints.systemd import Supervision

        settings = load(os.environ)
        check_twistd(options.parent or {})
        preflight(settings)
        logging.take_over(settings.log_level, settings.log_format)
        return NodeService(
            settings,
            mode=str(options.subCommand),
            reactor=running,
            exit_status=ExitStatus(),
            supervision=Supervision.take(os.environ, os.getpid()),
        )
    except ChorusError as error:
        _complain(error)
        sys.exit(getattr(error, "exit_code", EXIT_FAILED))
