"""The files under `blobs/`: durable, named by their content, moved into place whole. Blocking: call it in a thread.

blobs/ab/ab12…      a blob
blobs/tmp/          uploads under way; emptied at each start
blobs/quarantine/   files that no row knows (`quarantine.py`)
blobs/partial/      fetches under way: `<id>.<manifest>` with its `.json` manifest beside it; they outlive a restart
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from chorus.errors import LocalError
from chorus.files import FULL, is_shortage, sync_folder
from chorus.protocols.blobs import CHUNK, Manifest, ManifestBuilder, is_blob_id

MAX_PARTIALS = 16
"""Interrupted fetches that are kept, the newest; they are outside the quota of blobs."""
PARTIAL_AGE_S = 24 * 3600.0
"""How long an interrupted fetch is kept for its resumption."""
READ_SIZE = 1024 * 1024


class BlobStoreUnavailable(LocalError):
    """The disk under the blobs failed."""

    code = "blob_store_unavailable"
    http_status = 503


class BlobStoreShort(BlobStoreUnavailable):
    """This machine is out of descriptors or memory for now."""


class BlobStoreFull(LocalError):
    """No space, or over the quota of blobs; nothing of what was being stored is left."""

    code = "blob_store_full"
    http_status = 507


class DiskFull(BlobStoreFull):
    """No space on the disk, which may pass; a quota does not by itself."""


def refuse(problem: OSError) -> NoReturn:
    """Raise the error of the blobs that an `OSError` stands for."""
    if problem.errno in FULL:
        raise DiskFull("the disk under the blobs is full") from problem
    if is_shortage(problem):
        raise BlobStoreShort(f"the blobs cannot be used now: {problem.strerror}") from problem
    if problem.errno == errno.EFBIG:
        raise BlobStoreFull("the disk under the blobs is full") from problem
    raise BlobStoreUnavailable(f"the disk under the blobs failed: {problem.strerror}") from problem


@contextlib.contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        refuse(problem)


class BlobFiles:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._temporary = directory / "tmp"
        self._partial = directory / "partial"
        self._sequence = 0

    def path(self, sha256: str) -> Path:
        return self.directory / sha256[:2] / sha256

    def prepare(self, now: float) -> dict[str, int]:
        """Make the folders, drop what an earlier process left half done; returns the size of each blob file. `now` is
        in Unix seconds, as the stamps of files are."""
        with translated():
            self._make_folders()
            for left in self._temporary.iterdir():
                left.unlink()
            self.prune_partials(now, ())
            return {name: size for folder in self._shards() for name, size in _files(folder)}

    def create(self) -> BinaryIO:
        """A new temporary file."""
        self._sequence += 1
        return open(self._temporary / f"{os.getpid()}-{self._sequence}", "xb", buffering=0, opener=_opener)

    def keep(self, file: Path, sha256: str) -> None:
        """Give a synced file its name, durably."""
        path = self.path(sha256)
        if not path.parent.is_dir():
            path.parent.mkdir(0o700, exist_ok=True)
            sync_folder(self.directory)
        os.replace(file, path)
        sync_folder(path.parent)

    def intact(self, manifest: Manifest) -> bool:
        """True if the blob's file still has its content."""
        builder = ManifestBuilder()
        try:
            with open(self.path(manifest.sha256), "rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != manifest.size:
                    return False
                while data := file.read(READ_SIZE):
                    builder.update(data)
        except OSError:
            return False
        return builder.finish() == manifest

    def remove(self, sha256: str) -> None:
        with translated():
            self.path(sha256).unlink(missing_ok=True)

    def partial(self, manifest: Manifest) -> Partial:
        """Go on with an interrupted fetch of this very content, or begin one."""
        return Partial(self._partial / f"{manifest.sha256}.{manifest.digest[:16]}", manifest)

    def partial_manifests(self, sha256: str) -> list[bytes]:
        """Manifests of interrupted fetches of this blob, unchecked."""
        with translated():
            return [path.read_bytes() for path in sorted(self._partial.glob(f"{sha256}.*.json"))]

    def prune_partials(self, now: float, underway: Collection[str]) -> None:
        """Drop the interrupted fetches that are old or too many, but none of the blobs `underway`."""
        with translated():
            manifests = [path for path in self._partial.glob("*.json") if path.name.split(".")[0] not in underway]
            stamped = sorted(((path.stat().st_mtime, path) for path in manifests), reverse=True)
            for place, (changed, path) in enumerate(stamped):
                if place >= MAX_PARTIALS or changed < now - PARTIAL_AGE_S:
                    path.with_suffix("").unlink(missing_ok=True)
                    path.unlink()

    def _shards(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if len(path.name) == 2 and path.is_dir()]

    def _make_folders(self) -> None:
        made = False
        for folder in (self.directory, self._temporary, self._partial):
            if not folder.is_dir():
                folder.mkdir(0o700, parents=folder is self.directory)
                made = True
        if made:
            sync_folder(self.directory)
            sync_folder(self.directory.parent)


class Ingest:
    """One blob on its way in: hashed as it is written. Any error removes the file."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._builder = ManifestBuilder()
        with translated():
            self._file = files.create()
        self._path = Path(self._file.name)

    @property
    def path(self) -> Path:
        """Its temporary name."""
        return self._path

    @property
    def size(self) -> int:
        return self._builder.size

    def write(self, data: bytes) -> None:
        try:
            with translated():
                write_all(self._file, data)
        except BaseException:
            self.abort()
            raise
        self._builder.update(data)

    def sync(self) -> Manifest:
        """All content is here: make it durable under its temporary name."""
        try:
            with translated():
                os.fsync(self._file.fileno())
        except BaseException:
            self.abort()
            raise
        self._file.close()
        return self._builder.finish()

    def keep(self, sha256: str) -> None:
        with translated():
            self._files.keep(self._path, sha256)

    def abort(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class Partial:
    """A fetch on its way in, chunk by chunk in any order. Its content counts only after it was hashed again."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._path = path
        self._beside = path.with_name(path.name + ".json")
        with translated():
            known = path.exists()
            if not known:
                self._beside.write_bytes(manifest.encode())
            mode = "r+b" if known else "x+b"
            self._file = open(path, mode, buffering=0, opener=_opener)  # noqa: SIM115
        self._lock = threading.Lock()

    def present(self) -> list[int]:
        """Indexes of the chunks that are whole."""
        with self._lock, translated():
            if self._file.closed:
                raise BlobStoreUnavailable("the fetch was given up")
            indexes = range(len(self.manifest.chunks))
            return [index for index in indexes if self.manifest.matches(index, self._read(index))]

    def write(self, index: int, data: bytes) -> bool:
        """False, and nothing written, when it is not that chunk."""
        if not self.manifest.matches(index, data):
            return False
        # A fetch that is given up closes the file while a thread may be about to write; the number of a closed
        # descriptor may be another file's by then.
        with self._lock, translated():
            if self._file.closed:
                raise BlobStoreUnavailable("the fetch was given up")
            view = memoryview(data)
            offset = index * CHUNK
            while view:
                written = os.pwrite(self._file.fileno(), view, offset)
                offset += written
                view = view[written:]
        return True

    def whole(self) -> bool:
        """True if the chunks, which are all here, make up the blob; it is durable then."""
        builder = ManifestBuilder()
        with self._lock, translated():
            if self._file.closed:
                raise BlobStoreUnavailable("the fetch was given up")
            os.ftruncate(self._file.fileno(), self.manifest.size)
            self._file.seek(0)
            while data := self._file.read(READ_SIZE):
                builder.update(data)
            if builder.finish() != self.manifest:
                return False
            os.fsync(self._file.fileno())
        return True

    def read(self, index: int) -> bytes:
        """A chunk that was written."""
        with self._lock, translated():
            if self._file.closed:
                raise BlobStoreUnavailable("the fetch was given up")
            return self._read(index)

    def keep(self, files: BlobFiles) -> None:
        self.close()
        with translated():
            files.keep(self._path, self.manifest.sha256)
            self._beside.unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def discard(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)
        self._beside.unlink(missing_ok=True)

    def _read(self, index: int) -> bytes:
        return os.pread(self._file.fileno(), self.manifest.length(index), index * CHUNK)


def write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered file may take less than it was given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as found:
        for entry in found:
            if is_blob_id(entry.name) and entry.is_file(follow_symlinks=False):
                yield entry.name, entry.stat(follow_symlinks=False).st_size
