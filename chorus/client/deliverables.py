"""The deliverables of a task, by its document: files to download, links and empty folders, all with checked names.

A task chose the names and the agent that ran it wrote the document: neither may name a place outside, or write through
a link.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import attrs

from chorus.client.errors import ClientError
from chorus.sandbox.archive.limits import BadArchive, Bounds
from chorus.sandbox.archive.member import LATEST, ArchiveMember, Kind
from chorus.sandbox.archive.tree import ArchiveTree

STREAMS = ("stdout", "stderr")

FILE_MODE, FOLDER_MODE = 0o644, 0o755
"""Where the agent did not say one."""

OTHERS_WRITE = 0o002
"""The one right that is not given, whatever the task said: a file of everybody's."""


@attrs.frozen
class Item:
    """One file to fetch: its path under the directory, its blob and size."""

    path: str
    sha256: str
    size: int
    mode: int | None = None
    mtime: float | None = None

    @property
    def rights(self) -> int:
        """For its file: always readable to its owner, never with a set-id bit."""
        mode = FILE_MODE if self.mode is None else self.mode
        return mode & 0o777 & ~OTHERS_WRITE | 0o400


@attrs.frozen
class LinkOrFolder:
    """A link to `target`, or where that is None an empty folder."""

    path: str
    target: str | None
    mode: int | None = None
    mtime: float | None = None

    @property
    def rights(self) -> int:
        """For its folder, in which its owner may always do all."""
        mode = FOLDER_MODE if self.mode is None else self.mode
        return mode & 0o777 & ~OTHERS_WRITE | 0o700


@attrs.frozen
class Deliverables:
    items: tuple[Item, ...]
    entries: tuple[LinkOrFolder, ...]


def of(task: dict[str, Any], *, logs: bool) -> Deliverables:
    """`logs`: the whole output as well. Raises `ClientError` for names that lead out or contradict each other."""
    # What an older agent left has the time at which it was left.
    ended = task.get("ended_at")
    items = [
        Item(each["path"], each["sha256"], each["size"], each.get("mode"), each.get("mtime", ended))
        for each in task["artifacts"]
    ]
    entries = [
        LinkOrFolder(each["path"], each.get("target"), each.get("mode"), each.get("mtime", ended))
        for each in task.get("entries") or []
    ]
    if logs:
        items += _logs(task, {item.path for item in items} | {entry.path for entry in entries})
    found = Deliverables(tuple(items), tuple(entries))
    check(found)
    return found


def _logs(task: dict[str, Any], taken: set[str]) -> list[Item]:
    """`stdout.log`, and another name where the task left a file of that one."""
    items = []
    for stream in STREAMS:
        row = (task["output"] or {}).get(stream) or {}
        if row.get("sha256"):
            names = (f"{stream}{number}.log" for number in ("", *(f"-{n}" for n in range(1, len(taken) + 2))))
            name = next(name for name in names if name not in taken)
            items.append(Item(name, row["sha256"], row["bytes"], mtime=task.get("ended_at")))
    return items


def check(found: Deliverables) -> None:
    """Raises `ClientError`."""
    tree = ArchiveTree(Bounds())
    try:
        for item in found.items:
            tree.add(_member(item.path, "file"))
        for entry in found.entries:
            target = entry.target
            tree.add(_member(entry.path, "directory") if target is None else _member(entry.path, "symlink", target))
        tree.check_links(lambda: False)
    except BadArchive as error:
        raise ClientError(f"the artifacts contradict each other, nothing is fetched: {error}") from None


def _member(path: str, kind: Kind, target: str = "") -> ArchiveMember:
    return ArchiveMember("/".join(parts(path)), kind, target=target)


def parts(path: str) -> tuple[str, ...]:
    """Its names, one in the other. Raises `ClientError` where they lead out of the directory."""
    found = PurePosixPath(path).parts
    if not found or path.startswith("/") or ".." in found or "\0" in path:
        raise ClientError(f"the artifact {path!r} has a name that leaves the directory; it is not fetched")
    return found


def moment(mtime: float) -> float:
    """A time that every file system can keep."""
    return min(max(mtime, 0.0), float(LATEST))
