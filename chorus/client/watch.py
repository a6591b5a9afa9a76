"""Following a task: events from its stream, over reconnections, until it has ended."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from chorus.client.api import NodeApi, decoded
from chorus.client.errors import NoNode, Refused

PATIENCE_S = 120.0
"""How long a node that went away may take to come back."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 5.0
TERMINAL = frozenset({"completed", "failed", "cancelled", "refused"})

Event = dict[str, Any]


def parse_events(lines: Iterable[bytes]) -> Iterator[Event]:
    """The `data` of each server-sent event. An incomplete event at the end is dropped, as the standard says."""
    data: list[bytes] = []
    for line in lines:
        if not line:
            if data:
                yield decoded(b"\n".join(data))
            data = []
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))


def follow(
    api: NodeApi,
    task_id: str,
    after: int = 0,
    *,
    lost: Callable[[str], None] = lambda _: None,
    patience: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Every event after `after`, once each and in order; ends with the task. Raises `ClientError`; `NoNode` only after
    the node has been away for `patience` seconds, `lost` hears why it went."""
    wait, away_since = FIRST_WAIT_S, None
    connected = False
    while True:
        begun = after
        try:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            with api.request("GET", f"/v1/tasks/{task_id}/events", headers=headers) as answer:
                connected, away_since = True, None
                if answer.status == 204:
                    return
                for event in parse_events(answer.lines()):
                    if event["id"] > after:
                        after = event["id"]
                        yield event
                        if event["type"] == "state" and event["data"].get("state") in TERMINAL:
                            return
            reason = "the stream ended"
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
        except Refused as error:
            if error.status != 503:
                raise
            reason = str(error)
        except NoNode as error:
            if not connected:
                raise
            reason = str(error)
        now = clock()
        away_since = now if away_since is None else away_since
        if now - away_since > patience:
            raise NoNode(
                f"the node has not come back for {patience:.0f} s; `chorus task watch {task_id}` goes on later"
            )
        if after > begun:
            wait = FIRST_WAIT_S
        lost(reason)
        sleep(wait)
        wait = min(LONGEST_WAIT_S, wait * 2)
