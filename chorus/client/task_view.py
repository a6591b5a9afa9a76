"""Views of a task for a person: in a list, by itself, and at its end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from chorus.client import missing, show

MAX_HEADING = 80
"""Characters of a command that stands in for a title."""

Document = dict[str, Any]


def listing(tasks: Sequence[Document]) -> None:
    """One row a task."""
    rows = [
        (
            task["id"],
            task["state"],
            task["reason"] or "",
            task["agent_id"] or task["agent"] or "",
            show.moment(task["created_at"]),
            heading(task),
        )
        for task in tasks
    ]
    columns = ("id", "state", "reason", "agent", "created", "title")
    show.table(columns, rows, "no tasks", folds=True, spare=("created", "reason"))


def heading(task: Document) -> str:
    """The title, or the first line of the first command in its place. Of a task, or of its summary in a list."""
    if task["title"] or not (lines := commands(task) if "spec" in task else [task.get("command") or ""]):
        return str(task["title"])
    line = lines[0].strip().split("\n", 1)[0]
    return line if len(line) <= MAX_HEADING else f"{line[: MAX_HEADING - 1]}…"


def commands(task: Document) -> list[str]:
    """As lines for a shell."""
    return [each if isinstance(each, str) else shlex.join(each) for each in task["spec"].get("commands") or []]


def whole(task: Document) -> None:
    """Everything about one."""
    output = task["output"] or {}
    show.facts(
        [
            ("id", task["id"]),
            ("title", task["title"]),
            *(("" if at else "command", line) for at, line in enumerate(commands(task))),
            ("shell", task["spec"].get("shell")),
            ("limits", _limits(task["spec"].get("limits") or {})),
            ("required", _required(task["spec"].get("required") or {})),
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
            *(("artifact", _entry(each)) for each in task.get("entries") or []),
            *_decision(task.get("decision")),
            *(("missing", line.removeprefix("missing: ")) for line in missing.of(task).lines()),
        ]
    )


def _decision(decision: Document | None) -> list[tuple[str, str]]:
    if decision is None:
        return []
    state = decision["state"]
    if decision["wanted"]:
        state += f", at {decision['holders']} of {decision['wanted']} machines"
    return [("decision", decision["address"]), ("", state)]


def _entry(entry: Document) -> str:
    return f"{entry['path']} -> {entry['target']}" if entry.get("target") else f"{entry['path']}/ (empty)"


def _limits(limits: Document) -> str:
    shown = (
        ("timeout_s", "time {:g} s"),
        ("cpu", "cores {:g}"),
        ("memory_mb", "memory {} MB"),
        ("disk_mb", "disk {} MB"),
        ("pids", "processes {}"),
        ("output_mb", "output {} MB"),
    )
    return ", ".join(words.format(limits[name]) for name, words in shown if limits.get(name) is not None)


def _required(required: Document) -> str:
    words = [f"role {required['role']}"] if required.get("role") else []
    words += [f"{name} {' '.join(required[name])}" for name in ("expertise", "capabilities") if required.get(name)]
    return ", ".join(words)


def cut(task: Document) -> None:
    """Names output that was longer than the part that is kept."""
    for name in task.get("truncated") or []:
        kept = ((task["output"] or {}).get(name) or {}).get("bytes")
        show.note(f"{name} was cut" + (f" at {show.size(kept)}" if kept else ""))


def summary(task: Document) -> None:
    """The last lines about a task that was watched."""
    words = [f"{task['id']} {task['state']}"]
    if task["reason"]:
        words.append(f"({task['reason']}" + (f" {task['exit_code']})" if task["exit_code"] is not None else ")"))
    if task["agent"]:
        words.append(f"on {task['agent_id'] or task['agent']}")
    if task["sandbox"]:
        words.append(f"in {task['sandbox']}")
    show.note(" ".join(words) + (f": {task['detail']}" if task["detail"] and task["state"] != "completed" else ""))
    cut(task)
    if count := len(task["artifacts"]) + len(task.get("entries") or []):
        show.note(f"{count} artifact{'s' if count > 1 else ''}: chorus task fetch {task['id']}")
