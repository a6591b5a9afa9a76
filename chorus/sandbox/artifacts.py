"""Collecting deliverables: regular files that match, copied out by file descriptors, no link ever followed."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from chorus.sandbox import trees
from chorus.sandbox.contract import Artifact

MAX_FILES = 1000
"""Files of one task: each becomes a blob and a row."""

MAX_ENTRIES = 100_000
"""Directory entries looked at."""

MAX_PATH = 1024
"""Bytes of an artifact's path, as of a path in an input archive; so folders are entered down to half as many levels."""

MAX_SKIPPED = 100
"""Reasons reported: a million links need no million lines."""

OUTPUT_PREFIXES = ("/workspace/output/", "./")


class Globs:
    """Patterns matched together, in time linear in the path whatever they are: both come from whoever wrote the task.

    `*` and `?` within one name, `**` across folders, `[…]` classes; a folder's name means all below it. A set of states
    is an integer with a bit for each place in a pattern, so that all of them move on with a few operations.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._size = 0
        self._start = self._accept = 0
        self._any = self._star = self._deep = 0
        self._folders = self._within = 0
        self._literals: dict[str, int] = {}
        self._classes: list[tuple[re.Pattern[str], int]] = []
        self._consumes: dict[str, int] = {}
        for pattern in patterns:
            self._add(pattern)
        self.start = self._closed(self._start)
        """States before the first character. States are 0 where no pattern can match, whatever follows."""

    def matches(self, path: str) -> bool:
        return self.accepts(self.feed(self.start, path))

    def accepts(self, states: int) -> bool:
        return bool(states & self._accept)

    def feed(self, states: int, text: str) -> int:
        """The states after `text`, a further piece of the path."""
        for char in text:
            if not states:
                break
            if char == "/":
                after = (states & self._literals.get("/", 0)) << 1 | states & self._deep | (states & self._within) >> 1
            else:
                consumes = self._consumes.get(char)
                if consumes is None:
                    consumes = self._consumes[char] = self._consuming(char)
                after = (states & consumes) << 1 | states & (self._star | self._deep | self._within)
            states = self._closed(after)
        return states

    def _closed(self, states: int) -> int:
        """With the places reached by letting a `*`, a `**` or a `**/` match nothing more."""
        skips = self._star | self._deep
        while (more := states | (states & skips) << 1 | (states & self._folders) << 2) != states:
            states = more
        return states

    def _consuming(self, char: str) -> int:
        found = self._any | self._folders | self._literals.get(char, 0)
        for one, place in self._classes:
            if one.fullmatch(char):
                found |= place
        return found

    def _place(self) -> int:
        self._size += 1
        return 1 << self._size - 1

    def _add(self, pattern: str) -> None:
        for prefix in OUTPUT_PREFIXES:
            pattern = pattern.removeprefix(prefix)
        pattern = pattern.rstrip("/")
        self._start |= 1 << self._size
        at = 0
        while at < len(pattern):
            if pattern.startswith("**/", at):
                while pattern.startswith("**/", at):
                    at += 3
                self._folders |= self._place()
                self._within |= self._place()
            elif pattern[at] == "*":
                run = at
                while pattern.startswith("*", at) and not pattern.startswith("**/", at):
                    at += 2 if pattern.startswith("**", at) else 1
                if at - run > 1:
                    self._deep |= self._place()
                else:
                    self._star |= self._place()
            elif pattern[at] == "?":
                self._any |= self._place()
                at += 1
            elif (one := _name_class(pattern, at)) is not None:
                self._classes.append((one[0], self._place()))
                at = one[1]
            else:
                self._literals[pattern[at]] = self._literals.get(pattern[at], 0) | self._place()
                at += 1
        # Matched; and after a slash, whatever lies below what matched.
        end, below = self._place(), self._place()
        self._literals["/"] = self._literals.get("/", 0) | end
        self._deep |= below
        self._size += 1  # where `below` would skip to
        self._accept |= end | below


def _name_class(pattern: str, at: int) -> tuple[re.Pattern[str], int] | None:
    """The `[…]` at this place, as an expression for one character that is no slash, and where it ends. None where there
    is none, or one such as [z-a], which matches nothing but itself."""
    if pattern[at] != "[" or (end := pattern.find("]", at + 2)) < 0:
        return None
    body = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[").replace("&&", "&\\&")
    body = body.replace("||", "|\\|").replace("--", "-\\-").replace("~~", "~\\~")
    if not body.startswith("!"):
        body = body if body[0] != "^" else "\\" + body
        text = f"(?!/)[{body}]"
    else:
        text = f"[^/{body[1:]}]"
    try:
        return re.compile(text, re.DOTALL), end + 1
    except re.error:
        return None


@attrs.frozen
class Collected:
    """What was copied, and what matched but was not, each with its reason."""

    artifacts: tuple[Artifact, ...]
    skipped: tuple[str, ...]


def collect(output: Path, patterns: Iterable[str], into: Path, max_bytes: int) -> Collected:
    """Copy matching files of `output` below `into`. Blocking. The task must be dead: nothing else writes there."""
    globs = Globs(patterns)
    if not globs.start:
        return Collected((), ())
    found: list[Artifact] = []
    skipped: list[str] = []
    left = max_bytes
    for path, directory, name in _walk(output, globs, skipped):
        if len(found) >= MAX_FILES:
            skipped.append(f"{path}: more than {MAX_FILES} artifacts")
            break
        copied = _copy(path, directory, name, into, left)
        if isinstance(copied, str):
            skipped.append(f"{path}: {copied}")
        else:
            found.append(copied)
            left -= copied.size
    return Collected(tuple(sorted(found, key=lambda one: one.path)), tuple(skipped[:MAX_SKIPPED]))


@attrs.frozen
class _Level:
    """A folder on the way to the one looked at."""

    prefix: str
    states: int
    """Of the patterns, after the prefix."""
    folders: list[str]
    """Still to be entered, the last one first."""


def _walk(root: Path, globs: Globs, skipped: list[str]) -> Iterator[tuple[str, int, str]]:
    """(path, open folder, name) of everything that matches and is no folder."""
    seen = 0
    with trees.Place(root, insist=True) as place:
        levels: list[_Level] = []
        prefix, states = "", globs.start
        while True:
            folders, names = _sorted(place)
            for name in names:
                seen += 1
                if seen > MAX_ENTRIES:
                    skipped.append(
                        f"{prefix}{name}: more than {MAX_ENTRIES} files in the output, the rest was not looked at"
                    )
                    return
                if globs.accepts(globs.feed(states, name)):
                    if _bytes(prefix + name) > MAX_PATH:
                        skipped.append(_too_long(prefix + name))
                    else:
                        yield f"{prefix}{name}", place.fd, name
            levels.append(_Level(prefix, states, folders))
            entered = _next(place, levels, globs, skipped)
            if entered is None:
                return
            prefix, states = entered


def _sorted(place: trees.Place) -> tuple[list[str], list[str]]:
    """Folders, from the last to the first, and what is none: a link to a folder is none."""
    folders: list[str] = []
    names: list[str] = []
    for entry in place.listing():
        (folders if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
    return sorted(folders, reverse=True), sorted(names)


def _next(place: trees.Place, levels: list[_Level], globs: Globs, skipped: list[str]) -> tuple[str, int] | None:
    """Enter the next folder in which something may match: its prefix and states. None when there is none left."""
    while True:
        level = levels[-1]
        while level.folders:
            name = level.folders.pop()
            prefix = f"{level.prefix}{name}/"
            states = globs.feed(level.states, f"{name}/")
            if not states:
                continue
            if _bytes(prefix) >= MAX_PATH:
                skipped.append(_too_long(prefix))
                continue
            try:
                place.enter(name)
            except OSError as error:
                skipped.append(f"{prefix}: {error.strerror}")
                continue
            return prefix, states
        levels.pop()
        if not levels:
            return None
        place.leave()


def _bytes(path: str) -> int:
    return len(os.fsencode(path))


def _too_long(path: str) -> str:
    return f"{path[:80]}...: its path is longer than {MAX_PATH} bytes"


def _copy(path: str, directory: int, name: str, into: Path, left: int) -> Artifact | str:
    try:
        # O_NONBLOCK: opening a fifo must not wait for its writer.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=directory)
    except OSError as error:
        return "a link" if stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode) else error.strerror or "unreadable"
    with os.fdopen(fd, "rb") as source:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "no regular file"
        if status.st_size > left:
            return f"{status.st_size} bytes, which is over the limit of all artifacts together"
        try:
            path.encode()
        except UnicodeEncodeError:
            return "its name is not UTF-8"
        local = into / path
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            size = target.tell()
    return Artifact(path, local, size)
