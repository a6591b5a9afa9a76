"""A directory as a tar archive, the same bytes for the same content.

What git ignores is left out where PATH lies in a git work tree, and `.git` always. Names are sorted; owners and times
are fixed; of modes only the executable bit is kept. Links that leave the tree, devices and sockets are left out and
named, since a sandbox would refuse them.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import attrs

from chorus.client.errors import ClientError

MTIME = 315_532_800
"""1980-01-01: the earliest time that zip files (and so Python's wheels) can hold."""
GIT_S = 60.0


@attrs.frozen
class Packed:
    """What went into the archive."""

    files: int
    size: int
    skipped: tuple[str, ...]
    """One line for each thing left out that git does not ignore."""


def pack(root: Path, out: IO[bytes], told: Callable[[int], None] = lambda _: None) -> Packed:
    """Write the tree under `root` to `out`; `told` hears how many bytes of files were read. Raises `ClientError`."""
    if not root.is_dir():
        raise ClientError(f"{root} is not a directory")
    skipped: list[str] = []
    files = 0
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(_names(root)):
            try:
                if _add(tar, root, name, skipped, told):
                    files += 1
            except OSError as error:
                raise ClientError(f"cannot read {root / name}: {error.strerror}") from None
    return Packed(files, out.tell(), tuple(skipped))


def _add(tar: tarfile.TarFile, root: Path, name: str, skipped: list[str], told: Callable[[int], None]) -> bool:
    path = root / name
    try:
        status = path.lstat()
    except FileNotFoundError:
        # Deleted, and git still lists it.
        return False
    entry = tarfile.TarInfo(name)
    entry.mtime = MTIME
    entry.mode = 0o755 if stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IXUSR else 0o644
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(path)
        if not _stays(name, target):
            skipped.append(f"{name}: a link that leaves the directory")
            return False
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
        tar.addfile(entry)
    elif stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        return False
    elif stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            entry.size = os.fstat(file.fileno()).st_size
            tar.addfile(entry, file)
        told(entry.size)
    else:
        skipped.append(f"{name}: not a file, a directory or a link")
        return False
    return True


def _stays(name: str, target: str) -> bool:
    """Whether a link at `name` to `target` ends inside the tree, by the text alone."""
    if target.startswith("/"):
        return False
    depth = len(PurePosixPath(name).parent.parts)
    for part in target.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            return False
    return True


def _names(root: Path) -> set[str]:
    """Paths under `root` with `/` between folders; every folder that is named."""
    listed = _git(root)
    found: set[str] = set(_walk(root)) if not listed else set()
    for name in listed:
        found.add(name)
        found.update(str(parent) for parent in PurePosixPath(name).parents if str(parent) != ".")
    return found


def _git(root: Path) -> list[str]:
    """What git knows or would add; empty where git, or a work tree, is not there, or where it ignores all of `root`."""
    # A work tree's own configuration may name programs to run.
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(root), "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=GIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    # A submodule is listed as its folder alone.
    return [each for name in names for each in (_walk(root, name) if _is_folder(root / name) else [name])]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _walk(root: Path, under: str = "") -> Iterator[str]:
    for folder, folders, files in os.walk(root / under):
        folders[:] = [name for name in folders if name != ".git"]
        base = Path(folder).relative_to(root)
        for name in [*folders, *files]:
            if name != ".git":
                yield (base / name).as_posix()
