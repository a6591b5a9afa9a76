"""Which questions to a node's parts are health checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from chorus import descriptors
from chorus.services.endpoints.node_view import Check

if TYPE_CHECKING:
    from chorus.services.endpoints.node_view import NodeView
    from chorus.services.presence import Load


def register(
    view: NodeView,
    parts: Mapping[str, Any],
    *,
    state: Callable[[], str],
    alone: Callable[[], str | None],
    load: Callable[[], Load],
    max_tasks: int,
) -> None:
    """Add every check of the parts that this node has (`runtime.NodeService.parts`)."""
    view.add_check(Check("node", lambda: None if state() == "running" else state(), critical=True))
    for name in ("p2p", "pubsub", "api"):
        view.add_check(Check(name, _running(parts, name), critical=True))
    running = _running(parts, "store")
    view.add_check(Check("store", lambda: running() or parts["store"].database.damage, critical=True))
    view.add_check(Check("peers", alone, critical=True))
    if "messaging" in parts:
        view.add_check(Check("clocks", parts["messaging"].wrong_clocks))
    if "executor" in parts:
        _tasks(view, parts, load, max_tasks)


def _running(parts: Mapping[str, Any], name: str) -> Callable[[], str | None]:
    return lambda: None if parts[name].running else f"{name} is not running"


def _tasks(view: NodeView, parts: Mapping[str, Any], load: Callable[[], Load], max_tasks: int) -> None:
    def capacity() -> str | None:
        now = load()
        return None if now.current_tasks < now.max_tasks else f"{now.current_tasks} of {now.max_tasks} tasks"

    view.add_check(Check("coordinator", _running(parts, "coordinator"), critical=True))
    if max_tasks:
        sandbox = parts["sandbox"]
        view.add_check(Check("sandbox", lambda: None if sandbox.usable else sandbox.status().detail, for_ready=True))
        view.add_check(Check("capacity", capacity, for_ready=True))
        view.add_check(Check("descriptors", descriptors.trouble, for_ready=True))
    view.add_check(Check("disk", parts["headroom"].disk, for_ready=True))
