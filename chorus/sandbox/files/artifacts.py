"""Collects deliverables: copies the matching files by descriptors, and follows no link.

Regular files keep their rights and times, links that stay in the output and empty folders are kept as what they are.
All other matches are left out, and the result says so.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

import attrs

from chorus.files import is_shortage
from chorus.sandbox.archive.links import Leaves, Links, TooManySteps
from chorus.sandbox.archive.tree import LINK_STEPS
from chorus.sandbox.contract import Artifact, OutputEntry
from chorus.sandbox.files import trees
from chorus.sandbox.files.omissions import Omissions
from chorus.sandbox.files.output_walk import MAX_PATH, Found, Walk, mode_of, mtime_of
from chorus.sandbox.globs import Globs

MAX_FILES = 1000
"""Files of one task: each becomes a blob and a row."""

MAX_BARE = 1000
"""Links and empty folders of one task: each is a row of its result."""

MAX_SKIPPED = 100
"""Reasons reported: a million links need no million lines."""

EVERYTHING = "**"
"""The pattern of a task that names none: that it matches nothing is no news."""

OUTPUT = "/workspace/output/"


@attrs.frozen
class Collected:
    """The deliverables that were copied, and the number of those that were not, with the first reasons."""

    artifacts: tuple[Artifact, ...] = ()
    entries: tuple[OutputEntry, ...] = ()
    skipped: tuple[str, ...] = ()
    skipped_total: int = 0


def collect(output: Path, patterns: Iterable[str], into: Path, max_bytes: int) -> Collected:
    """Copy matching files of `output` below `into`. Blocking. The task must be dead: nothing else writes there."""
    globs = Globs(patterns)
    if not globs.start:
        return Collected()
    walk = Walk(globs, Omissions(MAX_SKIPPED))
    taking = _Taking(into, max_bytes, walk.omitted)
    for found in walk.found(output):
        taking.take(found)
    _note_idle(walk)
    return taking.done(output, globs)


def _note_idle(walk: Walk) -> None:
    if walk.complete:
        for pattern in walk.globs.idle(walk.states):
            if pattern != EVERYTHING:
                walk.omitted.note(f"nothing in the output matches {pattern!r}", first=True)


class _Taking:
    """Copies and counts what is found."""

    def __init__(self, into: Path, max_bytes: int, omitted: Omissions) -> None:
        self._into = into
        self._left = max_bytes
        self._omitted = omitted
        self._files: list[Artifact] = []
        self._bare: list[OutputEntry] = []
        self._files_found = self._files_over = 0
        self._bare_found = self._bare_over = 0

    def take(self, found: Found) -> None:
        problem = self._problem(found)
        if problem:
            self._omitted.note(f"{found.path}: {problem}")

    def _problem(self, found: Found) -> str:
        """Keep it; why it was not kept."""
        if found.kind == "special":
            return "no regular file"
        if not _is_text(found.path):
            return "its name is not UTF-8"
        return self._take_file(found) if found.kind == "file" else self._take_bare(found)

    def _take_file(self, found: Found) -> str:
        self._files_found += 1
        if len(self._files) >= MAX_FILES:
            self._files_over += 1
            return ""
        copied = _copy(found, self._into, self._left)
        if isinstance(copied, str):
            return copied
        self._files.append(copied)
        self._left -= copied.size
        return ""

    def _take_bare(self, found: Found) -> str:
        target = _target(found) if found.kind == "link" else None
        if target == "":
            return "a link whose target is too long, or not UTF-8"
        self._bare_found += 1
        if len(self._bare) >= MAX_BARE:
            self._bare_over += 1
            return ""
        self._bare.append(OutputEntry(found.path, target, found.mode, found.mtime))
        return ""

    def done(self, output: Path, globs: Globs) -> Collected:
        """Everything that was found has been taken."""
        for found, over, most, what in (
            (self._bare_found, self._bare_over, MAX_BARE, "links and empty folders"),
            (self._files_found, self._files_over, MAX_FILES, "files"),
        ):
            if over:
                reason = f"{found} {what} match, over the limit of {most}: only the first {most} were kept"
                self._omitted.note(reason, over, first=True)
        entries = self._inside(output, globs)
        return Collected(
            tuple(sorted(self._files, key=lambda one: one.path)),
            tuple(sorted(entries, key=lambda one: one.path)),
            self._omitted.reasons,
            self._omitted.total,
        )

    def _inside(self, output: Path, globs: Globs) -> list[OutputEntry]:
        """Without the links that leave the output."""
        links = Links({entry.path: entry.target for entry in self._bare if entry.target is not None}, LINK_STEPS)
        above = _above([*self._files, *self._bare])
        kept = []
        for entry in self._bare:
            problem = ""
            try:
                leads_to = None if entry.target is None else links.lead(entry.path)
            except Leaves:
                problem = "a link that leads out of the output"
            except TooManySteps:
                problem = "a link among too many to follow"
            else:
                kept.append(entry)
                # What matches is kept, or was said to be left out; what is not there was not left out.
                unmatched = leads_to and leads_to not in above and not (globs.exhausted or globs.matches(leads_to))
                if leads_to and unmatched and _exists(output, leads_to):
                    problem = f"a link to {leads_to}, which matches no pattern and was not kept"
            if problem:
                self._omitted.note(f"{entry.path}: {problem}")
        return kept


def _above(kept: Iterable[Artifact | OutputEntry]) -> set[str]:
    """Every folder that something lies in."""
    folders: set[str] = set()
    for one in kept:
        folder = one.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders


def _exists(output: Path, path: str) -> bool:
    """True if something is at a path below `output`. Links on the way are not followed, but they are something."""
    fd = os.open(output, trees.FOLDER)
    try:
        for part in path.split("/"):
            try:
                deeper = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except FileNotFoundError:
                return False
            except OSError:
                return True
            os.close(fd)
            fd = deeper
        return True
    finally:
        os.close(fd)


def _target(found: Found) -> str:
    """The target of the link, relative to it; empty where a result cannot name it."""
    target = os.readlink(found.name, dir_fd=found.directory)
    if target.startswith(OUTPUT):
        # The task may name its output as it sees it.
        target = "../" * found.path.count("/") + target.removeprefix(OUTPUT)
    return target if len(target.encode(errors="surrogateescape")) <= MAX_PATH and _is_text(target) else ""


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _copy(found: Found, into: Path, left: int) -> Artifact | str:
    """The file copied, or why not."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(found.name, flags, dir_fd=found.directory)
    except OSError as error:
        if is_shortage(error):
            raise
        return error.strerror or "unreadable"
    with os.fdopen(fd, "rb") as source:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "no regular file"
        if status.st_size > left:
            return f"{status.st_size} bytes, which is over the limit of all artifacts together"
        local = into / found.path
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            size = target.tell()
    return Artifact(found.path, local, size, mode_of(status), mtime_of(status))
