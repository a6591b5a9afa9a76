"""The walk through a task's output: everything that matches its patterns, each folder entered by a descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

from chorus.sandbox.archive.member import LATEST
from chorus.sandbox.files import trees
from chorus.sandbox.files.omissions import Omissions
from chorus.sandbox.globs import Globs

MAX_ENTRIES = 100_000
"""Directory entries looked at."""

MAX_PATH = 1024
"""Bytes of an artifact's path, as of a path in an input archive; so folders are entered down to half as many levels."""


@attrs.frozen
class Found:
    """Something that matches. `directory`: the open folder that it lies in, while the walk stays there."""

    path: str
    directory: int
    name: str
    kind: Literal["file", "link", "folder", "special"]
    mode: int = 0
    mtime: float = 0.0


@attrs.frozen
class _Level:
    """A folder on the way to the one looked at."""

    prefix: str
    states: int
    """Of the patterns, after the prefix."""
    folders: list[str]
    """Still to be entered, the last one first."""


class Walk:
    """Everything that matches below a folder. What is too deep, or beyond `MAX_ENTRIES` or what its patterns may cost
    (`globs.MAX_WORK`), is noted in `omitted`."""

    def __init__(self, globs: Globs, omitted: Omissions) -> None:
        self.globs = globs
        self.omitted = omitted
        self.states = 0
        """Of the patterns, after each path that matches, all together."""
        self.complete = True
        self._seen = 0

    def found(self, root: Path) -> Iterator[Found]:
        with trees.OpenFolder(root, insist=True) as place:
            levels: list[_Level] = []
            prefix, states = "", self.globs.start
            folder: Found | None = None
            while True:
                folders, others = _sorted(place)
                if folder is not None and not folders and not others:
                    yield folder
                for entry in others:
                    if not self._counted(f"{prefix}{entry.name}"):
                        return
                    if self._matches(self.globs.feed(states, entry.name)) and self._short(prefix + entry.name):
                        yield _found(f"{prefix}{entry.name}", place.fd, entry)
                levels.append(_Level(prefix, states, folders))
                entered = self._next(place, levels)
                if entered is None:
                    return
                prefix, states, folder = entered

    def _next(self, place: trees.OpenFolder, levels: list[_Level]) -> tuple[str, int, Found | None] | None:
        """Enter the next folder in which something may match: its prefix and states, and the folder itself where that
        matches. None when there is none left."""
        while True:
            level = levels[-1]
            while level.folders:
                name = level.folders.pop()
                path = f"{level.prefix}{name}"
                inside = self.globs.feed(level.states, name)
                states = self.globs.feed(inside, "/")
                if not self._counted(path):
                    return None
                if not states or not self._short(f"{path}/", most=MAX_PATH - 1):
                    continue
                try:
                    # Before it is opened, which may change its rights.
                    status = os.lstat(name, dir_fd=place.fd)
                    place.enter(name)
                except OSError as error:
                    self.omitted.note(f"{path}/: {error.strerror}")
                    continue
                folder = Found(path, -1, name, "folder", mode_of(status), mtime_of(status))
                return f"{path}/", states, folder if self._matches(inside) else None
            levels.pop()
            if not levels:
                return None
            place.leave()

    def _matches(self, states: int) -> bool:
        if not self.globs.accepts(states):
            return False
        self.states |= states
        return True

    def _counted(self, path: str) -> bool:
        self._seen += 1
        if self.globs.exhausted:
            self.complete = False
            reason = f"{path}: the patterns take too much work to match, the rest was not looked at: name fewer"
            self.omitted.note(reason, first=True)
            return False
        if self._seen > MAX_ENTRIES:
            self.complete = False
            reason = f"{path}: more than {MAX_ENTRIES} files and folders in the output, the rest was not looked at"
            self.omitted.note(reason, first=True)
        return self.complete

    def _short(self, path: str, most: int = MAX_PATH) -> bool:
        if len(os.fsencode(path)) > most:
            self.omitted.note(f"{path[:80]}...: its path is longer than {MAX_PATH} bytes")
            return False
        return True


def _sorted(place: trees.OpenFolder) -> tuple[list[str], list[os.DirEntry[str]]]:
    """Folders, from the last to the first, and what is none: a link to a folder is none."""
    folders: list[str] = []
    others: list[os.DirEntry[str]] = []
    for entry in place.listing():
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        else:
            others.append(entry)
    return sorted(folders, reverse=True), sorted(others, key=lambda entry: entry.name)


def _found(path: str, directory: int, entry: os.DirEntry[str]) -> Found:
    """Anything but a folder. A file's rights and times are read where it is opened."""
    if entry.is_symlink():
        status = entry.stat(follow_symlinks=False)
        return Found(path, directory, entry.name, "link", mode_of(status), mtime_of(status))
    kind: Literal["file", "special"] = "file" if entry.is_file(follow_symlinks=False) else "special"
    return Found(path, directory, entry.name, kind)


def mode_of(status: os.stat_result) -> int:
    """The nine bits of its rights: what would lend a file its owner's is not kept."""
    return status.st_mode & 0o777


def mtime_of(status: os.stat_result) -> float:
    """Unix seconds, to the microsecond."""
    return round(min(max(status.st_mtime, 0.0), float(LATEST)), 6)
