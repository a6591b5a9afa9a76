"""Artifacts of a task into a directory: checked names, checked content, nothing overwritten unasked."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import attrs

from chorus.client.api import Api
from chorus.client.errors import EXIT_TASK_FAILED, ClientError


@attrs.frozen
class Item:
    """One file to fetch: its path under the directory, its blob and size."""

    path: str
    sha256: str
    size: int


def checked(items: Sequence[Item], directory: Path, *, force: bool) -> list[tuple[Item, Path]]:
    """Where each item goes. Raises `ClientError` for a name that leaves `directory` (a task chose it) and, unless
    `force`, for files that exist."""
    if directory.exists() and not directory.is_dir():
        raise ClientError(f"{directory} is a file; --output names a directory")
    targets: list[tuple[Item, Path]] = []
    for item in items:
        parts = PurePosixPath(item.path).parts
        if not parts or item.path.startswith("/") or ".." in parts or "\0" in item.path:
            raise ClientError(f"the artifact {item.path!r} has a name that leaves the directory; it is not fetched")
        target = directory.joinpath(*parts)
        # No folder on the way may be a link that was there before.
        for folder in list(target.parents)[: len(parts) - 1]:
            if folder.is_symlink():
                raise ClientError(f"{folder} is a link; choose another --output")
        if target.is_dir():
            raise ClientError(f"{target} is a directory; choose another --output")
        targets.append((item, target))
    present = [str(target) for _, target in targets if target.exists() or target.is_symlink()]
    if present and not force:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise ClientError(f"{present[0]}{more} would be overwritten; say --force, or another --output")
    return targets


def fetch(api: Api, item: Item, target: Path, told: Callable[[int], None] = lambda _: None) -> None:
    """Download and verify one item; the file appears complete or not at all. Raises `ClientError`."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".chorus-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _download(api, item, file.write, told)
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise ClientError(f"cannot write {target}: {error.strerror or error}") from None


def _download(api: Api, item: Item, write: Callable[[bytes], object], told: Callable[[int], None]) -> None:
    digest, size = hashlib.sha256(), 0
    with api.request("GET", f"/v1/blobs/{item.sha256}") as answer:
        try:
            for data in answer.chunks():
                size += len(data)
                if size > item.size:
                    break
                digest.update(data)
                write(data)
                told(len(data))
        except http.client.HTTPException:
            pass
    if digest.hexdigest() != item.sha256 or size != item.size:
        raise ClientError(f"{item.path} did not arrive whole; try again", EXIT_TASK_FAILED)
