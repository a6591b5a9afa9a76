"""Whether a result keeps to what its task allowed (pure): an agent may claim anything, and what it names is fetched.

The sandbox holds the same limits, so a result of an honest agent cannot pass them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chorus.protocols.task_messages import MAX_ARTIFACTS, TaskProtocolError

if TYPE_CHECKING:
    from chorus.seams import JSON

MIB = 1024 * 1024


class ResultOverLimits(TaskProtocolError):
    """A result that names more than its task may leave."""

    code = "result_over_limits"


def excess(spec: Mapping[str, JSON], result: Mapping[str, JSON]) -> str | None:
    """One line that says which limit of `spec` (as `TaskSpec.to_json`) is passed by `result` (a result document); None
    when none is. Sizes count once a row, as the sandbox counts them."""
    artifacts = result.get("artifacts")
    rows = [row for row in artifacts if isinstance(row, dict)] if isinstance(artifacts, list) else []
    if rows and spec.get("artifacts") == []:
        return f"{len(rows)} artifacts, where the task asks for none"
    if len(rows) > MAX_ARTIFACTS:
        return f"{len(rows)} artifacts, the most is {MAX_ARTIFACTS}"
    limits = spec.get("limits")
    if not isinstance(limits, dict):
        return None
    if (over := _over(sum(_number(row.get("size")) for row in rows), limits.get("disk_mb"))) is not None:
        return f"artifacts of {over} (disk_mb)"
    output = result.get("output")
    for stream, row in output.items() if isinstance(output, dict) else ():
        size = _number(row.get("bytes")) if isinstance(row, dict) else 0
        if (over := _over(size, limits.get("output_mb"))) is not None:
            return f"{stream} of {over} (output_mb)"
    return None


def _over(size: int, megabytes: JSON) -> str | None:
    if not isinstance(megabytes, int) or size <= megabytes * MIB:
        return None
    return f"{size} bytes, over the limit of {megabytes} MiB"


def _number(value: JSON) -> int:
    return value if isinstance(value, int) else 0
