"""What each command does. Each takes the parsed options and the node's API, and returns the exit status."""

from __future__ import annotations

import argparse
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chorus.client import deliverables, missing, show, task_view
from chorus.client.api import Api, decoded
from chorus.client.errors import EXIT_TASK_FAILED, EXIT_USAGE, ClientError, Refused
from chorus.client.fetch import Fetched, checked, into_directory, to_tar
from chorus.client.git import shown
from chorus.client.task_options import by_option, fields_of, title_of, wanted_of
from chorus.client.upload import upload
from chorus.client.watch import TERMINAL, follow

STATES = (
    *("queued", "submitted", "assigned", "preparing", "running", "moved"),
    *("completed", "failed", "cancelled", "refused"),
)
PAGE = 200
MIN_PREFIX = 4
MAX_PAGES = 25
"""Looked through for a beginning of an id."""
FILLING = "0" * 26
MAX_SPEC = 1 << 20
EXAMPLE = "chorus task submit PATH -- COMMAND…"

Options = argparse.Namespace
Document = dict[str, Any]


def api_of(options: Options, environ: Mapping[str, str]) -> Api:
    return Api(environ, getattr(options, "api", None), getattr(options, "token", None))


def wants_json(options: Options) -> bool:
    return bool(getattr(options, "json", False))


def submit(options: Options, api: Api) -> int:
    """Pack, upload, submit; with --watch also follow."""
    # An unset variable of a script must not mean the current directory.
    if options.path == "":
        raise ClientError(f"PATH is empty; the current directory is written . : {EXAMPLE}")
    if options.spec == "":
        raise ClientError("--spec is empty; name a file, or - for stdin")
    body = _read_spec(options.spec) if options.spec else {}
    body.update(fields_of(options))
    path = None if options.path is None else Path(options.path)
    if path is not None and not path.exists():
        raise ClientError(f"{shown(path)} is not a directory or an archive; a command comes after --: {EXAMPLE}")
    wanted = wanted_of(options)
    # A specification that says nothing to run may have misspelt it: the node names what it does not know.
    if not options.spec and not body.get("commands"):
        raise ClientError(f"say what to run: {EXAMPLE}")
    if options.depends_on:
        body["depends_on"] = [_id(api, text) for text in options.depends_on]
    if path is not None:
        body["input"] = {"sha256": upload(api, path, wanted)}
        body.setdefault("title", title_of(path))
    try:
        task = api.json("POST", "/v1/tasks", body)
    except Refused as error:
        raise by_option(error, options) from None
    if options.watch:
        if wants_json(options):
            show.json_line(task)
        else:
            show.note(f"task {task['id']} {task['state']}")
        return _follow(options, api, task["id"], 0)
    if wants_json(options):
        show.document(task)
    else:
        print(show.safe(task["id"]))
        if task.get("message"):
            show.note(f"{task['message']}; follow it with `chorus task watch {task['id']}`")
    return 0


def watch(options: Options, api: Api) -> int:
    return _follow(options, api, _id(api, options.task_id), options.after)


def list_tasks(options: Options, api: Api) -> int:
    if options.limit < 1:
        raise ClientError("--limit must be 1 or more")
    found: list[Document] = []
    after: str | None = None
    while len(found) < options.limit:
        asked = {"limit": min(PAGE, options.limit - len(found)), "state": options.state, "after": after}
        query = urllib.parse.urlencode({name: value for name, value in asked.items() if value is not None})
        page = api.json("GET", f"/v1/tasks?{query}")
        found += page["tasks"]
        after = page["next"]
        if after is None:
            break
    if wants_json(options):
        show.document({"tasks": found, "next": after})
        return 0
    task_view.listing(found)
    return 0


def show_task(options: Options, api: Api) -> int:
    task = api.json("GET", f"/v1/tasks/{_id(api, options.task_id)}")
    if wants_json(options):
        show.document(task)
    else:
        task_view.whole(task)
    return 0


def cancel(options: Options, api: Api) -> int:
    """Every one that can be; the first refusal decides the exit status."""
    query = f"?{urllib.parse.urlencode({'reason': options.reason})}" if options.reason else ""
    cancelled: list[Document] = []
    refused: Refused | None = None
    for task_id in [_id(api, text) for text in options.task_ids]:
        try:
            task = api.json("DELETE", f"/v1/tasks/{task_id}{query}")
        except Refused as error:
            if len(options.task_ids) == 1:
                raise
            show.note(f"{task_id}: {error}")
            refused = refused or error
            continue
        cancelled.append(task)
        if not wants_json(options):
            print(show.safe(f"{task['id']} {task['state']}"), flush=True)
    if wants_json(options):
        show.document(cancelled[0] if len(options.task_ids) == 1 else {"tasks": cancelled})
    return refused.exit_status if refused else 0


def fetch_artifacts(options: Options, api: Api) -> int:
    """Everything that is there, also where something is missing; then the status is not 0."""
    task = api.json("GET", f"/v1/tasks/{_id(api, options.task_id)}")
    if task["state"] not in TERMINAL:
        raise ClientError(
            f"the task has not ended yet ({task['state']}), nothing is fetched: `chorus task watch {task['id']}` "
            "waits for its end",
            EXIT_TASK_FAILED,
        )
    found = deliverables.of(task, logs=options.logs)
    total = sum(item.size for item in found.items)
    if options.output == "-":
        _check_stdout(options)
        with show.bar("fetching", total) as told:
            done = to_tar(api, found, sys.stdout.buffer, told)
    else:
        targets = checked(found, Path(options.output or f"chorus-{task['id']}"), force=options.force)
        with show.bar("fetching", total) as told:
            done = into_directory(api, targets, told)
    lacking = missing.both(missing.left_out(task), len(done.failed), done.failed)
    if options.output != "-":
        _say_fetched(options, task, done, lacking)
    if options.logs:
        task_view.cut(task)
    lacking.say()
    return EXIT_TASK_FAILED if lacking else 0


def _check_stdout(options: Options) -> None:
    if wants_json(options):
        raise ClientError("--json and --output - both want stdout; say one of them")
    if sys.stdout.isatty():
        raise ClientError("a tar archive is nothing for a terminal: add > FILE or | tar -x, or name a directory")


def _say_fetched(options: Options, task: Document, done: Fetched, lacking: missing.Missing) -> None:
    if wants_json(options):
        files = [{"path": path, "sha256": item.sha256, "size": item.size} for path, item in done.files]
        entries = [{"path": path, "target": entry.target} for path, entry in done.entries]
        lost = {"total": lacking.total, "reasons": lacking.reasons}
        show.document({"task": task["id"], "files": files, "entries": entries, "missing": lost})
        return
    rows = [(path, show.size(item.size)) for path, item in done.files]
    for path, entry in done.entries:
        rows.append((f"{path}/", "folder") if entry.target is None else (f"{path} -> {entry.target}", "link"))
    if rows or not lacking:
        show.table(("file", "size"), rows, "the task left no artifacts")


def peers(options: Options, api: Api) -> int:
    found = api.json("GET", "/v1/peers")
    if wants_json(options):
        show.document(found)
        return 0
    # Nobody there may be as it should be, or a node that was refused.
    alone = None if found["peers"] else api.json("GET", "/v1/status")["alone"]
    nobody = show.safe(f"no peers: {alone}") if alone else "no peers"
    rows = [
        (
            peer["agent_id"] or "",
            peer["role"] or "",
            _availability(peer["availability"] or {}),
            "" if peer["latency_ms"] is None else f"{peer['latency_ms']:.1f} ms",
            "" if peer.get("score") is None else f"{peer['score']:.1f}",
            (peer["direction"] or "") + (", direct" if peer.get("direct") else ""),
            peer["address"] or "",
            peer["peer_id"],
        )
        for peer in found["peers"]
    ]
    show.table(("agent", "role", "state", "latency", "score", "direction", "address", "peer id"), rows, nobody)
    return 0


def _availability(said: Document) -> str:
    if said.get("max_tasks") == 0:
        return "runs no tasks"
    if said.get("status") == "ready" and said.get("available") is False:
        return "not available"
    return str(said.get("status", ""))


def status(options: Options, api: Api) -> int:
    found = api.json("GET", "/v1/status")
    if wants_json(options):
        show.document(found)
        return 0
    rows: list[tuple[str, object]] = [
        ("agent", found["agent_id"]),
        ("peer id", found["peer_id"]),
        ("cluster", found["cluster_id"]),
        ("version", found["version"]),
        ("role", found["role"]),
        ("state", found["state"]),
        ("up", f"{found['uptime_s']:.0f} s"),
        *(("" if at else "addresses", address) for at, address in enumerate(found["addresses"])),
        ("peers", f"{found['peers']}: {found['alone']}" if found["alone"] else found["peers"]),
        ("clocks", found.get("clocks")),
        ("tasks", _tasks_here(found.get("tasks") or {})),
        *_sandbox(found.get("sandbox") or {}),
    ]
    show.facts(rows)
    return 0


def _tasks_here(about: Document) -> str:
    words = []
    if "running_here" in about:
        words.append(f"{about['running_here']} of at most {about.get('maximum_here')} running here")
    if "unfinished" in about:
        words.append(f"{about['unfinished']} unfinished in all")
    return ", ".join(words)


def _sandbox(about: Document) -> list[tuple[str, object]]:
    backends: Document = about.get("backends") or {}
    usable = ", ".join(name for name, problem in backends.items() if problem is None)
    rows: list[tuple[str, object]] = [("sandbox", usable or ("usable" if about.get("usable") else "none is usable"))]
    rows += [("", f"not {name}: {problem}") for name, problem in backends.items() if problem is not None]
    if not backends and not about.get("usable"):
        rows.append(("", about.get("detail")))
    rows.append(("images", " ".join(about.get("images") or [])))
    rows.append(
        ("warm", ", ".join(f"{count} of {image}" for image, count in (about.get("warm") or {}).items() if count))
    )
    return rows


def openapi(options: Options, api: Api) -> int:
    show.document(api.json("GET", "/openapi.json", open_path=True))
    return 0


def messages(options: Options, api: Api) -> int:
    """Of this version of the software; no node is asked."""
    from chorus.client.messages import print_list, print_type

    if options.type is None:
        print_list(as_json=wants_json(options))
    else:
        print_type(options.type, as_json=wants_json(options))
    return 0


def token(options: Options, api: Api) -> int:
    """Reads the data directory; the node need not run."""
    from chorus.services.cluster import load_token

    found = load_token(api.data_dir)
    here_only = all(address.is_loopback for address in found.addresses)
    if wants_json(options):
        show.document(
            {
                "token": found.text(),
                "cluster_id": found.cluster_id.hex(),
                "peer_id": str(found.peer_id),
                "secret": found.secret.hex(),
                "addresses": [str(address) for address in found.addresses],
            }
        )
    elif options.raw:
        print(found.text())
    else:
        print(found.describe())
        other = "For another node on this machine" if here_only else "On the other machine"
        print(f"\n{other} (the token holds the cluster's secret):\n")
        print(f"  CHORUS_JOIN={found.text()} twistd chorus agent")
    if here_only:
        show.note(
            "the node listens for this machine alone, no other machine can join it with this token: set "
            "CHORUS_P2P_BIND (0.0.0.0: every interface), restart the node and ask again"
        )
    return 0


def _follow(options: Options, api: Api, task_id: str, after: int) -> int:
    try:
        state = _events(options, api, task_id, after)
    except KeyboardInterrupt:
        show.note(f"the task goes on: `chorus task watch {task_id}` shows it, `chorus task cancel {task_id}` ends it")
        raise
    task = api.json("GET", f"/v1/tasks/{task_id}")
    lacking = missing.of(task)
    if not wants_json(options) and not getattr(options, "no_summary", False):
        task_view.summary(task)
    # Said in any case, since the status says it too.
    lacking.say()
    # Without a state all events were before `after`.
    return 0 if (state or task["state"]) == "completed" and not lacking else EXIT_TASK_FAILED


def _events(options: Options, api: Api, task_id: str, after: int) -> str | None:
    """Show every event; returns the state that the task ended in, None when it ended before."""
    if wants_json(options):
        final = None
        for event in follow(api, task_id, after):
            show.json_line(event)
            if event["type"] == "state":
                final = event["data"]
        return (final or {}).get("state")
    summary = not getattr(options, "no_summary", False)
    with show.Follower(merged=options.merged, summary=summary) as follower:
        for event in follow(api, task_id, after, lost=follower.lost):
            follower.event(event)
    return (follower.final or {}).get("state")


def _read_spec(name: str) -> Document:
    try:
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:
            body = decoded(file.read(MAX_SPEC + 1))
    except OSError as error:
        raise ClientError(f"cannot read {name}: {error.strerror}") from None
    except ValueError as error:
        raise ClientError(f"{name} is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ClientError(f"{name} must hold a JSON object with the fields of a task")
    return body


def _id(api: Api, typed: str) -> str:
    """The id as typed, or the one task whose id begins so; what cannot be one never becomes part of a path."""
    from chorus.tasks.ids import is_task_id

    text = typed.strip().lower()
    if is_task_id(text):
        return text
    # Any id of that beginning ends like this one.
    if not MIN_PREFIX <= len(text) < len(FILLING) or not is_task_id(text + FILLING[len(text) :]):
        raise ClientError(f"{typed!r} is not a task id; `chorus task list` shows them", EXIT_USAGE)
    found, after = [], None
    for _ in range(MAX_PAGES):
        asked = {"limit": PAGE} if after is None else {"limit": PAGE, "after": after}
        page = api.json("GET", f"/v1/tasks?{urllib.parse.urlencode(asked)}")
        found += [str(task["id"]) for task in page["tasks"] if str(task["id"]).startswith(text)]
        after = page["next"]
        if after is None:
            break
    if len(found) == 1 and after is None:
        return found[0]
    if len(found) > 1:
        some = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise ClientError(f"{len(found)} tasks begin with {text}: {some}")
    if after is not None:
        raise ClientError(f"there are over {MAX_PAGES * PAGE} tasks: write the whole id")
    raise ClientError(f"no task begins with {text}; `chorus task list` shows them")
