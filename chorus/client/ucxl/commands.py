"""`chorus ucxl`: decisions. Each command takes the parsed options and the node's API, and returns the exit status.

Records are verified here: the node is asked for bytes, not for a verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import urllib.parse
from pathlib import Path
from typing import Final

import attrs

from chorus import strictjson
from chorus.client import deliverables, show
from chorus.client.api import NodeApi
from chorus.client.deliverables import Deliverables, Item
from chorus.client.errors import EXIT_TASK_FAILED, ClientError, Refused
from chorus.client.fetch import checked, into_directory
from chorus.client.task_options import Document, MakeCommand, Options
from chorus.client.ucxl import view
from chorus.errors import PeerError
from chorus.ucxl.address import ANY, PARTS, Address, exact, project_problem
from chorus.ucxl.chain import ClaimedVersion, verify_chain
from chorus.ucxl.provenance import ProvenanceEnvelope
from chorus.ucxl.record import Decision

PAGE: Final = 200
MAX_PAGES: Final = 1000
"""Of one answer: a node whose pages never end is not followed for ever."""
EXIT_FALSE: Final = EXIT_TASK_FAILED
"""Something that was signed is not as it says."""


def get(options: Options, api: NodeApi) -> int:
    """One version; with --provenance the signed statement on it."""
    for part in Address.parse(options.address).wildcards:
        raise ClientError(f"the {part} of the address is a wildcard: `chorus ucxl search` finds what it stands for")
    if options.provenance:
        return _provenance(options, api)
    found = api.json("GET", _path("resolve", address=options.address))
    try:
        record = Decision.decode(_canonical(found["record"]))
        if (record.content_hash, record.address) != (found["content"], found["address"]):
            raise ClientError("the node's answer is another decision than it says", EXIT_FALSE)
    except PeerError as error:
        raise ClientError(f"the decision is false: {error}", EXIT_FALSE) from None
    status = 0 if options.artifacts is None else _fetch(api, record, options.artifacts)
    if options.json:
        show.document(found)
    else:
        view.decision(record)
    return status


def _fetch(api: NodeApi, record: Decision, directory: str) -> int:
    """Artifacts by their names, the plain content of each verified; nothing is overwritten."""
    found = Deliverables(tuple(Item(each.name, each.sha256, each.size) for each in record.artifacts), ())
    deliverables.check(found)
    targets = checked(found, Path(directory), force=False, option="--artifacts")
    with show.bar("fetching", sum(item.size for item in found.items)) as advance:
        done = into_directory(api, targets, advance)
    for line in done.failed:
        show.note(show.safe(line))
    show.note(f"{show.counted(len(done.files), 'file')} in {show.safe(directory)}")
    return EXIT_TASK_FAILED if done.failed else 0


def _provenance(options: Options, api: NodeApi) -> int:
    envelope = api.json("GET", _path("provenance", address=options.address))
    try:
        ProvenanceEnvelope.decode(json.dumps(envelope).encode()).verify()
    except PeerError as error:
        raise ClientError(f"the statement is false: {error}", EXIT_FALSE) from None
    show.document(envelope)
    return 0


def history(options: Options, api: NodeApi) -> int:
    found = _pages(api, "versions", options.limit, "history", address=options.address)
    if options.json:
        show.document(found)
    else:
        view.history(found)
    return 0


def search(options: Options, api: NodeApi) -> int:
    conditions = {name: getattr(options, name) for name in (*PARTS, "since", "until")}
    text = " ".join(options.text or ()) or None
    found = _pages(api, "decisions", options.limit, "search", address=options.pattern, text=text, **conditions)
    if options.json:
        show.document(found)
    else:
        view.matches(found["decisions"])
    if options.role not in (None, ANY) and not found["decisions"]:
        # Open mode has no roles to look at.
        with contextlib.suppress(Refused):
            if options.role not in {role["name"] for role in api.json("GET", "/v1/keys")["roles"]}:
                show.note(f"there is no role {show.safe(options.role)}: `chorus keys list` shows them")
    return 0


def verify(options: Options, api: NodeApi) -> int:
    """The whole chain that an address belongs to, whatever version it names."""
    address = str(Address.parse(options.address).base)
    found = _pages(api, "versions", None, "history", address=address)
    report = verify_chain(address, map(_claimed, found["versions"]), list(map(_canonical, found["heads"])))
    if options.json:
        show.document({**attrs.asdict(report), "clean": report.clean})
    else:
        view.report(report)
    return 0 if report.clean else EXIT_FALSE


def put(options: Options, api: NodeApi) -> int:
    names = ("kind", "summary", "task", "project", "role", "path", "rationale", "confidence", "supersedes")
    draft: Document = {name: value for name in names if (value := getattr(options, name)) is not None}
    # As a task's project, or as an address has it already.
    project = options.project
    if project is not None and (".." not in project or "/" in project):
        if (problem := project_problem(project)) is not None:
            raise ClientError(f"--project: {problem}")
        draft["project"] = project.replace("/", "..")
    draft["alternatives"] = options.alternative or []
    draft["modified_files"] = options.modified_file or []
    placed = api.json("POST", "/ucxi/v1/decisions", draft)
    if options.json:
        show.document(placed)
    else:
        print(show.safe(exact(placed["address"], placed["content"])))
    return 0


def _pages(api: NodeApi, member: str, limit: int | None, name: str, **query: str | None) -> Document:
    """The first answer, with the items of further pages until there are `limit`, or all. `next` and `missing` are those
    of the last."""
    if limit is not None and limit < 1:
        raise ClientError("--limit must be 1 or more")
    found: Document = {}
    items: list[Document] = []
    after: str | None = None
    for _ in range(MAX_PAGES):
        size = PAGE if limit is None else min(PAGE, limit - len(items))
        page = api.json("GET", _path(name, **query, limit=str(size), after=after))
        items += page[member]
        after = page["next"]
        found = found or page
        if after is None or (limit is not None and len(items) >= limit):
            end = {name: page[name] for name in ("next", "missing") if name in page}
            return {**found, member: items, **end}
    raise ClientError(f"the node gave {MAX_PAGES} pages, and more are to come: ask for less", EXIT_FALSE)


def _path(name: str, **query: str | None) -> str:
    asked = {key: value for key, value in query.items() if value is not None}
    # What may stand in a query stays, so that the longest address fits into the target of a request.
    return f"/ucxi/v1/{name}?{urllib.parse.urlencode(asked, quote_via=urllib.parse.quote, safe=':/@~*!$,;')}"


def _claimed(version: Document) -> ClaimedVersion:
    record, signed = version["record"], version["version"]
    return ClaimedVersion(
        version["seq"],
        version["content"],
        None if record is None else _canonical(record),
        None if signed is None else _canonical(signed),
    )


def _canonical(value: object) -> bytes:
    """As it was signed; nothing that a record could be where it has no such form."""
    try:
        return strictjson.canonical(value)  # type: ignore[arg-type]
    except ValueError:
        return b""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], command: MakeCommand) -> None:
    """The command lines of all of them."""
    got = command(commands, "get", "Show a decision, verified.")
    got.add_argument("address", metavar="ADDRESS", help="ucxl://agent:role@project:task[/VERSION][/path]")
    got.add_argument(
        "--provenance", action="store_true", help="as SLSA provenance: in-toto Statement in a DSSE envelope"
    )
    got.add_argument("--artifacts", metavar="DIR", help="write its artifacts there, verified; overwrites nothing")
    got.set_defaults(run=get)
    past = command(commands, "history", "List the versions of a decision, newest first.")
    past.add_argument("address", metavar="ADDRESS")
    past.add_argument("--limit", type=int, default=50, metavar="N", help="at most this many (50)")
    past.set_defaults(run=history)
    found = command(commands, "search", "Find decisions that the node knows of, newest first.")
    found.add_argument("pattern", metavar="ADDRESS", nargs="?", help="a pattern: `any` stands for every name")
    for part in PARTS:
        found.add_argument(f"--{part}", metavar="NAME", help=f"only this {part}")
    found.add_argument("--since", metavar="TIME", help="made then or later (2026-01-31T12:00:00Z)")
    found.add_argument("--until", metavar="TIME", help="made before")
    found.add_argument("--text", metavar="TEXT", action="append", help="words that all stand in it (repeatable)")
    found.add_argument("--limit", type=int, default=50, metavar="N", help="at most this many (50)")
    found.set_defaults(run=search)
    text = "Verify a decision with its whole chain: 0 clean, 1 false, 2 used wrongly or not there."
    proven = command(commands, "verify", text)
    proven.add_argument("address", metavar="ADDRESS")
    proven.set_defaults(run=verify)
    _add_put(command(commands, "put", "Publish a decision, for good; prints its address."))


def _add_put(placed: argparse.ArgumentParser) -> None:
    placed.add_argument("summary", metavar="SUMMARY", help="the decision in a sentence or two")
    placed.add_argument("--task", metavar="NAME", required=True, help="what it is on: a task's id, or another name")
    placed.add_argument("--kind", metavar="WORD", default="note", help="design, review, … (note)")
    placed.add_argument("--project", metavar="NAME", help="its project, as tasks have it")
    placed.add_argument("--role", metavar="ROLE", help="role to write it under, which decides who may read it")
    placed.add_argument("--path", metavar="PATH", help="path below the task, percent-encoded")
    placed.add_argument("--rationale", metavar="TEXT", help="why")
    placed.add_argument("--confidence", type=int, metavar="N", help="how sure, in thousandths (1000)")
    placed.add_argument("--alternative", action="append", metavar="TEXT", help="what was not chosen (repeatable)")
    placed.add_argument("--modified-file", action="append", metavar="PATH", help="a file that it changed (repeatable)")
    placed.add_argument("--supersedes", metavar="ADDRESS", help="a decision that it replaces")
    placed.set_defaults(run=put)
