"""What each command does. Each takes the parsed options and the node's API, and returns the exit status."""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import sys
import tarfile
import tempfile
import urllib.parse
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from chorus.client import show
from chorus.client.api import BLOCK, Api, Progress, decoded
from chorus.client.errors import EXIT_TASK_FAILED, EXIT_USAGE, ClientError, Refused
from chorus.client.fetch import Item, checked, fetch
from chorus.client.pack import pack
from chorus.client.watch import follow

STATES = ("queued", "submitted", "assigned", "running", "completed", "failed", "cancelled", "refused")
PAGE = 200
EXAMPLE = "chorus task submit PATH -- COMMAND…"
MAX_SPEC = 1 << 20
MEMORY = 8 * 1024 * 1024
"""Archives up to this stay in memory until they are sent."""

Options = argparse.Namespace
Document = dict[str, Any]


def api_of(options: Options, environ: Mapping[str, str]) -> Api:
    return Api(environ, getattr(options, "api", None), getattr(options, "token", None))


def wants_json(options: Options) -> bool:
    return bool(getattr(options, "json", False))


def submit(options: Options, api: Api) -> int:
    """Pack, upload, submit; with --watch also follow."""
    body = _read_spec(options.spec) if options.spec else {}
    body.update(_fields(options))
    if options.path is not None:
        body["input"] = {"sha256": _upload(api, Path(options.path))}
        body.setdefault("title", Path(options.path).resolve().name[:200])
    if not body.get("commands") and not body.get("ai"):
        raise ClientError(f"say what to run: {EXAMPLE}")
    task = api.json("POST", "/v1/tasks", body)
    if options.watch:
        if wants_json(options):
            show.json_line(task)
        else:
            show.note(f"task {task['id']} {task['state']}")
        return _follow(options, api, task["id"], 0)
    if wants_json(options):
        show.document(task)
    else:
        print(task["id"])
        if task.get("message"):
            show.note(f"{task['message']}; follow it with `chorus task watch {task['id']}`")
    return 0


def watch(options: Options, api: Api) -> int:
    return _follow(options, api, _id(options), options.after)


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
    rows = [
        (
            task["id"],
            task["state"],
            task["reason"] or "",
            task["agent_id"] or task["agent"] or "",
            show.moment(task["created_at"]),
            task["title"],
        )
        for task in found
    ]
    show.table(("id", "state", "reason", "agent", "created", "title"), rows, "no tasks")
    return 0


def show_task(options: Options, api: Api) -> int:
    task = api.json("GET", f"/v1/tasks/{_id(options)}")
    if wants_json(options):
        show.document(task)
    else:
        _show(task)
    return 0


def cancel(options: Options, api: Api) -> int:
    query = f"?{urllib.parse.urlencode({'reason': options.reason})}" if options.reason else ""
    task = api.json("DELETE", f"/v1/tasks/{_id(options)}{query}")
    if wants_json(options):
        show.document(task)
    else:
        print(f"{task['id']} {task['state']}")
    return 0


def fetch_artifacts(options: Options, api: Api) -> int:
    task = api.json("GET", f"/v1/tasks/{_id(options)}")
    items = [Item(each["path"], each["sha256"], each["size"]) for each in task["artifacts"]]
    if options.logs:
        for stream, row in (task["output"] or {}).items():
            if row.get("sha256"):
                items.append(Item(f"{stream}.log", row["sha256"], row["bytes"]))
    directory = Path(options.output or f"chorus-{task['id']}")
    targets = checked(items, directory, force=options.force)
    with show.bar("fetching", sum(item.size for item in items)) as told:
        for item, target in targets:
            fetch(api, item, target, told)
    if wants_json(options):
        files = [{"path": str(target), "sha256": item.sha256, "size": item.size} for item, target in targets]
        show.document({"task": task["id"], "files": files})
    else:
        show.table(("file", "size"), [(target, show.size(item.size)) for item, target in targets], _nothing(task))
    return 0


def peers(options: Options, api: Api) -> int:
    found = api.json("GET", "/v1/peers")
    if wants_json(options):
        show.document(found)
        return 0
    rows = [
        (
            peer["agent_id"] or "",
            peer["role"] or "",
            _availability(peer["availability"] or {}),
            "" if peer["latency_ms"] is None else f"{peer['latency_ms']:.1f} ms",
            peer["direction"] or "",
            peer["address"] or "",
            peer["peer_id"],
        )
        for peer in found["peers"]
    ]
    show.table(("agent", "role", "state", "latency", "direction", "address", "peer id"), rows, "no peers")
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
        ("addresses", "  ".join(found["addresses"])),
        ("peers", found["peers"]),
    ]
    for name in ("tasks", "sandbox"):
        about = found.get(name) or {}
        rows.append(
            (name, ", ".join(f"{key} {_plain(value)}" for key, value in about.items() if value not in (None, "")))
        )
    show.facts(rows)
    return 0


def openapi(options: Options, api: Api) -> int:
    show.document(api.json("GET", "/openapi.json", open_path=True))
    return 0


def token(options: Options, api: Api) -> int:
    """Reads the data directory; the node need not run."""
    from chorus.services.cluster import load_token

    found = load_token(api.data_dir)
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
        print("\nOn the other machine (the token holds the cluster's secret):\n")
        print(f"  CHORUS_JOIN={found.text()} twistd chorus agent")
    return 0


def _follow(options: Options, api: Api, task_id: str, after: int) -> int:
    try:
        state = _events(options, api, task_id, after)
    except KeyboardInterrupt:
        show.note(f"the task goes on: `chorus task watch {task_id}` shows it, `chorus task cancel {task_id}` ends it")
        raise
    if state is None:
        # All events were before `after`.
        state = api.json("GET", f"/v1/tasks/{task_id}")["state"]
    if not wants_json(options):
        _summary(api.json("GET", f"/v1/tasks/{task_id}"))
    return 0 if state == "completed" else EXIT_TASK_FAILED


def _events(options: Options, api: Api, task_id: str, after: int) -> str | None:
    """Show every event; returns the state that the task ended in, None when it ended before."""
    if wants_json(options):
        final = None
        for event in follow(api, task_id, after):
            show.json_line(event)
            if event["type"] == "state":
                final = event["data"]
        return (final or {}).get("state")
    with show.Follower() as follower:
        for event in follow(api, task_id, after, lost=follower.lost):
            follower.event(event)
    return (follower.final or {}).get("state")


def _summary(task: Document) -> None:
    words = [f"{task['id']} {task['state']}"]
    if task["reason"]:
        words.append(f"({task['reason']}" + (f" {task['exit_code']})" if task["exit_code"] is not None else ")"))
    if task["agent"]:
        words.append(f"on {task['agent_id'] or task['agent']}")
    if task["sandbox"]:
        words.append(f"in {task['sandbox']}")
    show.note(" ".join(words) + (f": {task['detail']}" if task["detail"] and task["state"] != "completed" else ""))
    for name in task.get("truncated") or []:
        kept = ((task["output"] or {}).get(name) or {}).get("bytes")
        show.note(f"{name} was cut" + (f" at {show.size(kept)}" if kept else ""))
    if task["artifacts"]:
        count = len(task["artifacts"])
        show.note(f"{count} artifact{'s' if count > 1 else ''}: chorus task fetch {task['id']}")


def _show(task: Document) -> None:
    output = task["output"] or {}
    show.facts(
        [
            ("id", task["id"]),
            ("title", task["title"]),
            ("state", task["state"]),
            ("reason", task["reason"]),
            ("detail", task["detail"]),
            ("exit code", task["exit_code"]),
            ("attempt", task["attempt"] or None),
            ("agent", task["agent_id"] and f"{task['agent_id']} ({task['agent']})"),
            ("sandbox", task["sandbox"]),
            ("image", task["image"]),
            ("created", show.moment(task["created_at"])),
            ("started", show.moment(task["started_at"])),
            ("ended", show.moment(task["ended_at"])),
            ("depends on", " ".join(task["depends_on"])),
            *((name, show.size(row["bytes"])) for name, row in output.items() if row["bytes"]),
            *(("cut", name) for name in task.get("truncated") or []),
            *(("caveat", text) for text in task.get("caveats") or []),
            *(("artifact", f"{each['path']} ({show.size(each['size'])})") for each in task["artifacts"]),
        ]
    )


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


def _fields(options: Options) -> Document:
    """The fields that options name."""
    required = {
        "role": options.require_role,
        "expertise": options.require_expertise,
        "capabilities": options.require_capability,
    }
    limits = {
        "timeout_s": options.timeout,
        "cpu": options.cpu,
        "memory_mb": options.memory,
        "disk_mb": options.disk,
    }
    fields: Document = {
        "title": options.title,
        "description": options.description,
        "project": options.project,
        "language": options.language,
        "image": options.image,
        "artifacts": options.artifact,
        "depends_on": options.depends_on,
        "priority": options.priority,
        "retries": options.retries,
        "idempotency_key": options.idempotency_key,
        "required": {name: value for name, value in required.items() if value is not None} or None,
        "limits": {name: value for name, value in limits.items() if value is not None} or None,
        "env": dict(_variable(text) for text in options.env) if options.env else None,
        # One word is a shell line, several are the words of one command.
        "commands": None if not options.argv else [options.argv[0] if len(options.argv) == 1 else options.argv],
    }
    return {name: value for name, value in fields.items() if value is not None}


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ClientError(f"--env {text}: write NAME=VALUE")
    return name, value


def _upload(api: Api, path: Path) -> str:
    """Upload a directory as an archive, or an archive as it is; returns its SHA-256."""
    if path.is_file():
        try:
            with path.open("rb") as file:
                if not _is_archive(file):
                    raise ClientError(f"{path} is not a tar archive; name a directory and it becomes one")
                return _put(api, file)
        except OSError as error:
            raise ClientError(f"cannot read {path}: {error.strerror}") from None
    if not path.exists():
        raise ClientError(f"{path} is not a directory or an archive; a command comes after --: {EXAMPLE}")
    with tempfile.SpooledTemporaryFile(MEMORY) as file:
        with show.bar("packing", None) as told:
            packed = pack(path, file, told)
        for line in packed.skipped:
            show.note(f"left out {line}")
        if not packed.files:
            raise ClientError(f"{path} holds no files")
        return _put(api, file)


def _is_archive(file: IO[bytes]) -> bool:
    try:
        return tarfile.is_tarfile(file)
    except (EOFError, ValueError, zlib.error, lzma.LZMAError):
        # Damaged inside of its compression.
        return False


def _put(api: Api, file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while data := file.read(BLOCK):
        digest.update(data)
    length = file.tell()
    file.seek(0)
    headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream", "Accept": "application/json"}
    try:
        with (
            show.bar("uploading", length) as told,
            api.request("PUT", f"/v1/blobs/{digest.hexdigest()}", Progress(file, told), headers) as answer,
        ):
            answer.read()
    except Refused as error:
        if error.status == 413:
            raise ClientError(
                f"the input ({show.size(length)}) is larger than the node takes (CHORUS_MAX_BLOB_MB)"
            ) from None
        raise
    return digest.hexdigest()


def _id(options: Options) -> str:
    """The id as typed; what cannot be one never becomes part of a path."""
    from chorus.tasks.ids import is_task_id

    text = str(options.task_id).strip().lower()
    if not is_task_id(text):
        raise ClientError(f"{options.task_id!r} is not a task id; `chorus task list` shows them", EXIT_USAGE)
    return text


def _nothing(task: Document) -> str:
    return "the task left no artifacts" if task["ended_at"] else "the task has not ended yet"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
