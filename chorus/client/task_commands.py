"""Commands about tasks. Each takes the parsed options and the node's API, and returns the exit status."""

from __future__ import annotations

import sys
import urllib.parse
from pathlib import Path

from chorus.client import deliverables, missing, show, task_view
from chorus.client.api import NodeApi, decoded
from chorus.client.errors import EXIT_TASK_FAILED, EXIT_USAGE, ClientError, Refused
from chorus.client.fetch import Fetched, checked, into_directory, to_tar
from chorus.client.git import shown
from chorus.client.task_options import Document, Options, by_option, fields_of, title_of, wanted_of
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


def submit(options: Options, api: NodeApi) -> int:
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
        if options.json:
            show.json_line(task)
        else:
            show.note(f"task {task['id']} {task['state']}")
        return _follow(options, api, task["id"], 0)
    if options.json:
        show.document(task)
    else:
        print(show.safe(task["id"]))
        if task.get("message"):
            show.note(f"{task['message']}; follow it with `chorus task watch {task['id']}`")
    return 0


def watch(options: Options, api: NodeApi) -> int:
    return _follow(options, api, _id(api, options.task_id), options.after)


def list_tasks(options: Options, api: NodeApi) -> int:
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
    if options.json:
        show.document({"tasks": found, "next": after})
        return 0
    task_view.listing(found)
    return 0


def show_task(options: Options, api: NodeApi) -> int:
    task = api.json("GET", f"/v1/tasks/{_id(api, options.task_id)}")
    if options.json:
        show.document(task)
    else:
        task_view.whole(task)
    return 0


def cancel(options: Options, api: NodeApi) -> int:
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
        if not options.json:
            print(show.safe(f"{task['id']} {task['state']}"), flush=True)
    if options.json:
        show.document(cancelled[0] if len(options.task_ids) == 1 else {"tasks": cancelled})
    return refused.exit_status if refused else 0


def fetch_artifacts(options: Options, api: NodeApi) -> int:
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
        with show.bar("fetching", total) as advance:
            done = to_tar(api, found, sys.stdout.buffer, advance)
    else:
        targets = checked(found, Path(options.output or f"chorus-{task['id']}"), force=options.force)
        with show.bar("fetching", total) as advance:
            done = into_directory(api, targets, advance)
    lacking = missing.both(missing.left_out(task), len(done.failed), done.failed)
    if options.output != "-":
        _say_fetched(options, task, done, lacking)
    if options.logs:
        task_view.cut(task)
    lacking.say()
    return EXIT_TASK_FAILED if lacking else 0


def _check_stdout(options: Options) -> None:
    if options.json:
        raise ClientError("--json and --output - both want stdout; say one of them")
    if sys.stdout.isatty():
        raise ClientError("a tar archive is nothing for a terminal: add > FILE or | tar -x, or name a directory")


def _say_fetched(options: Options, task: Document, done: Fetched, lacking: missing.Missing) -> None:
    if options.json:
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


def _follow(options: Options, api: NodeApi, task_id: str, after: int) -> int:
    try:
        state = _events(options, api, task_id, after)
    except KeyboardInterrupt:
        show.note(f"the task goes on: `chorus task watch {task_id}` shows it, `chorus task cancel {task_id}` ends it")
        raise
    task = api.json("GET", f"/v1/tasks/{task_id}")
    lacking = missing.of(task)
    if not options.json and not options.no_summary:
        task_view.summary(task)
    # Said in any case, since the status says it too.
    lacking.say()
    # Without a state all events were before `after`.
    return 0 if (state or task["state"]) == "completed" and not lacking else EXIT_TASK_FAILED


def _events(options: Options, api: NodeApi, task_id: str, after: int) -> str | None:
    """Show every event; returns the state that the task ended in, None when it ended before."""
    if options.json:
        final = None
        for event in follow(api, task_id, after):
            show.json_line(event)
            if event["type"] == "state":
                final = event["data"]
        return (final or {}).get("state")
    summary = not options.no_summary
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


def _id(api: NodeApi, typed: str) -> str:
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
