"""Reads a user's archive without trusting it: a strict parser for each format, limits checked while bytes stream.

Takes tar archives in ustar, GNU and pax form, plain or packed with gzip, bzip2 or xz, and zip archives. Refused with
`BadArchive`: absolute paths, `..`, links that leave the tree, members below a link, hard links to what is not a file of
the same archive, devices, fifos, sparse files, duplicates, and whatever passes a limit. Set-id bits are dropped. All of
it blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from chorus.sandbox.archive.decompression import HEAD, PackedSource
from chorus.sandbox.archive.extraction import Extraction, Unpacked
from chorus.sandbox.archive.limits import BadArchive, Bounds, Interrupted, NoSpace
from chorus.sandbox.archive.member import ArchiveMember, ArchiveReader
from chorus.sandbox.archive.tar_reader import TarReader
from chorus.sandbox.archive.tree import ArchiveTree
from chorus.sandbox.archive.zip_directory import is_zip
from chorus.sandbox.archive.zip_reader import ZipReader

__all__ = ["ArchiveMember", "BadArchive", "Bounds", "Interrupted", "NoSpace", "Unpacked", "listing", "names", "unpack"]


def _never() -> bool:
    return False


def listing(
    archive: Path, bounds: Bounds | None = None, stop: Callable[[], bool] = _never
) -> tuple[ArchiveMember, ...]:
    """Every member, checked as for unpacking; nothing is written. Raises `BadArchive`, `Interrupted`."""
    bounds = bounds or Bounds()
    tree = ArchiveTree(bounds)
    with archive.open("rb") as file:
        found = tuple(member for member in _reader(file, bounds, stop) if tree.add(member))
    tree.check_links(stop)
    return found


def names(archive: Path, bounds: Bounds | None = None) -> list[str]:
    """Paths of the members, for `languages.detect`. Raises `BadArchive`."""
    return [member.path for member in listing(archive, bounds)]


def unpack(
    archive: Path,
    into: Path,
    bounds: Bounds | None = None,
    *,
    owner: tuple[int, int] | None = None,
    stop: Callable[[], bool] = _never,
) -> Unpacked:
    """Write the tree into `into`, an existing directory that only the caller writes to. `owner` (uid, gid) needs root.

    All or nothing: on any error what was written is removed again. Raises `BadArchive`, `Interrupted`, `NoSpace`.
    """
    bounds = bounds or Bounds()
    root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with archive.open("rb") as file:
            return Extraction(root, owner, ArchiveTree(bounds)).write(_reader(file, bounds, stop), stop)
    except BaseException as error:
        _clear(into)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(str(into)) from None
        raise
    finally:
        os.close(root)


def _reader(file: IO[bytes], bounds: Bounds, stop: Callable[[], bool]) -> ArchiveReader:
    head = file.read(HEAD)
    file.seek(0)
    return ZipReader(file, bounds, stop) if is_zip(head) else TarReader(PackedSource(file, bounds, stop), bounds)


def _clear(directory: Path) -> None:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
