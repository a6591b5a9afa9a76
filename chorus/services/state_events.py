"""The `state` event of a task, from the state machine's task (pure). docs/api.md has its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chorus.tasks.state import OWNED, State, TaskState

if TYPE_CHECKING:
    from chorus.seams import JSON, Document


def state_event(task: TaskState, agent_id: str | None) -> Document:
    """`agent_id` is the name of the task's agent, where it is known."""
    event: Document = {"state": str(task.state), "attempt": task.attempt}
    owned = task.state in OWNED
    # Waiting again, it is in no sandbox any more.
    placed = task.state is not State.SUBMITTED
    retry = task.retry
    optional: Document = {
        "reason": task.reason,
        "detail": task.detail,
        "agent": task.agent,
        "agent_id": agent_id,
        "fence": str(task.fence) if task.fence is not None else None,
        "sandbox": task.sandbox if placed else None,
        "image": task.image if placed else None,
        "retry": {"number": retry[0], "of": retry[1]} if retry is not None else None,
        "exit_code": (task.result or {}).get("exit_code") if not owned else None,
    }
    event.update({name: value for name, value in optional.items() if value is not None})
    return event


def differs(event: Mapping[str, JSON] | None, task: TaskState) -> bool:
    """Whether the newest state event does not tell of the task's state."""
    if event is None:
        return True
    fence = str(task.fence) if task.fence is not None else None
    return event.get("state") != task.state or event.get("attempt") != task.attempt or event.get("fence") != fence


def logged(event: Document) -> dict[str, object]:
    """What of it goes into the log: all but the detail, a text of the agent's that no redactor here has seen."""
    return {name: value for name, value in event.items() if name != "detail"}
