"""The paths below a directory that are packed, by the rules of the git work trees that it lies in or holds.

Every work tree answers for itself: the one around the directory, submodules, and repositories that merely lie in it.
Nothing is guessed where git gives no answer: the files that git ignores are where secrets are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import attrs

from chorus.client.errors import ClientError
from chorus.client.git import GitFailed, ask, refusal, shown

GIT = ".git"
_GLOB = re.compile(r"([\\*?\[])")
_GITLINK = b"160000"


@attrs.frozen
class Listing:
    """Paths are relative, with `/` between folders."""

    names: frozenset[str]
    """Files, links, and folders that are there although they may be empty."""
    repositories: tuple[str, ...]
    """Folders in `names` that have a `.git` and are listed by it; the directory itself is empty text."""
    left_out: tuple[str, ...]
    """One line for each thing that a person may miss."""


def everything(root: Path, under: str = "") -> Iterator[str]:
    """All but `.git`, no git asked. Raises OSError for a folder that cannot be read."""
    for folder, folders, files in os.walk(root / under, onerror=_raise):
        folders[:] = [name for name in folders if name != GIT]
        base = Path(folder).relative_to(root)
        for name in [*folders, *files]:
            if name != GIT:
                yield (base / name).as_posix()


def work_tree_of(root: Path) -> Path | None:
    """The nearest folder, `root` or above it, that has a `.git`, whether or not git takes that for a repository. Raises
    OSError where that cannot be seen."""
    real = Path(os.path.realpath(root))
    return next((folder for folder in (real, *real.parents) if has_git(folder)), None)


def has_git(folder: Path) -> bool:
    """Raises OSError where that cannot be seen: then it is not known to be absent."""
    try:
        os.lstat(folder / GIT)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def listing(root: Path, whole: Sequence[str] = ()) -> Listing:
    """Paths that git tracks or would add; without git, all of them. Of the paths in `whole`, all in any case.

    Raises `ClientError` where a work tree is there and git does not list it, and where it ignores all there is; OSError
    for a folder that cannot be read.
    """
    lister = _Lister(root, whole)
    top = work_tree_of(root)
    if top is None:
        lister.plain("")
    else:
        lister.repository("", top)
    for name in whole:
        lister.names.add(name)
        if _is_folder(root / name):
            lister.names.update(everything(root, name))
    if top is not None and not lister.names and next(everything(root), None) is not None:
        raise ClientError(
            f"git ignores everything in {shown(root)}; nothing was sent: --all-files takes it all the same"
        )
    return Listing(frozenset(lister.names), tuple(lister.repositories), tuple(lister.left_out))


class _Lister:
    def __init__(self, root: Path, whole: Sequence[str]) -> None:
        self._root = root
        self._whole = whole
        self._has_git: dict[str, bool] = {}
        self.names: set[str] = set()
        self.repositories: list[str] = []
        self.left_out: list[str] = []

    def plain(self, under: str) -> None:
        """A folder of no work tree, which may hold some."""
        for folder, folders, files in os.walk(self._root / under, onerror=_raise):
            base = Path(folder).relative_to(self._root).as_posix()
            if GIT in folders or GIT in files:
                folders.clear()
                self._inner(base)
                continue
            self.names.update((PurePosixPath(base) / name).as_posix() for name in [*folders, *files])

    def repository(self, under: str, top: Path) -> None:
        """Adds the paths of the work tree at `top` below `under`."""
        folder = self._root / under
        try:
            self._must_be(top, folder)
            tracked = ask(folder, "ls-files", "-z", "--stage", "--", ".")
            others = ask(folder, "ls-files", "-z", "--others", "--exclude-standard", *_wanted(top, folder), "--", ".")
        except GitFailed as error:
            raise refusal(top, str(error), under) from None
        if os.path.samefile(folder, top):
            self.repositories.append(under)
        for entry in filter(None, tracked.split(b"\0")):
            about, _, raw = entry.partition(b"\t")
            name = _join(under, raw)
            if about.startswith(_GITLINK):
                self._submodule(name)
            else:
                self.names.add(name)
        for raw in filter(None, others.split(b"\0")):
            name = _join(under, raw.rstrip(b"/"))
            inner = name if raw.endswith(b"/") else self._inner_above(name, under)
            if inner is None:
                self.names.add(name)
            else:
                self._inner(inner)

    def _must_be(self, top: Path, folder: Path) -> None:
        """Git goes on upwards from a `.git` that is no repository, and would answer by the rules of another one."""
        found = os.fsdecode(ask(folder, "rev-parse", "--show-toplevel").removesuffix(b"\n"))
        if not os.path.exists(found) or not os.path.samefile(found, top):
            raise GitFailed(f"its .git is no repository (git takes {shown(found)} for the work tree)")

    def _submodule(self, name: str) -> None:
        path = self._root / name
        if not _is_folder(path):
            self.names.add(name)
        elif has_git(path):
            self._inner(name)
        elif not self._is_whole(name):
            if any(path.iterdir()):
                raise ClientError(
                    f"{shown(path)} is a submodule without its .git, so what git ignores in it is not known; "
                    f"nothing was sent: --include {shown(name)} takes all of it"
                )
            self.names.add(name)
            self.left_out.append(f"{shown(name)}: a submodule that is not checked out")

    def _inner(self, name: str) -> None:
        """A repository of its own inside of another one or of a plain folder."""
        if name not in self.repositories and not self._is_whole(name):
            self.names.add(name)
            self.repository(name, Path(os.path.realpath(self._root / name)))

    def _inner_above(self, name: str, under: str) -> str | None:
        """The outermost folder between `under` and `name` that has a `.git`."""
        found = None
        for parent in PurePosixPath(name).parents:
            folder = parent.as_posix()
            if folder in (".", under):
                break
            if folder not in self._has_git:
                self._has_git[folder] = has_git(self._root / folder)
            if self._has_git[folder]:
                found = folder
        return found

    def _is_whole(self, name: str) -> bool:
        return any(name == each or name.startswith(f"{each}/") for each in self._whole)


def _wanted(top: Path, folder: Path) -> list[str]:
    """Options that name the folder itself, which a person asked for, as not ignored: so the rules for what is in it
    count."""
    parts = Path(os.path.realpath(folder)).relative_to(os.path.realpath(top)).parts
    paths = ["/".join(_GLOB.sub(r"\\\1", part) for part in parts[: at + 1]) for at in range(len(parts))]
    return [f"--exclude=!/{path}/" for path in paths]


def _join(under: str, raw: bytes) -> str:
    name = os.fsdecode(raw)
    return f"{under}/{name}" if under else name


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _raise(error: OSError) -> None:
    raise error
