"""Symbolic links of one tree, followed by their names alone: nothing here touches a disk.

The text of one link cannot say where it leads when it passes through another: `a/b/..` is `a` only where `b` is a
folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from chorus.sandbox.archive.limits import Interrupted

MAX_LINKS_FOLLOWED = 40
"""As the kernel's own limit for a path."""

STEPS_PER_STOP = 1024
"""Path components walked between two questions to `stop`."""


class Leaves(Exception):
    """The link leads out of the tree."""


class TooManySteps(Exception):
    """The links are too long to follow, or too many lead through one another."""


class Links:
    """`targets`: every link of the tree by its path, as written. `steps`: components walked before it is given up."""

    def __init__(self, targets: Mapping[str, str], steps: int, stop: Callable[[], bool] = lambda: False) -> None:
        self._targets = targets
        self._left = steps
        self._stop = stop
        self._deepest = max((path.count("/") + 1 for path in targets), default=0)

    def lead(self, path: str) -> str | None:
        """The end of the link at `path`: no link, the root being empty. None for a loop, which ends nowhere.

        Raises `Leaves`, `TooManySteps`, `Interrupted`.
        """
        here = path.split("/")[:-1]
        pending = _parts(self._targets[path])
        followed = 1
        while pending:
            self._step()
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not here:
                    raise Leaves
                here.pop()
                continue
            here.append(part)
            # Below the deepest link there is none to find, and joining gets dear.
            target = self._targets.get("/".join(here)) if len(here) <= self._deepest else None
            if target is not None:
                followed += 1
                if followed > MAX_LINKS_FOLLOWED:
                    return None
                here.pop()
                pending.extend(_parts(target))
        return "/".join(here)

    def _step(self) -> None:
        self._left -= 1
        if self._left % STEPS_PER_STOP == 0 and self._stop():
            raise Interrupted
        if self._left < 0:
            raise TooManySteps


def _parts(target: str) -> list[str]:
    """From the last to the first."""
    if target.startswith("/"):
        raise Leaves
    return target.split("/")[::-1]
