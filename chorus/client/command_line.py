"""The command line of `chorus`: every command with its options. docs/client.md describes them."""

from __future__ import annotations

import argparse
import math

from chorus.client import node_commands, simulate, simulate_options, task_commands
from chorus.client.keys import options as keys
from chorus.client.task_options import MakeCommand
from chorus.client.ucxl import commands as decisions

EXIT_STATUSES = """exit status:
  0    done; the task completed, where one was watched
  1    the task failed or was cancelled, some of what it made is missing, or the node refused for a reason of its own
  2    the command was used wrongly, or what it names is not there
  3    no node answers
  4    the token is missing or wrong
  130  interrupted
  143  ended by SIGTERM (chorus simulate)
"""


def number(text: str) -> float:
    """A number that JSON can hold. Raises `ValueError`, which argparse turns into "invalid number value"."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = shared.add_argument_group("which node, and how to answer")
    group.add_argument(
        "--api", metavar="URL", help="address of the API (else CHORUS_API, else the data directory's node)"
    )
    group.add_argument("--token", metavar="TOKEN", help="its token (else CHORUS_API_TOKEN, CHORUS_API_TOKEN_FILE, …)")
    group.add_argument("--json", action="store_true", help="answer in JSON: one document, or one line per event")

    def command(
        under: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
    ) -> argparse.ArgumentParser:
        made = under.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False)
        made.set_defaults(complain=made.error)
        return made

    top = argparse.ArgumentParser(
        prog="chorus",
        description="Give a CHORUS node tasks, follow them, fetch what they made.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
        allow_abbrev=False,
    )
    top.add_argument("--version", "-v", action="store_true", help="print the version and exit")
    words = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_task_commands(words, command)
    _add_node_commands(words, command)
    keys.add_commands(words, command)
    ucxl = words.add_parser("ucxl", help="decisions: get, history, search, verify, put", allow_abbrev=False)
    decisions.add_commands(
        ucxl.add_subparsers(dest="ucxl_command", metavar="COMMAND", required=True, title="commands"), command
    )
    text = "Simulate a network of pub/sub nodes in this process, and write a report with plots."
    simulated = command(words, "simulate", text)
    simulate_options.add_options(simulated)
    simulated.set_defaults(run=simulate.run)
    return top


def _add_task_commands(words: argparse._SubParsersAction[argparse.ArgumentParser], command: MakeCommand) -> None:
    task = words.add_parser("task", help="submit, watch, list, show, cancel, fetch", allow_abbrev=False)
    tasks = task.add_subparsers(dest="task_command", metavar="COMMAND", required=True, title="commands")
    _submit(command(tasks, "submit", "Pack a directory, upload it, and run a command on it somewhere in the mesh."))
    watch = command(tasks, "watch", "Show a task's output and states until it has ended.")
    watch.add_argument("task_id", metavar="ID")
    watch.add_argument("--after", type=int, default=0, metavar="N", help="only events after this one")
    _merged(watch)
    watch.add_argument("--no-summary", action="store_true", help="nothing more once it has ended (for scripts)")
    watch.set_defaults(run=task_commands.watch)
    listing = command(tasks, "list", "List tasks, newest first.")
    listing.add_argument("--state", choices=task_commands.STATES, help="only tasks in this state")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="at most this many (50)")
    listing.set_defaults(run=task_commands.list_tasks)
    shown = command(tasks, "show", "Show a task.")
    shown.add_argument("task_id", metavar="ID")
    shown.set_defaults(run=task_commands.show_task)
    cancel = command(tasks, "cancel", "Cancel tasks; what they wrote so far is kept.")
    cancel.add_argument("task_ids", metavar="ID", nargs="+")
    cancel.add_argument("--reason", default="", help="why, for its history")
    cancel.set_defaults(run=task_commands.cancel)
    fetch = command(tasks, "fetch", "Fetch a task's artifacts into a directory.")
    fetch.add_argument("task_id", metavar="ID")
    fetch.add_argument("--output", "-o", metavar="DIR", help="where to (chorus-ID); - writes a tar archive to stdout")
    fetch.add_argument("--logs", action="store_true", help="the whole output as well, as stdout.log and stderr.log")
    fetch.add_argument("--force", action="store_true", help="overwrite files that are there")
    fetch.set_defaults(run=task_commands.fetch_artifacts)


def _add_node_commands(words: argparse._SubParsersAction[argparse.ArgumentParser], command: MakeCommand) -> None:
    command(words, "peers", "Show the peers of the node.").set_defaults(run=node_commands.peers)
    command(words, "status", "Show the node.").set_defaults(run=node_commands.status)
    command(words, "openapi", "Print the description of the API (OpenAPI 3.1).").set_defaults(run=node_commands.openapi)
    types = command(words, "messages", "List what nodes say to each other, or show one type (no node needed).")
    types.add_argument("type", metavar="TYPE", nargs="?", help="a type, or Envelope; with --json its JSON Schema")
    types.set_defaults(run=node_commands.messages)
    token = command(words, "token", "Print what another machine needs to join this node's cluster (a secret).")
    token.add_argument("--raw", action="store_true", help="the token alone")
    token.set_defaults(run=node_commands.token)


def _submit(submit: argparse.ArgumentParser) -> None:
    submit.usage = "chorus task submit [options] [PATH] [-- COMMAND…]"
    submit.add_argument("path", metavar="PATH", nargs="?", help="directory to pack, or a tar or zip archive as it is")
    submit.add_argument(
        "--include", action="append", metavar="PATH", help="also this in the directory, which git ignores (repeatable)"
    )
    submit.add_argument("--all-files", action="store_true", help="also everything that git ignores; git is not asked")
    submit.add_argument("--with-git", action="store_true", help="also a .git: history, branches, tags; no remotes")
    submit.add_argument(
        "--spec", metavar="FILE", help="fields of the task as JSON (`-`: stdin); options go before them"
    )
    submit.add_argument("--title", help="one line about it (the directory's name)")
    submit.add_argument("--description", help="more about it")
    submit.add_argument("--project", help="project it belongs to")
    submit.add_argument("--language", help="instead of finding it by the files")
    submit.add_argument("--image", help="container image to run in")
    submit.add_argument("--shell", metavar="NAME", help="what runs a command that is one word: sh (default), bash, …")
    submit.add_argument("--env", action="append", metavar="NAME=VALUE", help="environment of the commands (repeatable)")
    submit.add_argument(
        "--artifact", action="append", metavar="GLOB", help="what to keep of /workspace/output (repeatable)"
    )
    submit.add_argument("--require-role", metavar="ROLE", help="only agents with this role")
    submit.add_argument("--require-expertise", action="append", metavar="WORD", help="… this expertise (repeatable)")
    submit.add_argument("--require-capability", action="append", metavar="WORD", help="… this capability (repeatable)")
    submit.add_argument("--depends-on", action="append", metavar="ID", help="only after this task (repeatable)")
    submit.add_argument("--timeout", type=number, metavar="SECONDS", help="time limit of all commands together")
    submit.add_argument("--cpu", type=number, metavar="CORES", help="limit of processor cores")
    submit.add_argument("--memory", type=int, metavar="MB", help="limit of memory")
    submit.add_argument("--disk", type=int, metavar="MB", help="limit of disk space")
    submit.add_argument("--priority", type=int, metavar="0-9", help="9 is first (5)")
    submit.add_argument("--retries", type=int, metavar="N", help="further tries when the task itself fails")
    submit.add_argument("--idempotency-key", metavar="KEY", help="the same key and task again give the same task")
    submit.add_argument("--watch", action="store_true", help="follow it to its end")
    _merged(submit)
    submit.set_defaults(run=task_commands.submit, no_summary=False)


def _merged(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--merged",
        action="store_true",
        help="its stderr to stdout too, as it arrives (a terminal shows both so anyway)",
    )
