"""Puts aside, at a start, the blob files that no row of the database knows: after an older `chorus.db` was
restored they are the newer blobs, and come back with the rows. Blocking: call it in a thread.

blobs/quarantine/ab12…      kept for `QUARANTINE_S` from when it was put there
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from chorus.files import sync_folder
from chorus.protocols.blobs import is_blob_id
from chorus.services.blobs.files import BlobFiles, translated

FOLDER = "quarantine"
QUARANTINE_S = 30 * 24 * 3600.0
"""How long: as somebody needs to notice that a restored database is too old."""


@attrs.frozen
class Settled:
    """The findings of a start; sizes in bytes."""

    known: dict[str, int]
    """Blobs that have a row and their file."""
    returned: int
    """Of those, the ones that were brought back."""
    set_aside: int
    """Files that were put into the quarantine."""


class Quarantine:
    """Beside the blobs of `files`."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._folder = files.directory / FOLDER

    def settle(self, rows: Mapping[str, int], found: Mapping[str, int], now: float) -> Settled:
        """Make the files agree with `rows` (sizes by id); `found` are the files that are in their places. `now` is in
        Unix seconds."""
        with translated():
            kept = self._kept(now)
            known = {each: size for each, size in rows.items() if found.get(each) == size}
            returning = {each: size for each, size in rows.items() if each not in known and kept.get(each) == size}
            strangers = [each for each in found if each not in known and each not in returning]
            for each in strangers:
                self._set_aside(each, now)
            for each in returning:
                self._files.keep(self._folder / each, each)
            if strangers or returning:
                sync_folder(self._folder)
        return Settled(known | returning, len(returning), len(strangers))

    def _kept(self, now: float) -> dict[str, int]:
        """Sizes of what is in the quarantine; removes what has been there for too long."""
        if not self._folder.is_dir():
            return {}
        kept = {}
        for path in self._folder.iterdir():
            status = path.stat(follow_symlinks=False)
            if status.st_mtime < now - QUARANTINE_S:
                path.unlink()
            elif is_blob_id(path.name):
                kept[path.name] = status.st_size
        return kept

    def _set_aside(self, sha256: str, now: float) -> None:
        self._folder.mkdir(0o700, exist_ok=True)
        path: Path = self._files.path(sha256)
        os.utime(path, (now, now))
        os.replace(path, self._folder / sha256)
