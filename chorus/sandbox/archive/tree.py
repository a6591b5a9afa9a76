"""The tree that an archive would make, checked by names alone: nothing here touches a disk.

Members below a link, duplicates, hard links to what is no earlier file, and links that leave the tree are refused here,
because one member's text cannot show them.
"""

from __future__ import annotations

from collections.abc import Callable

from chorus.sandbox.archive.limits import BadArchive, Bounds
from chorus.sandbox.archive.links import Leaves, Links, TooManySteps
from chorus.sandbox.archive.member import ArchiveMember, Kind

LINK_STEPS = 100_000
LINK_STEPS_PER_MEMBER = 10
"""Path components walked to check all links of an archive: so many, and so many more for each of its entries."""


class ArchiveTree:
    """`add` every member before it is written, and `check_links` once all are there."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._names = 0
        self.kinds: dict[str, Kind] = {"": "directory"}
        self.targets: dict[str, str] = {}
        self.new_directories: list[str] = []

    def add(self, member: ArchiveMember) -> bool:
        """True when the member is new; a directory may be named again. `new_directories` gets the missing parents."""
        self.new_directories.clear()
        self._parents(member.path)
        there = self.kinds.get(member.path)
        if there is not None:
            if there == member.kind == "directory":
                return False
            raise BadArchive(f"{member.path!r} comes twice")
        if member.kind == "hardlink" and self.kinds.get(member.target) not in ("file", "hardlink"):
            raise BadArchive(
                f"{member.path!r} is a hard link to {member.target!r}, which is no earlier file of the archive"
            )
        self._enter(member.path, member.kind, len(member.target))
        if member.kind == "symlink":
            self.targets[member.path] = member.target
        return True

    def _parents(self, path: str) -> None:
        at = -1
        while (at := path.find("/", at + 1)) >= 0:
            parent = path[:at]
            kind = self.kinds.get(parent)
            if kind is None:
                self._enter(parent, "directory")
                self.new_directories.append(parent)
            elif kind != "directory":
                raise BadArchive(f"{path!r} lies below {parent!r}, which is a {kind}")

    def _enter(self, path: str, kind: Kind, target: int = 0) -> None:
        # The root is in `kinds` and does not count.
        if len(self.kinds) > self._bounds.max_members:
            raise BadArchive(f"more than {self._bounds.max_members} members and directories above them")
        self._names += len(path) + target
        if self._names > self._bounds.max_names:
            raise BadArchive(f"the paths in the archive are longer than {self._bounds.max_names} characters together")
        self.kinds[path] = kind

    def check_links(self, stop: Callable[[], bool]) -> None:
        """Follow every link through all others. Raises `BadArchive` where one leaves, `Interrupted`."""
        links = Links(self.targets, LINK_STEPS + LINK_STEPS_PER_MEMBER * len(self.kinds), stop)
        for path, target in self.targets.items():
            try:
                # A loop leads nowhere, which is inside.
                links.lead(path)
            except Leaves:
                raise BadArchive(f"{path!r} is a link to {target[:80]!r}, which leaves the archive") from None
            except TooManySteps:
                raise BadArchive(
                    "the links of the archive are too long to follow, or too many lead through one another"
                ) from None
