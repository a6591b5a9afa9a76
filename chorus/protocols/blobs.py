"""`/chorus/blobs/1.0.0`: content by its SHA-256, in chunks that are each verified (spec/tasks.md, "Large data").

A blob's id is the SHA-256 of its bytes. Its manifest lists the SHA-256 of each 256 KiB; it is canonical JSON and a pure
function of the content, so two honest holders give the same bytes. On a stream, one request after the other:

    → {"get":"manifest","sha256":ID}                          canonical JSON after its length as a varint
    → {"count":N,"first":I,"get":"chunks","sha256":ID}
    ← {"length":L,"status":"ok"} and L bytes, or {"length":0,"status":"unknown" | "busy" | "bad"}

A chunk that contradicts the manifest of the very holder that sent it proves that this holder lies; so does a complete
blob that contradicts its id. No blame falls on anybody for another's manifest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, cast

import attrs

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError

if TYPE_CHECKING:
    from chorus.seams import JSON

PROTOCOL = "/chorus/blobs/1.0.0"
CHUNK = 256 * 1024
"""Bytes of every chunk but the last."""
MAX_REQUEST = 512
"""Bytes of a request; the longest legal one has under 160."""
MAX_ANSWER = 256
"""Bytes of an answer's head."""
MAX_CHUNKS_A_REQUEST = 64
"""16 MiB: long enough to keep a fast link busy, short enough to share a slow one between holders."""
MAX_CHUNKS = 65_536
"""16 GiB; bounds a manifest to 4.5 MB, whatever the configured limit of a blob is."""
_MANIFEST_HEAD = 256
_MANIFEST_CHUNK = 67
"""Bytes of canonical JSON: everything but the chunks, and each chunk."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
Status = Literal["ok", "unknown", "busy", "bad"]
_STATUSES = ("ok", "unknown", "busy", "bad")


class BlobProtocolError(PeerError):
    """A message that is none of this protocol's."""

    code = "blob_protocol"


class LyingHolder(PeerError):
    """Content that contradicts what the same peer promised."""

    code = "blob_lie"


def is_blob_id(text: object) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def chunk_count(size: int) -> int:
    return -(-size // CHUNK)


def manifest_limit(size: int) -> int:
    """The most bytes that the manifest of a blob of at most `size` bytes may have."""
    return _MANIFEST_HEAD + _MANIFEST_CHUNK * min(chunk_count(size), MAX_CHUNKS)


@attrs.frozen
class Manifest:
    sha256: str
    size: int
    chunks: tuple[bytes, ...] = attrs.field(repr=False)
    """SHA-256 of each, 32 bytes."""

    def encode(self) -> bytes:
        return strictjson.canonical(
            {
                "chunk_size": CHUNK,
                "chunks": [digest.hex() for digest in self.chunks],
                "sha256": self.sha256,
                "size": self.size,
                "version": 1,
            }
        )

    @property
    def digest(self) -> str:
        """Its own address."""
        return hashlib.sha256(self.encode()).hexdigest()

    def length(self, index: int) -> int:
        """Bytes of the chunk at `index`."""
        return min(CHUNK, self.size - index * CHUNK)

    def span(self, first: int, count: int) -> int:
        """Bytes of `count` chunks from `first` on."""
        return min(self.size, (first + count) * CHUNK) - first * CHUNK

    def matches(self, index: int, data: bytes) -> bool:
        return hashlib.sha256(data).digest() == self.chunks[index]

    @classmethod
    def decode(cls, data: bytes, sha256: str, size_limit: int) -> Manifest:
        """The manifest that a holder of `sha256` sent. Raises `LimitExceeded` for a blob over `size_limit`, else
        `BlobProtocolError`."""
        limit = manifest_limit(size_limit)
        if len(data) > limit:
            raise LimitExceeded("blob_manifest_bytes", len(data), limit)
        fields = strictjson.loads(data, max_bytes=limit, max_depth=2, error=BlobProtocolError)
        if not isinstance(fields, dict) or fields.keys() != {"chunk_size", "chunks", "sha256", "size", "version"}:
            raise BlobProtocolError("a manifest has chunk_size, chunks, sha256, size and version")
        size, chunks = fields["size"], fields["chunks"]
        if fields["version"] != 1 or fields["chunk_size"] != CHUNK:
            raise BlobProtocolError("a manifest of another version or chunk size")
        if fields["sha256"] != sha256:
            raise BlobProtocolError("a manifest of another blob")
        if type(size) is not int or size < 0:
            raise BlobProtocolError("a manifest without a size")
        if size > size_limit:
            raise LimitExceeded("blob_bytes", size, size_limit)
        if not isinstance(chunks, list) or len(chunks) != chunk_count(size) or len(chunks) > MAX_CHUNKS:
            raise BlobProtocolError("a manifest whose chunks are not those of its size")
        if not all(map(is_blob_id, chunks)):
            raise BlobProtocolError("a manifest with a chunk that is no SHA-256")
        found = cls(sha256, size, tuple(bytes.fromhex(cast("str", each)) for each in chunks))
        if found.encode() != data:
            raise BlobProtocolError("a manifest that is not canonical JSON")
        return found


class ManifestBuilder:
    """Hashes content as it streams by, whole and in chunks."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._in_chunk = 0
        self._chunks: list[bytes] = []
        self.size = 0

    def update(self, data: bytes) -> None:
        self._whole.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            part = view[: CHUNK - self._in_chunk]
            self._chunk.update(part)
            self._in_chunk += len(part)
            if self._in_chunk == CHUNK:
                self._cut()
            view = view[len(part) :]

    def finish(self) -> Manifest:
        """Call once, at the end."""
        if self._in_chunk:
            self._cut()
        return Manifest(self._whole.hexdigest(), self.size, tuple(self._chunks))

    def _cut(self) -> None:
        self._chunks.append(self._chunk.digest())
        self._chunk = hashlib.sha256()
        self._in_chunk = 0


@attrs.frozen
class ManifestRequest:
    sha256: str

    def encode(self) -> bytes:
        return strictjson.canonical({"get": "manifest", "sha256": self.sha256})


@attrs.frozen
class ChunksRequest:
    sha256: str
    first: int
    count: int

    def encode(self) -> bytes:
        return strictjson.canonical({"count": self.count, "first": self.first, "get": "chunks", "sha256": self.sha256})


Request = ManifestRequest | ChunksRequest


def decode_request(data: bytes) -> Request:
    """Raises `BlobProtocolError`."""
    fields = _fields(data, MAX_REQUEST)
    sha256 = fields.get("sha256")
    if not is_blob_id(sha256):
        raise BlobProtocolError("a request without a blob id")
    sha256 = cast("str", sha256)
    if fields.get("get") == "manifest" and len(fields) == 2:
        return ManifestRequest(sha256)
    first, count = fields.get("first"), fields.get("count")
    if fields.get("get") != "chunks" or len(fields) != 4 or type(first) is not int or type(count) is not int:
        raise BlobProtocolError("a request for neither a manifest nor chunks")
    if not 1 <= count <= MAX_CHUNKS_A_REQUEST or not 0 <= first <= MAX_CHUNKS - count:
        raise BlobProtocolError(f"a request for {count} chunks from {first}")
    return ChunksRequest(sha256, first, count)


@attrs.frozen
class Answer:
    """The head of an answer, before the bytes."""

    status: Status
    length: int = 0

    def encode(self) -> bytes:
        return strictjson.canonical({"length": self.length, "status": self.status})

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Raises `BlobProtocolError`."""
        fields = _fields(data, MAX_ANSWER)
        status, length = fields.get("status"), fields.get("length")
        if len(fields) != 2 or status not in _STATUSES or type(length) is not int or length < 0:
            raise BlobProtocolError("an answer without status and length")
        if status != "ok" and length:
            raise BlobProtocolError("a refusal followed by bytes")
        return cls(cast("Status", status), length)


def _fields(data: bytes, limit: int) -> dict[str, JSON]:
    fields = strictjson.loads(data, max_bytes=limit, max_depth=1, error=BlobProtocolError)
    if not isinstance(fields, dict):
        raise BlobProtocolError("a message that is no object")
    return fields


class Download:
    """Chunks of one manifest: those here, those on their way, and those that a holder should send next."""

    def __init__(self, manifest: Manifest, present: Iterable[int] = ()) -> None:
        self.manifest = manifest
        self._missing = dict.fromkeys(range(len(manifest.chunks)))
        for index in present:
            self._missing.pop(index, None)
        self._underway: set[int] = set()

    @property
    def complete(self) -> bool:
        return not self._missing

    @property
    def missing(self) -> int:
        return len(self._missing)

    def take(self, most: int = MAX_CHUNKS_A_REQUEST) -> range:
        """The next run of chunks that nobody is sending; empty when there is none."""
        first = next((index for index in self._missing if index not in self._underway), None)
        if first is None:
            return range(0)
        last = first
        while last - first + 1 < most and last + 1 in self._missing and last + 1 not in self._underway:
            last += 1
        taken = range(first, last + 1)
        self._underway.update(taken)
        return taken

    def give_back(self, taken: range) -> None:
        """Chunks of `taken` that did not come may be asked of another holder."""
        self._underway.difference_update(taken)

    def arrived(self, index: int) -> None:
        """The chunk was verified and written."""
        self._missing.pop(index, None)
        self._underway.discard(index)
