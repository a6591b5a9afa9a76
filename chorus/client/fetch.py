"""Deliverables of a task into a directory, or as a tar archive: checked content, nothing overwritten unasked."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import attrs

from chorus.client.api import ApiAnswer, NodeApi
from chorus.client.deliverables import Deliverables, Item, LinkOrFolder, moment, parts
from chorus.client.errors import EXIT_TASK_FAILED, EXIT_UNAUTHORIZED, ClientError, Refused

MEMORY = 8 * 1024 * 1024
"""Files up to this stay in memory until they are known to be whole."""

TEMPORARY = ".chorus-"
"""How the name of a file begins that is not whole yet."""

Advance = Callable[[int], None]


class NotWhole(ClientError):
    """A file is not what its hash says."""

    code = "not_whole"

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} did not arrive whole; try again", EXIT_TASK_FAILED)


@attrs.define
class Fetched:
    """The outcome: `files` and `entries` that are there, with their places; reasons in `failed` for the others."""

    files: list[tuple[str, Item]] = attrs.Factory(list)
    entries: list[tuple[str, LinkOrFolder]] = attrs.Factory(list)
    failed: list[str] = attrs.Factory(list)


@attrs.frozen
class FetchTargets:
    """Where everything goes."""

    files: list[tuple[Item, Path]]
    entries: list[tuple[LinkOrFolder, Path]]


def checked(found: Deliverables, directory: Path, *, force: bool, option: str = "--output") -> FetchTargets:
    """Raises `ClientError` for a name that leaves `directory` (a task chose it) and, unless `force`, for files that
    exist."""
    task = option == "--output"
    again, tar = ("say --force, or ", ", or is - for a tar archive on stdout") if task else ("name ", "")
    if directory.exists() and not directory.is_dir():
        raise ClientError(f"{directory} is a file; {option} names a directory{tar}")
    files = [(item, _target(item.path, directory, option)) for item in found.items]
    entries = [(entry, _target(entry.path, directory, option)) for entry in found.entries]
    folders = {target for entry, target in entries if entry.target is None}
    present = []
    for target in (target for _, target in (*files, *entries)):
        if target.is_dir() and not target.is_symlink():
            if target not in folders:
                raise ClientError(f"{target} is a directory; choose another {option}")
        elif target.exists() or target.is_symlink():
            present.append(str(target))
    if present and not force:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise ClientError(f"{present[0]}{more} would be overwritten; {again}another {option}")
    return FetchTargets(files, entries)


def _target(path: str, directory: Path, option: str) -> Path:
    names = parts(path)
    target = directory.joinpath(*names)
    # No folder on the way may be a link that was there before.
    for folder in list(target.parents)[: len(names) - 1]:
        if folder.is_symlink():
            raise ClientError(f"{folder} is a link; choose another {option}")
    return target


def into_directory(api: NodeApi, targets: FetchTargets, advance: Advance) -> Fetched:
    """Every file appears complete or not at all. Links come last, so that nothing is written through them. Raises
    `ClientError` where nothing can be written, or no node answers; what single files lack is in `failed`."""
    done = Fetched()
    for item, target in targets.files:
        with _writing(target):
            if _tolerantly(item, done, partial(_fetch, api, item, target, advance)):
                done.files.append((str(target), item))
    for entry, target in sorted(targets.entries, key=lambda pair: pair[0].target is not None):
        with _writing(target):
            _make(entry, target)
            done.entries.append((str(target), entry))
    return done


def to_tar(api: NodeApi, found: Deliverables, out: IO[bytes], advance: Advance) -> Fetched:
    """The same as a tar archive, which is a whole one whatever is missing in it."""
    done = Fetched()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for item in found.items:
            with tempfile.SpooledTemporaryFile(MEMORY) as file:
                if _tolerantly(item, done, partial(_download, api, item, file.write, advance)):
                    file.seek(0)
                    tar.addfile(_header(item, tarfile.REGTYPE, item.size), file)
                    done.files.append((item.path, item))
        for entry in found.entries:
            header = _header(entry, tarfile.DIRTYPE if entry.target is None else tarfile.SYMTYPE)
            header.linkname = entry.target or ""
            tar.addfile(header)
            done.entries.append((entry.path, entry))
    return done


def _header(one: Item | LinkOrFolder, kind: bytes, size: int = 0) -> tarfile.TarInfo:
    header = tarfile.TarInfo("/".join(parts(one.path)))
    header.type, header.size = kind, size
    header.mode = 0o777 if kind == tarfile.SYMTYPE else one.rights
    header.mtime = moment(one.mtime or 0.0)
    return header


def _tolerantly(item: Item, done: Fetched, fetch: Callable[[], None]) -> bool:
    """True if the item is there. One that the node does not have leaves the others to be fetched."""
    try:
        fetch()
    except NotWhole as error:
        done.failed.append(str(error))
    except Refused as error:
        if error.exit_status == EXIT_UNAUTHORIZED:
            raise
        done.failed.append(f"{item.path}: {error}")
    else:
        return True
    return False


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ClientError(f"cannot write {target}: {error.strerror or error}") from None


def _fetch(api: NodeApi, item: Item, target: Path, advance: Advance) -> None:
    """Download and verify one item; the file appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _download(api, item, file.write, advance)
            file.flush()
            os.fchmod(descriptor, item.rights)
            if item.mtime is not None:
                os.utime(descriptor, (moment(item.mtime),) * 2)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _make(entry: LinkOrFolder, target: Path) -> None:
    """The link, also in the place of a file; or the folder, where it is not there yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.target is not None:
        # Under another name first: a link cannot be written over what is there.
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=target.parent) as folder:
            os.symlink(entry.target, f"{folder}/link")
            if entry.mtime is not None:
                os.utime(f"{folder}/link", (moment(entry.mtime),) * 2, follow_symlinks=False)
            os.replace(f"{folder}/link", target)
        return
    if not target.is_dir():
        target.unlink(missing_ok=True)
        target.mkdir()
        target.chmod(entry.rights)
        if entry.mtime is not None:
            os.utime(target, (moment(entry.mtime),) * 2)


def _download(api: NodeApi, item: Item, write: Callable[[bytes], object], advance: Advance) -> None:
    digest, size = hashlib.sha256(), 0
    with api.request("GET", f"/v1/blobs/{item.sha256}") as answer:
        for data in _arriving(answer):
            size += len(data)
            if size > item.size:
                break
            digest.update(data)
            write(data)
            advance(len(data))
    if digest.hexdigest() != item.sha256 or size != item.size:
        raise NotWhole(item.path)


def _arriving(answer: ApiAnswer) -> Iterator[bytes]:
    """Ends where the connection does: what is missing then shows in the hash."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        yield from answer.chunks()
