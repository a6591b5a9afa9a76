"""A directory as a tar archive, the same bytes for the same content.

`listing` says what belongs to it; what git ignores is left out, and `.git` always unless it is asked for. Names are
sorted; owners and times are fixed; of modes only the executable bit is kept. Links that leave the tree, devices and
sockets are left out and named, since a sandbox would refuse them.
"""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import attrs

from chorus.client.errors import ClientError
from chorus.client.git import GitFailed, shown
from chorus.client.git_folder import write_git_folder
from chorus.client.listing import GIT, Listing, everything, has_git, listing, work_tree_of

MTIME = 315_532_800
"""1980-01-01: the earliest time that zip files (and so Python's wheels) can hold."""


@attrs.frozen
class PackOptions:
    """A person's wishes beyond what git tracks or would add."""

    all_files: bool = False
    """Everything, and git is not asked."""
    include: tuple[str, ...] = ()
    """Paths below the directory that are taken along with everything in them."""
    with_git: bool = False
    """A `.git` for each work tree."""


@attrs.frozen
class Packed:
    """The content of an archive."""

    files: int
    size: int
    skipped: tuple[str, ...]
    """One line for each thing left out that git does not ignore."""


def pack(
    root: Path, out: IO[bytes], advance: Callable[[int], None] = lambda _: None, wanted: PackOptions | None = None
) -> Packed:
    """Write the tree under `root` to `out`; `advance` takes the bytes of each file read. Raises `ClientError`."""
    wanted = wanted or PackOptions()
    if not root.is_dir():
        raise ClientError(f"{shown(root)} is not a directory")
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        packing = _Packing(root, tar, advance)
        try:
            found = _listed(root, wanted)
            packing.skipped.extend(found.left_out)
            packing.add_all(found.names)
            if wanted.with_git:
                for name in _repositories(root, found):
                    packing.add_git(name)
        except OSError as error:
            if error.filename is None:
                raise ClientError(f"cannot write the archive: {error.strerror} (TMPDIR says where it lies)") from None
            raise ClientError(f"cannot read {shown(os.fsdecode(error.filename))}: {error.strerror}") from None
    return Packed(packing.files, out.tell(), tuple(packing.skipped))


def _listed(root: Path, wanted: PackOptions) -> Listing:
    if wanted.all_files:
        own = ("",) if has_git(root) else ()
        return Listing(frozenset(everything(root)), own, ())
    return listing(root, _included(root, wanted.include))


def _included(root: Path, include: Sequence[str]) -> tuple[str, ...]:
    """The paths of `--include`, normalised. Raises `ClientError`."""
    found = []
    for text in include:
        path = PurePosixPath(text)
        name, option = path.as_posix(), f"--include {shown(text)}"
        if path.is_absolute() or ".." in path.parts:
            raise ClientError(f"{option}: name it as it is called inside of {shown(root)}, without ..")
        if not path.parts:
            raise ClientError(f"{option}: name something inside of {shown(root)}; --all-files takes everything")
        if GIT in path.parts:
            raise ClientError(f"{option}: --with-git takes a .git along, without what is secret in it")
        link = next((each for each in path.parents if (root / each).is_symlink() and each.parts), None)
        if link is not None:
            raise ClientError(f"{option}: {shown(str(link))} is a link; name the folder that it leads to")
        if not os.path.lexists(root / path):
            raise ClientError(f"{option}: nothing of that name is in {shown(root)}")
        if (root / path).is_symlink() and not _stays(name, os.readlink(root / path)):
            raise ClientError(f"{option}: a link that leaves the directory")
        found.append(name)
    return tuple(found)


def _repositories(root: Path, found: Listing) -> tuple[str, ...]:
    if not found.repositories:
        top = work_tree_of(root)
        where = "no git work tree" if top is None else f"a folder of the work tree {shown(top)}, submit that"
        raise ClientError(f"--with-git: {shown(root)} is {where}")
    return found.repositories


class _Packing:
    """One archive on its way."""

    def __init__(self, root: Path, tar: tarfile.TarFile, advance: Callable[[int], None]) -> None:
        self._root = root
        self._tar = tar
        self._advance = advance
        self._folders = {".": True}
        self.skipped: list[str] = []
        self.files = 0

    def add_all(self, names: Iterable[str]) -> None:
        """The paths and the folders above them; paths that are no longer there are passed over."""
        listed = set(names)
        above = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents} - {"."}
        for name in sorted(listed | above):
            # An index names what was there: a folder may be a file or a link now, and nothing lies below those.
            if self._is_folder(PurePosixPath(name).parent.as_posix()) and (name in listed or self._is_folder(name)):
                self._add(self._root / name, name)

    def add_git(self, name: str) -> None:
        """The `.git` of the work tree `name`, made anew."""
        work_tree = self._root / name
        with tempfile.TemporaryDirectory(prefix="chorus-git-") as made:
            folder = Path(made) / GIT
            try:
                write_git_folder(work_tree, folder)
            except GitFailed as error:
                raise ClientError(f"--with-git: cannot copy the repository of {shown(work_tree)}: {error}") from None
            for each in (folder, *sorted(folder.rglob("*"))):
                self._add(each, (PurePosixPath(name) / each.relative_to(made)).as_posix())

    def _is_folder(self, name: str) -> bool:
        """True if it is a folder, and no part of its path a link."""
        known = self._folders.get(name)
        if known is None:
            known = self._is_folder(PurePosixPath(name).parent.as_posix()) and _is_directory(self._root / name)
            self._folders[name] = known
        return known

    def _add(self, path: Path, name: str) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            # Deleted, and git still lists it.
            return
        entry = tarfile.TarInfo(name)
        entry.mtime = MTIME
        entry.mode = 0o755 if stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IXUSR else 0o644
        if stat.S_ISDIR(status.st_mode):
            entry.type = tarfile.DIRTYPE
            self._tar.addfile(entry)
        elif stat.S_ISLNK(status.st_mode):
            self._add_link(path, entry)
        elif stat.S_ISREG(status.st_mode):
            self._add_file(path, entry, status)
        else:
            self.skipped.append(f"{shown(name)}: not a file, a directory or a link")

    def _add_link(self, path: Path, entry: tarfile.TarInfo) -> None:
        target = os.readlink(path)
        if not _stays(entry.name, target):
            self.skipped.append(f"{shown(entry.name)}: a link that leaves the directory")
            return
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
        self._tar.addfile(entry)
        self.files += 1

    def _add_file(self, path: Path, entry: tarfile.TarInfo, status: os.stat_result) -> None:
        # A pipe or a link that stands there by now is neither waited for nor followed.
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with os.fdopen(fd, "rb") as file:
            entry.size = status.st_size
            whole = _Whole(file, path)
            self._tar.addfile(entry, whole)  # type: ignore[arg-type]
            if whole.goes_on() or _identity(os.fstat(fd)) != _identity(status):
                raise _changed(path)
        self._advance(entry.size)
        self.files += 1


class _Whole:
    """A file that must hold as many bytes as it said; errors name it."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def read(self, count: int) -> bytes:
        try:
            data = self._file.read(count)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self._path)) from None
        if len(data) < count:
            raise _changed(self._path)
        return data

    def goes_on(self) -> bool:
        return bool(self._file.read(1))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns


def _changed(path: Path) -> ClientError:
    return ClientError(f"{shown(path)} changed while it was read: submit again when nothing writes to it")


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _stays(name: str, target: str) -> bool:
    """True if a link at `name` to `target` ends inside the tree, by the text alone."""
    if target.startswith("/"):
        return False
    depth = len(PurePosixPath(name).parent.parts)
    for part in target.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            return False
    return True
