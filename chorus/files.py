"""Files of the data directory: read only when they are plain files, made whole or not at all. Blocking."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from chorus.errors import UserError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORTAGES = FULL | {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class DataDirectoryError(UserError):
    """The data directory cannot be used; the text names it."""

    code = "data_directory"


def is_shortage(error: OSError) -> bool:
    """The machine lacks something now that it may have again later: space, descriptors, memory."""
    return error.errno in _SHORTAGES


def kind(mode: int) -> str | None:
    """The kind of a path that is no plain file, with its article; None for a plain file."""
    if stat.S_ISREG(mode):
        return None
    return next((name for is_it, name in _KINDS if is_it(mode)), "of an unknown kind")


def open_plain(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A descriptor of a plain file. Raises `OSError`, with a `strerror` that names the kind of anything else.

    O_NONBLOCK: opening a named pipe must not wait for whoever is at its other end. No link is followed: who may write
    to the directory must not choose what is read or written elsewhere.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _wrong(path, os.lstat(path).st_mode) from None
        raise
    found = os.fstat(descriptor).st_mode
    if kind(found) is not None:
        os.close(descriptor)
        raise _wrong(path, found)
    return descriptor


def _wrong(path: Path, mode: int) -> OSError:
    return OSError(errno.EINVAL, f"it is {kind(mode)}, where a plain file belongs", str(path))


def read_plain(path: Path, limit: int) -> tuple[bytes, int]:
    """Up to `limit` bytes of a plain file, and its permission bits. Raises `OSError` as `open_plain` does."""
    descriptor = open_plain(path)
    with open(descriptor, "rb") as file:
        return file.read(limit), stat.S_IMODE(os.fstat(file.fileno()).st_mode)


def create_once(path: Path, content: bytes) -> None:
    """Write a new file (0600) that appears complete and on disk, or not at all.

    Raises `FileExistsError` if another process was first, and any other `OSError` with nothing left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _fill(descriptor, content)
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync_folder(path.parent)


def _fill(descriptor: int, content: bytes) -> None:
    """Write a private file (0600) to the disk, and close it."""
    with open(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` by a file of mode 0600, complete and on disk before it has its name. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    _fill(descriptor, content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def read_private(path: Path, limit: int) -> bytes | None:
    """The content, or `None` when there is no such file. Raises `DataDirectoryError` when others may read or change
    it, when it is over `limit` bytes, or when it cannot be read."""
    try:
        content, mode = read_plain(path, limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise DataDirectoryError(f"{path} is open to others (mode {mode:04o}): chmod 600 it")
    if len(content) > limit:
        raise DataDirectoryError(f"{path} is longer than {limit} bytes: it is not what this node wrote")
    return content
