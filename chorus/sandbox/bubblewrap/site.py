"""The part of the bubblewrap backend that its runs use."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from chorus.sandbox.bubblewrap.machine import Machine
from chorus.sandbox.leftovers import Leftovers
from chorus.sandbox.run import Site
from chorus.sandbox.uids import Uid, Uids


@attrs.frozen
class BubblewrapSite(Site):
    machine: Machine
    leftovers: Leftovers[tuple[Path, Path]]
    """Sandboxes that are over: the place where each was mounted, and its box."""
    uids: Uids
    tmp_mb: int | None

    def take_uid(self) -> Uid | None:
        """Of one task, under an agent that is root. Blocking. Raises `SandboxUnavailable`."""
        return self.uids.take() if os.geteuid() == 0 else None
