"""The command line of `chorus keys`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chorus.client.task_options import MakeCommand


def add_commands(words: Any, command: MakeCommand) -> None:
    keys = words.add_parser("keys", help="list, grant, rotate; split, verify, recover, backup", allow_abbrev=False)
    under = keys.add_subparsers(dest="keys_command", metavar="COMMAND", required=True, title="commands")
    command(under, "list", "Show roles, what each reads, and who holds them.").set_defaults(run=_run("list_keys"))
    grant = command(under, "grant", "Grant a role to a member (at the founder).")
    grant.add_argument("peer", metavar="PEER", help="peer id (`chorus peers`)")
    grant.add_argument("role", metavar="ROLE")
    grant.add_argument("--remove", action="store_true", help="take the role back instead")
    grant.set_defaults(run=_run("grant"))
    text = "Make new keys for all roles, closed to those that hold no role any more (at the founder)."
    command(under, "rotate", text).set_defaults(run=_run("rotate"))
    split = command(under, "split", "Print shares of the recovery secret, which opens every backup; none is written.")
    split.add_argument("--threshold", "-k", type=int, default=3, metavar="K", help="how many give it back (3)")
    split.add_argument("--shares", "-n", type=int, default=5, metavar="N", help="how many there are (5, at most 16)")
    split.set_defaults(run=_run("split"))
    verify = command(under, "verify", "Check shares, one a line, of files or stdin.")
    verify.add_argument("files", metavar="FILE", nargs="*")
    verify.set_defaults(run=_run("verify"))
    backup = command(
        under,
        "backup",
        "Write this node's keys, encrypted to the recovery secret (and to age.key without a passphrase).",
    )
    backup.add_argument("file", metavar="FILE", help="`-`: stdout")
    backup.add_argument("--force", action="store_true", help="overwrite a file that is there")
    backup.set_defaults(run=_run("backup"))
    recover = command(
        under,
        "recover",
        "Put the keys of a backup in place: with shares of files or stdin, or with the age.key that is left.",
    )
    recover.add_argument("backup", metavar="BACKUP")
    recover.add_argument("files", metavar="SHARES", nargs="*", help="files of shares, `-`: stdin")
    recover.set_defaults(run=_run("recover"))


def _run(name: str) -> Callable[[Any, Any], int]:
    """A command whose code, which brings pyrage along, is imported only when it runs."""

    def run(options: Any, api: Any) -> int:
        from chorus.client.keys import commands

        return int(getattr(commands, name)(options, api))

    return run
