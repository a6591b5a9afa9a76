"""The bounds of an input archive, and the refusal of one that is broken, dangerous or beyond them."""

from __future__ import annotations

import attrs

from chorus.errors import UserError

BLOCK = 512
"""Bytes of a tar header, and what a file's bytes are padded to."""

MAX_HEADER = 64 * 1024
"""Bytes of one extended header (long names, pax records): it is held in memory."""


class BadArchive(UserError):
    """The input archive is broken, dangerous or over a limit; the text names the member and what is wrong with it."""

    code = "bad_archive"
    http_status = 422


class Interrupted(Exception):
    """`stop()` said so: the run was cancelled while its input was unpacked."""


class NoSpace(Exception):
    """The tree does not fit where it is unpacked to."""


@attrs.frozen
class Bounds:
    """Limits of one archive."""

    max_bytes: int = 1 << 30
    """Of all files together, unpacked."""
    max_members: int = 100_000
    """Inodes and memory: one entry costs a few hundred bytes here. Directories that are only implied count as well."""
    max_names: int = 32 << 20
    """Characters of all paths and link targets together, implied directories too: they are held in memory."""
    max_path: int = 1024
    """Bytes of a member's path; deeper trees break tools inside."""
    max_component: int = 255
    """Bytes of one name: the file system's own limit."""
    max_depth: int = 48
    max_ratio: int = 250
    """Unpacked to packed bytes, past `RATIO_FLOOR`; text reaches 20, logs 100."""

    @property
    def max_stream(self) -> int:
        """Bytes of the whole archive, unpacked: headers and padding come on top of the files' bytes."""
        return self.max_bytes + self.max_members * (4 * BLOCK) + MAX_HEADER
