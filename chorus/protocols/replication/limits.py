"""Limits of the replicated journal (`/chorus/journal/1.0.0`), each with its reason."""

from __future__ import annotations

from typing import Final

import attrs

from chorus.backoff import Backoff

PROTOCOL: Final = "/chorus/journal/1.0.0"

MAX_ENTRY: Final = 1024 * 1024 + 64 * 1024
"""Bytes of one entry's data: a whole body of the API and what the journal adds to it."""
MAX_BATCH: Final = 128 * 1024
"""Bytes of data in one message, unless its first entry alone is larger: 64 tasks of 2 KiB, and what a slow line of
4 Mbit/s carries in a quarter of a second."""
MAX_BATCH_ENTRIES: Final = 512
"""As many as the store writes in one transaction."""
MAX_FRAME: Final = MAX_BATCH + MAX_ENTRY + 64 * 1024
"""Bytes of one message with the framing of its entries."""
MAX_INDEX: Final = 2**53 - 1
"""Indexes and terms that canonical JSON carries exactly: they stand in fences."""
RESEND: Final = Backoff(first=0.3, most=2.0)


@attrs.frozen
class JournalLimits:
    """How the admin streams to its followers. Times in seconds."""

    window: int = 16
    """Messages on their way to one follower; further entries wait and become larger batches."""
    window_bytes: int = 1024 * 1024
    """The same in bytes: what a follower that lags may cost in its connection's buffers."""
    resend: Backoff = RESEND
    """Silence after which entries are sent again: over a round trip across a continent and a slow fsync. A member that
    comes back is found after `most` at the latest."""
    slowest: int = 256 * 1024
    """Bytes a second that a line is expected to carry; silence is only counted after the time that this takes."""
    tell_s: float = 0.005
    """A new commit index waits so long for entries to travel with."""
    idle_s: float = 2.0
    """A follower without traffic is told the commit index so often: one that has started anew does not know it, and
    seven voters stay under the admin's budget of messages."""
    snapshot_s: float = 10.0
    """A wanted snapshot is asked for again after so long."""
    kept: int = 1024
    """Entries under a snapshot that stay in memory for followers and learners that are a little behind."""
    kept_bytes: int = 4 * 1024 * 1024
    """The same in bytes."""
