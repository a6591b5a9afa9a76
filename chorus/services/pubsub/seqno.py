"""First sequence number of a start: above all that the node has ever used, whatever its clock shows now.

Members refuse a number that is not above what they have forgotten of its publisher (`gossipsub/history.py`). By
the clock alone, a node whose clock was set back between two starts would be ignored until it is as late again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from chorus.files import DataDirectoryError, is_shortage, read_private, write_private

FILE: Final = "seqno"

RESERVED: Final = 1 << 40
"""Numbers that a start may use, on disk before the first of them: more than a thousand messages a second for 30 years.
As nanoseconds they are 18 minutes, so that a clock which goes right is above them again soon."""

_LENGTH: Final = 20
"""Digits of 2⁶⁴: numbers are 8 bytes on the wire."""


def begin(wall_ns: int, reserved: int) -> tuple[int, int]:
    """(the first number of this start, what the next start must not be below). `wall_ns` is the Unix time, `reserved`
    what the last start left here, 0 when there was none."""
    first = max(wall_ns, reserved)
    return first, first + RESERVED


def first_seqno(folder: Path, wall_ns: int) -> int:
    """Raises `DataDirectoryError`. A damaged file and a full disk are no reasons not to start: then the clock decides,
    now or the next time."""
    text = read_private(folder / FILE, _LENGTH) or b""
    reserved = int(text) if text.isdigit() else 0
    # A number near the end of what fits is not ours: nothing could be published after it.
    first, after = begin(wall_ns, reserved if reserved < 1 << 63 else 0)
    try:
        write_private(folder / FILE, str(after).encode())
    except OSError as error:
        if not is_shortage(error):
            raise DataDirectoryError(f"{folder / FILE} cannot be written: {error.strerror}") from error
    return first
