from __future__ import annotations

import contextlib
import hashlib
import random

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError
from chorus.protocols import blobs
from chorus.protocols.blobs import (
    CHUNK,
    MAX_CHUNKS,
    MAX_CHUNKS_A_REQUEST,
    Answer,
    BlobProtocolError,
    ChunksRequest,
    Download,
    DropRequest,
    Have,
    HaveRequest,
    KeepRequest,
    Manifest,
    ManifestBuilder,
    ManifestRequest,
    UnknownRequest,
    decode_request,
    have_length,
    manifest_limit,
)
from tests.support import PureTestCase

ID = "ab" * 32


def build(data: bytes, *pieces: int) -> Manifest:
    builder = ManifestBuilder()
    start = 0
    for piece in (*pieces, len(data)):
        builder.update(data[start : start + piece])
        start += piece
    return builder.finish()


class ManifestTests(PureTestCase):
    def test_chunks(self) -> None:
        for size, chunks in ((0, 0), (1, 1), (CHUNK, 1), (CHUNK + 1, 2), (3 * CHUNK, 3)):
            data = random.Random(size).randbytes(size)
            manifest = build(data)
            self.assertEqual((manifest.sha256, manifest.size), (hashlib.sha256(data).hexdigest(), size))
            self.assertEqual(len(manifest.chunks), chunks)
            for index in range(chunks):
                part = data[index * CHUNK :][:CHUNK]
                self.assertTrue(manifest.matches(index, part))
                self.assertFalse(manifest.matches(index, part + b"x"))
                self.assertEqual(manifest.length(index), len(part))
            self.assertEqual(manifest.span(0, chunks), size)
            self.assertEqual(Manifest.decode(manifest.encode(), manifest.sha256, size), manifest)
            self.assertEqual(manifest.digest, hashlib.sha256(manifest.encode()).hexdigest())

    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 3 * CHUNK + 5), st.lists(st.integers(0, CHUNK + 7), max_size=8))
    def test_any_cut_gives_the_same(self, size: int, pieces: list[int]) -> None:
        data = random.Random(size).randbytes(size)
        self.assertEqual(build(data, *pieces), build(data))

    def test_limit_of_manifests(self) -> None:
        for size in (0, 1, CHUNK * 3, 2**50):
            count = min(blobs.chunk_count(size), MAX_CHUNKS)
            encoded = Manifest(ID, size, (bytes(32),) * count).encode()
            self.assertLessEqual(len(encoded), manifest_limit(size))
        self.assertLess(manifest_limit(2**62), 4_500_000)

    def refuse(self, data: bytes, error: type[PeerError] = BlobProtocolError, limit: int = 2**40) -> None:
        with self.assertRaises(error):
            Manifest.decode(data, ID, limit)

    def test_limit_of_blobs(self) -> None:
        encoded = Manifest(ID, CHUNK + 1, (bytes(32), bytes(32))).encode()
        Manifest.decode(encoded, ID, CHUNK + 1)
        self.refuse(encoded, LimitExceeded, CHUNK)
        self.refuse(b" " * 10_000_000, LimitExceeded, 2**60)

    def test_lies_about_itself(self) -> None:
        good = Manifest(ID, CHUNK + 1, (bytes(32), bytes(32)))
        with self.assertRaises(BlobProtocolError):
            Manifest.decode(good.encode(), "cd" * 32, 2**40)
        for bad in (
            attrs.evolve(good, size=CHUNK),
            attrs.evolve(good, size=2 * CHUNK + 1),
            attrs.evolve(good, size=-1),
            attrs.evolve(good, size=0),
            attrs.evolve(good, chunks=(bytes(31), bytes(32))),
            attrs.evolve(good, size=CHUNK * (MAX_CHUNKS + 1), chunks=()),
        ):
            self.refuse(bad.encode())

    def test_one_spelling(self) -> None:
        text = Manifest(ID, 1, (bytes(32),)).encode()
        self.refuse(text.replace(b",", b", "))
        self.refuse(text.replace(b'"version":1', b'"version":1.0'))
        for name, value in (("version", 2), ("chunk_size", 1), ("chunks", {}), ("size", True), ("extra", 1)):
            fields = strictjson.loads(text)
            assert isinstance(fields, dict)
            self.refuse(strictjson.canonical(fields | {name: value}))
        for other in (b"", b"[]", b"{}", b"null", b'{"a":' * 99):
            self.refuse(other)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=200) | st.integers(0, 400).map(lambda n: Manifest(ID, 1, (bytes(32),)).encode()[:n]))
    def test_any_bytes(self, data: bytes) -> None:
        try:
            manifest = Manifest.decode(data, ID, 2**40)
        except PeerError:
            return
        self.assertEqual(manifest.encode(), data)


class MessageTests(PureTestCase):
    def test_round_trips(self) -> None:
        for request in (ManifestRequest(ID), ChunksRequest(ID, 0, 1), ChunksRequest(ID, MAX_CHUNKS - 64, 64)):
            self.assertEqual(decode_request(request.encode()), request)
            self.assertLess(len(request.encode()), blobs.MAX_REQUEST)
        for other in (HaveRequest(ID), DropRequest(ID), KeepRequest(ID, 0), KeepRequest(ID, MAX_CHUNKS * CHUNK)):
            self.assertEqual(decode_request(other.encode()), other)
        for answer in (Answer("full"), Answer("ok", 2**40), Answer("unknown"), Answer("busy"), Answer("bad")):
            self.assertEqual(Answer.decode(answer.encode()), answer)

    def test_refused_requests(self) -> None:
        for request in (
            ChunksRequest(ID, 0, 0),
            ChunksRequest(ID, 0, MAX_CHUNKS_A_REQUEST + 1),
            ChunksRequest(ID, -1, 1),
            ChunksRequest(ID, MAX_CHUNKS, 1),
            ChunksRequest("../../etc/passwd", 0, 1),
            ManifestRequest(ID.upper()),
            ManifestRequest(ID + "\n"),
            HaveRequest("x"),
            KeepRequest(ID, -1),
            KeepRequest(ID, MAX_CHUNKS * CHUNK + 1),
        ):
            with self.assertRaises(BlobProtocolError):
                decode_request(request.encode())
        for text in (
            b"",
            b"[]",
            b'{"get":"manifest"}',
            b'{"get":"manifest","sha256":"%s","x":1}' % ID.encode(),
            b'{"get":"chunks","sha256":"%s"}' % ID.encode(),
            b'{"count":true,"first":0,"get":"chunks","sha256":"%s"}' % ID.encode(),
            b'{"count":1.0,"first":0,"get":"chunks","sha256":"%s"}' % ID.encode(),
            b'{"get":"manifest","get":"manifest","sha256":"%s"}' % ID.encode(),
            b" " * (blobs.MAX_REQUEST + 1),
        ):
            with self.assertRaises(BlobProtocolError):
                decode_request(text)

    def test_an_unknown_request_is_told_apart(self) -> None:
        with self.assertRaises(UnknownRequest):
            decode_request(b'{"get":"proof","sha256":"%s"}' % ID.encode())
        with self.assertRaises(BlobProtocolError) as refused:
            decode_request(b'{"get":"keep","sha256":"%s"}' % ID.encode())
        self.assertNotIsInstance(refused.exception, UnknownRequest)

    def test_time_to_keep(self) -> None:
        self.assertEqual([KeepRequest(ID, size).limit_s for size in (0, 2**30)], [60.0, 60.0 + 4096])

    @given(st.sets(st.integers(0, 300)), st.integers(0, 9))
    def test_chunks_that_a_peer_has(self, present: set[int], more: int) -> None:
        count = max(present, default=-1) + 1 + more
        have = Have.decode(Have.of(bytes(32), present, count).encode(), count)
        self.assertEqual({index for index in range(count) if index in have}, present)
        self.assertEqual(have.whole(count), len(present) == count)
        self.assertEqual(len(have.encode()), have_length(count))
        with self.assertRaises(BlobProtocolError):
            Have.decode(have.encode() + b"x", count)

    def test_refused_answers(self) -> None:
        for text in (
            b"{}",
            b'{"length":1,"status":"unknown"}',
            b'{"length":-1,"status":"ok"}',
            b'{"length":0,"status":"fine"}',
            b'{"length":0,"status":["ok"]}',
            b'{"length":1e3,"status":"ok"}',
            b'{"status":"ok"}',
            b" " * (blobs.MAX_ANSWER + 1),
        ):
            with self.assertRaises(BlobProtocolError):
                Answer.decode(text)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=80))
    def test_any_bytes(self, data: bytes) -> None:
        for decode in (decode_request, Answer.decode):
            with contextlib.suppress(BlobProtocolError):
                decode(data)


class DownloadTests(PureTestCase):
    def test_runs_go_round_what_is_there(self) -> None:
        download = Download(Manifest(ID, 10 * CHUNK, (bytes(32),) * 10), present=(2, 3, 7))
        first, second, third = download.take(4), download.take(4), download.take(4)
        self.assertEqual((first, second, third), (range(0, 2), range(4, 7), range(8, 10)))
        self.assertEqual(download.take(4), range(0))
        download.arrived(4)
        download.give_back(second)
        self.assertEqual(download.take(1), range(5, 6))
        self.assertEqual(download.missing, 6)

    def test_of_those_that_a_holder_has(self) -> None:
        download = Download(Manifest(ID, 9 * CHUNK, (bytes(32),) * 9), [0])
        have = Have.of(bytes(32), [0, 1, 2, 5, 6], 9)
        self.assertEqual([download.take(2, have), download.take(8, have)], [range(1, 3), range(5, 7)])
        self.assertEqual(download.take(8, have), range(0))
        download.arrived(1)
        self.assertEqual(download.present, {0, 1})

    def test_nothing_to_do(self) -> None:
        self.assertTrue(Download(Manifest(ID, 0, ())).complete)

    @settings(deadline=None, max_examples=60)
    @given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.integers())
    def test_each_chunk_once_whatever_fails(self, count: int, present: set[int], seed: int) -> None:
        rng = random.Random(seed)
        download = Download(Manifest(ID, count * CHUNK, (bytes(32),) * count), present)
        got = {index for index in present if index < count}
        running: list[range] = []
        for _ in range(2000):
            if download.complete:
                break
            taken = download.take(rng.randint(1, 6))
            if taken:
                self.assertFalse(got & set(taken))
                self.assertFalse({each for run in running for each in run} & set(taken))
                running.append(taken)
            if running and rng.random() < 0.7:
                run = running.pop(rng.randrange(len(running)))
                for index in run[: rng.randint(0, len(run))]:
                    download.arrived(index)
                    got.add(index)
                download.give_back(run)
        self.assertTrue(download.complete)
        self.assertEqual(got, set(range(count)))
