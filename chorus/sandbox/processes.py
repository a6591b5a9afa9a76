"""Looking at the processes of a sandbox that no control group counts. Blocking, but only on /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import attrs

PAGE = os.sysconf("SC_PAGE_SIZE")

MAX_LOOKED_AT = 20_000
"""A tree larger than this is over any limit; looking on would only help it."""


@attrs.frozen
class Tree:
    """A process and its descendants: threads count as processes, as they do for `pids`. Memory is in bytes, and a page
    that several processes share counts for each."""

    pids: int = 0
    memory: int = 0
    cpu_s: float = 0.0


def tree(root: int) -> Tree:
    """What descends from `root` now. In a pid namespace nothing gets away from its first process."""
    pids = memory = ticks = 0
    stack = [root]
    looked_at = 0
    while stack and looked_at < MAX_LOOKED_AT:
        pid = stack.pop()
        looked_at += 1
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            pids += int(fields[17])
            ticks += int(fields[11]) + int(fields[12])
            memory += int((folder / "statm").read_text().split()[1]) * PAGE
            for thread in os.listdir(folder / "task"):
                stack += [int(child) for child in (folder / "task" / thread / "children").read_text().split()]
    return Tree(pids, memory, ticks / os.sysconf("SC_CLK_TCK"))


def alive(pid: int) -> bool:
    """Not gone and no zombie. The first process of a pid namespace is a zombie only when all others are gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
