"""Source files of blobs: only regular files are opened, and read up to the size that they had then."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from chorus.errors import LocalError
from chorus.files import is_shortage
from chorus.services.blobs.files import READ_SIZE, refuse


class SourceUnreadable(LocalError):
    """A file that was to become a blob cannot be read."""

    code = "blob_source_unreadable"


def open_source(path: Path) -> tuple[IO[bytes], int]:
    """The file and its size. Raises `SourceUnreadable`, and `BlobStoreUnavailable` where descriptors or memory are
    short."""
    try:
        # Never wait for the other end of a pipe that somebody put in a file's place.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        if is_shortage(problem):
            refuse(problem)
        raise SourceUnreadable(f"{path} cannot be read: {problem.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SourceUnreadable(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb", buffering=0), status.st_size


def pieces(source: IO[bytes], size: int) -> Iterable[bytes]:
    """The content, at most `size` bytes of it. Raises `SourceUnreadable`."""
    left = size
    while left:
        try:
            data = source.read(min(READ_SIZE, left))
        except OSError as problem:
            raise SourceUnreadable(f"the file cannot be read: {problem.strerror}") from None
        if not data:
            return
        left -= len(data)
        yield data
