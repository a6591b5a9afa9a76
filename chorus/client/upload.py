"""The input of a task as a blob at the node."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from chorus.client import show
from chorus.client.api import BLOCK, CountedFile, NodeApi
from chorus.client.errors import ClientError, Refused
from chorus.client.git import shown
from chorus.client.pack import PackOptions, pack

MEMORY = 8 * 1024 * 1024
"""Archives up to this stay in memory until they are sent."""


def upload(api: NodeApi, path: Path, wanted: PackOptions) -> str:
    """Upload a directory as an archive, or an archive as it is; returns its SHA-256."""
    if path.is_file():
        try:
            with path.open("rb") as file:
                if not _is_archive(file):
                    raise ClientError(
                        f"{shown(path)} is not a tar archive or a zip file; name a directory and it becomes one"
                    )
                return _put(api, file)
        except OSError as error:
            raise ClientError(f"cannot read {shown(path)}: {error.strerror}") from None
    with tempfile.SpooledTemporaryFile(MEMORY) as file:
        with show.bar("packing", None) as advance:
            packed = pack(path, file, advance, wanted)
        for line in packed.skipped:
            show.note(f"left out {line}")
        if not packed.files:
            raise ClientError(f"{shown(path)} holds no files")
        return _put(api, file)


def _is_archive(file: IO[bytes]) -> bool:
    try:
        return tarfile.is_tarfile(file) or zipfile.is_zipfile(file)
    except (EOFError, ValueError, zlib.error, lzma.LZMAError):
        # Damaged inside of its compression.
        return False


def _put(api: NodeApi, file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while data := file.read(BLOCK):
        digest.update(data)
    length = file.tell()
    file.seek(0)
    headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream", "Accept": "application/json"}
    try:
        with (
            show.bar("uploading", length) as advance,
            api.request("PUT", f"/v1/blobs/{digest.hexdigest()}", CountedFile(file, advance), headers) as answer,
        ):
            answer.read()
    except Refused as error:
        if error.status == 413:
            raise ClientError(
                f"the input ({show.size(length)}) is larger than the node takes: {error} (CHORUS_MAX_BLOB_MB)"
            ) from None
        raise
    return digest.hexdigest()
