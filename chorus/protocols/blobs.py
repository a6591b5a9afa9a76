"""`/chorus/blobs/1.0.0`: content by its SHA-256, in chunks that are each verified (spec/tasks.md, "Large data").

A blob's id is the SHA-256 of its bytes. Its manifest lists the SHA-256 of each 256 KiB; it is canonical JSON and a pure
function of the content, so two honest holders give the same bytes. On a stream, one request after the other:

    → {"get":"manifest","sha256":ID}                          canonical JSON after its length as a varint
    → {"count":N,"first":I,"get":"chunks","sha256":ID}
    → {"get":"have","sha256":ID}
    ← {"length":L,"status":"ok"} and L bytes, or {"length":0,"status":"unknown" | "busy" | "bad"}

`have` is also answered while a blob is on its way to the asked node: by the SHA-256 of the manifest (32 bytes), and a
bit for each chunk that is there, the first one in the highest bit of the first byte. Those chunks may be asked for.

    → {"get":"keep","sha256":ID,"size":N}                     fetch this blob from me, and keep it
    ← {"length":0,"status":"ok"} once it is durable there, or "busy" (ask later), "full" (no room for it, or none for
      more of this peer's), "unknown" (it could not be fetched) or "bad" (it is larger, or no age file)

    → {"get":"drop","sha256":ID}                              I no longer need what I asked you to keep
    ← {"length":0,"status":"ok"}, also where nothing is kept

A request that a node does not know is `bad`.

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
KEEP_S = 60.0
KEEP_RATE = 256 * 1024
"""Seconds, and bytes a second, that a pushed blob has to arrive in; slower ones give their place to others."""
_MANIFEST_HEAD = 256
_MANIFEST_CHUNK = 67
"""Bytes of canonical JSON: everything but the chunks, and each chunk."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
Status = Literal["ok", "unknown", "busy", "bad", "full"]
_STATUSES = ("ok", "unknown", "busy", "bad", "full")


class BlobProtocolError(PeerError):
    """A message that is none of this protocol's."""

    code = "blob_protocol"


class UnknownRequest(BlobProtocolError):
    """A well-formed request of a kind that this version does not have."""

    code = "blob_request"


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


@attrs.frozen
class HaveRequest:
    sha256: str

    def encode(self) -> bytes:
        return strictjson.canonical({"get": "have", "sha256": self.sha256})


@attrs.frozen
class KeepRequest:
    sha256: str
    size: int

    def encode(self) -> bytes:
        return strictjson.canonical({"get": "keep", "sha256": self.sha256, "size": self.size})

    @property
    def limit_s(self) -> float:
        """Seconds until it is given up, at both ends."""
        return KEEP_S + self.size / KEEP_RATE


@attrs.frozen
class DropRequest:
    """The sender no longer needs what it asked to keep."""

    sha256: str

    def encode(self) -> bytes:
        return strictjson.canonical({"get": "drop", "sha256": self.sha256})


Request = ManifestRequest | ChunksRequest | HaveRequest | KeepRequest | DropRequest
_KINDS = ("manifest", "chunks", "have", "keep", "drop")


def decode_request(data: bytes) -> Request:
    """Raises `BlobProtocolError`, of which `UnknownRequest` may be answered with `bad`."""
    fields = _fields(data, MAX_REQUEST)
    if isinstance(fields.get("get"), str) and fields["get"] not in _KINDS:
        raise UnknownRequest("a request of an unknown kind")
    sha256 = fields.get("sha256")
    if not is_blob_id(sha256):
        raise BlobProtocolError("a request without a blob id")
    sha256 = cast("str", sha256)
    if fields.get("get") == "manifest" and len(fields) == 2:
        return ManifestRequest(sha256)
    if fields.get("get") == "have" and len(fields) == 2:
        return HaveRequest(sha256)
    if fields.get("get") == "drop" and len(fields) == 2:
        return DropRequest(sha256)
    if fields.get("get") == "keep":
        size = fields.get("size")
        if len(fields) != 3 or type(size) is not int or not 0 <= size <= MAX_CHUNKS * CHUNK:
            raise BlobProtocolError("a request to keep a blob without its size")
        return KeepRequest(sha256, size)
    first, count = fields.get("first"), fields.get("count")
    if fields.get("get") != "chunks" or len(fields) != 4 or type(first) is not int or type(count) is not int:
        raise BlobProtocolError("a request that is not complete")
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


@attrs.frozen
class Have:
    """The chunks of a blob that a peer has."""

    manifest: bytes
    """SHA-256 of the manifest that it knows them by."""
    bits: bytes

    @classmethod
    def of(cls, manifest: bytes, present: Iterable[int], count: int) -> Have:
        bits = bytearray(-(-count // 8))
        for index in present:
            bits[index // 8] |= 0x80 >> index % 8
        return cls(manifest, bytes(bits))

    def encode(self) -> bytes:
        return self.manifest + self.bits

    @classmethod
    def decode(cls, data: bytes, count: int) -> Have:
        """Of a blob of `count` chunks. Raises `BlobProtocolError`."""
        if len(data) != have_length(count):
            raise BlobProtocolError("chunks of a blob of another size")
        return cls(data[:32], data[32:])

    def __contains__(self, index: int) -> bool:
        return bool(self.bits[index // 8] & 0x80 >> index % 8)

    def whole(self, count: int) -> bool:
        return all(index in self for index in range(count))


def have_length(count: int) -> int:
    """Bytes of an encoded `Have` of so many chunks."""
    return 32 + -(-count // 8)


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

    @property
    def present(self) -> set[int]:
        return set(range(len(self.manifest.chunks))).difference(self._missing)

    def take(self, most: int = MAX_CHUNKS_A_REQUEST, of: Have | None = None) -> range:
        """The next run of chunks (of those that the holder has) that nobody is sending; empty when there is none."""

        def free(index: int) -> bool:
            return index in self._missing and index not in self._underway and (of is None or index in of)

        first = next(filter(free, self._missing), None)
        if first is None:
            return range(0)
        last = first
        while last - first + 1 < most and free(last + 1):
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
