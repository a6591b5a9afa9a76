"""The data directory: private to its owner, held by one process at a time, its files replaced whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from chorus.files import DataDirectoryError, kind, open_plain
from chorus.identity import Identity

LOCK = "lock"
IDENTITY = "identity"
FOLDERS = ("blobs", "runs", "sandbox")
"""Names that must be directories where they exist; a link to one serves, to have blobs on a disk of their own."""
FILES = (
    *(
        IDENTITY,
        "cluster.json",
        "addresses.json",
        "peers.json",
        "ports.json",
        "last-ports.json",
        "api-token",
        "seqno",
        "starts.json",
    ),
    *("age.key", "keys.age", "roles.json"),
    *("chorus.db", "chorus.db-wal", "chorus.db-shm", "chorus.db-reserve"),
)
"""Names that must be plain files where they exist (docs/architecture.md, "The data directory")."""


class DataDirectoryInUse(DataDirectoryError):
    """Another process holds the directory."""

    code = "data_directory_in_use"

    def __init__(self, path: Path, pid: int | None) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"the data directory {path} is in use by {holder}: stop it, or give this node its own CHORUS_DATA_DIR"
        )
        self.path = path
        self.pid = pid


class DataDirectory:
    """Holds `path` from `acquire` to `release`. The lock goes with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def acquire(self) -> None:
        """Make the directory (mode 0700) and lock it. Raises `DataDirectoryInUse`, or `DataDirectoryError`.

        Idempotent. After a fork the child holds the lock too; `note_holder` then writes the process id that stays.
        """
        if self._lock is not None:
            return
        try:
            _prepare(self.path)
        except OSError as error:
            raise DataDirectoryError(f"the data directory {self.path} cannot be used: {error.strerror}") from error
        try:
            lock = open_plain(self.path / LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise DataDirectoryError(f"{self.path / LOCK} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(lock)
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise DataDirectoryInUse(self.path, holder) from None
            raise DataDirectoryError(f"the data directory {self.path} cannot be locked: {error.strerror}") from error
        self._lock = lock
        self.note_holder()
        try:
            self._check_kinds()
        except BaseException:
            self.release()
            raise

    def note_holder(self) -> None:
        """Write this process's id into the lock file, for the error line of the next one; a disk that is too full for
        it costs that line the number, and nothing else."""
        if self._lock is None:
            return
        holder = f"{os.getpid()}\n".encode()
        try:
            os.pwrite(self._lock, holder, 0)
            os.ftruncate(self._lock, len(holder))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._lock, 0)

    def _check_kinds(self) -> None:
        """Raise `DataDirectoryError` for a folder where a file belongs, a pipe where a folder belongs, and so on."""
        for name in FOLDERS:
            path = self.path / name
            if path.is_symlink() or path.exists():
                try:
                    mode = path.stat().st_mode
                except OSError as error:
                    raise DataDirectoryError(f"{path} cannot be used: {error.strerror}") from error
                if not stat.S_ISDIR(mode):
                    raise DataDirectoryError(f"{path} is {kind(mode) or 'a file'}, where a directory belongs")
        for name in FILES:
            path = self.path / name
            with contextlib.suppress(FileNotFoundError):
                if (found := kind(path.lstat().st_mode)) is not None:
                    raise DataDirectoryError(f"{path} is {found}, where a plain file belongs: move it away")

    def release(self) -> None:
        """Idempotent. The lock file stays: removing it would let two processes lock two files of one name."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def identity(self) -> Identity:
        """The node's identity, made at the first call ever. Raises `IdentityError`; needs the lock."""
        if self._lock is None:
            raise RuntimeError("the data directory is not held")
        return Identity.load_or_create(self.path / IDENTITY)


def _prepare(path: Path) -> None:
    """Make the directory, or check that an existing one is private; one of ours is made private again."""
    try:
        path.mkdir(mode=0o700, parents=True)
        return
    except FileExistsError:
        pass
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise DataDirectoryError(f"the data directory {path} is a file: set CHORUS_DATA_DIR to a directory")
    if os.geteuid() not in (0, status.st_uid):
        raise DataDirectoryError(f"the data directory {path} belongs to another user (id {status.st_uid})")
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077:
        return
    # Never take the rights away from a directory that is somebody's for something else, like /tmp.
    names = set(os.listdir(path))
    if names and LOCK not in names:
        raise DataDirectoryError(
            f"the data directory {path} is open to others (mode {mode:04o}) and holds other files: "
            f"chmod 700 it, or set CHORUS_DATA_DIR to a directory of its own"
        )
    path.chmod(0o700)


def _holder(lock: int) -> int | None:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else None
