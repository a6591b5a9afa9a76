"""What the status document says of a node's parts, beside what `NodeView` says by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chorus.seams import JSON
    from chorus.services.presence import Load


def members(
    parts: Mapping[str, Any], *, alone: Callable[[], str | None], load: Callable[[], Load]
) -> Sequence[tuple[str, Callable[[], JSON]]]:
    """Names and values for the parts that this node has (`runtime.NodeService.parts`)."""
    found = (("alone", alone), ("tasks", partial(_tasks, parts, load)), ("sandbox", partial(_sandbox, parts)))
    return (*found, ("clocks", parts["messaging"].wrong_clocks)) if "messaging" in parts else found


def _tasks(parts: Mapping[str, Any], load: Callable[[], Load]) -> JSON:
    now = load()
    counts: dict[str, JSON] = {"running_here": now.current_tasks, "maximum_here": now.max_tasks}
    if "executor" in parts:
        counts["unfinished"] = parts["coordinator"].active
    return counts


def _sandbox(parts: Mapping[str, Any]) -> JSON:
    sandbox = parts.get("sandbox")
    if sandbox is None:
        return {"usable": False, "detail": "open mode runs no tasks"}
    found: JSON = sandbox.status().to_json()
    return found
