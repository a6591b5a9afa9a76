"""Writes the members of an archive below a directory: each step relative to an open directory, never through a link.

Raises the `OSError` of what failed, and leaves what was written until then: `archives.unpack` removes it. Blocking.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import attrs

from chorus.sandbox.archive.member import ArchiveMember, ArchiveReader
from chorus.sandbox.archive.tree import ArchiveTree


@attrs.frozen
class Unpacked:
    """Totals of the written members."""

    members: int
    size: int


class Extraction:
    """`root`: the open directory, which stays the caller's to close. `owner` (uid, gid) needs root. `tree` is an empty
    one, and is filled here."""

    def __init__(self, root: int, owner: tuple[int, int] | None, tree: ArchiveTree) -> None:
        self._root = root
        self._owner = owner
        self._tree = tree
        self._directories: list[ArchiveMember] = []
        self._parent: tuple[str, int] | None = None

    def write(self, reader: ArchiveReader, stop: Callable[[], bool]) -> Unpacked:
        members = size = 0
        try:
            for member in reader:
                new = self._tree.add(member)
                for path in self._tree.new_directories:
                    self._make(ArchiveMember(path, "directory", mode=0o755))
                if new:
                    self._make(member, reader)
                members += 1
                size += member.size
            self._tree.check_links(stop)
            for member in reversed(self._directories):
                self._finish_directory(member)
        finally:
            self._leave()
        return Unpacked(members, size)

    def _make(self, member: ArchiveMember, reader: ArchiveReader | None = None) -> None:
        directory, _, leaf = member.path.rpartition("/")
        parent = self._enter(directory)
        if member.kind == "directory":
            os.mkdir(leaf, 0o700, dir_fd=parent)
            self._directories.append(member)
        elif member.kind == "symlink":
            os.symlink(member.target, leaf, dir_fd=parent)
            if self._owner:
                os.chown(leaf, *self._owner, dir_fd=parent, follow_symlinks=False)
        elif member.kind == "hardlink":
            os.link(member.target, leaf, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
        elif reader is not None:
            self._make_file(member, leaf, parent, reader)

    def _make_file(self, member: ArchiveMember, leaf: str, parent: int, reader: ArchiveReader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=parent)
        try:
            for data in reader.body():
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            if self._owner:
                os.fchown(fd, *self._owner)
            os.fchmod(fd, stat.S_IMODE(member.mode) & 0o777 | 0o600)
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _finish_directory(self, member: ArchiveMember) -> None:
        directory, _, leaf = member.path.rpartition("/")
        fd = os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._enter(directory))
        try:
            if self._owner:
                os.fchown(fd, *self._owner)
            os.fchmod(fd, member.mode & 0o777 | 0o700)
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _enter(self, path: str) -> int:
        """An open directory; the last one is kept, since members come folder by folder."""
        if not path:
            return self._root
        if self._parent and self._parent[0] == path:
            return self._parent[1]
        self._leave()
        fd = os.dup(self._root)
        for part in path.split("/"):
            try:
                deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        self._parent = (path, fd)
        return fd

    def _leave(self) -> None:
        if self._parent:
            os.close(self._parent[1])
            self._parent = None
