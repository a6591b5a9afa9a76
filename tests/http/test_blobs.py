from __future__ import annotations

import base64
import hashlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from chorus.http import limits
from chorus.http.downloads import _range
from chorus.http.problem import HttpError
from tests.http.wire import MAX_BLOB, ApiCase, Response

CONTENT = random.Random(7).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
BASE64 = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()


SIZE = 48 * 1024 * 1024
"""More than all buffers of two sockets together."""


class Uploads(ApiCase):
    async def test_put(self) -> None:
        for path, lines in (
            ("/v1/blobs", ()),
            (f"/v1/blobs?sha256={DIGEST}", ()),
            (f"/v1/blobs/{DIGEST}", ()),
            ("/v1/blobs", (f"Content-Digest: sha-256=:{BASE64}:",)),
            (f"/v1/blobs/{DIGEST}?sha256={DIGEST}", (f"Content-Digest: md5=:AAAA:, sha-256=:{BASE64}:",)),
        ):
            self.blobs.blobs.clear()
            response = await self.ask("PUT", path, *lines, body=CONTENT)
            self.assertEqual((response.status, response.json), (201, {"sha256": DIGEST, "size": len(CONTENT)}), path)
            self.assertEqual(response.headers["location"], f"/v1/blobs/{DIGEST}")
            self.assertEqual(self.blobs.blobs[DIGEST], CONTENT)
            writer = self.blobs.writers[-1]
            self.assertEqual((writer.finished, writer.aborted), (True, False))
        self.assertEqual(self.service.api.gate.uploads, 0)

    async def test_an_empty_blob(self) -> None:
        response = await self.ask("PUT", "/v1/blobs", body=b"")
        self.assertEqual(response.json, {"sha256": hashlib.sha256(b"").hexdigest(), "size": 0})

    async def test_chunked(self) -> None:
        head = self.head("PUT", "/v1/blobs", "Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (CONTENT[:1], CONTENT[1:]))
        response = await self.say(head + body + b"0\r\n\r\n")
        self.assertEqual(response.json["sha256"], DIGEST)

    async def test_it_streams(self) -> None:
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", f"Content-Length: {len(CONTENT)}") + CONTENT[:1000])
        while not self.blobs.writers or len(self.blobs.writers[0].data) < 1000:
            await self.ask("GET", "/v1/status")
        self.assertEqual(bytes(self.blobs.writers[0].data), CONTENT[:1000])
        wire.transport.write(CONTENT[1000:])
        self.assertIn(b"201 Created", await wire.until(b"\r\n\r\n"))

    async def test_a_client_that_leaves_leaves_nothing(self) -> None:
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", f"Content-Length: {len(CONTENT)}") + CONTENT[:1000])
        while not self.blobs.writers:
            await self.ask("GET", "/v1/status")
        wire.transport.abortConnection()
        await wire.closed
        while not self.blobs.writers[0].aborted:
            await self.ask("GET", "/v1/status")
        self.assertEqual((self.blobs.blobs, self.service.api.gate.uploads), ({}, 0))

    async def test_another_content_than_announced(self) -> None:
        response = await self.ask("PUT", f"/v1/blobs/{'0' * 64}", body=b"content")
        self.assert_problem(response, 422, "digest_mismatch")

    async def test_bad_digests(self) -> None:
        other = base64.b64encode(bytes(32)).decode()
        for path, line, code in (
            ("/v1/blobs/nope", "A: b", "bad_sha256"),
            ("/v1/blobs/" + DIGEST.upper(), "A: b", "bad_sha256"),
            ("/v1/blobs/..%2f..%2fetc", "A: b", "bad_sha256"),
            ("/v1/blobs/", "A: b", "bad_sha256"),
            ("/v1/blobs?sha256=x", "A: b", "bad_sha256"),
            ("/v1/blobs?sha=x", "A: b", "bad_query"),
            ("/v1/blobs", "Content-Digest: sha-256=abc", "bad_digest"),
            ("/v1/blobs", "Content-Digest: sha-256=:AAAA:", "bad_digest"),
            ("/v1/blobs", "Content-Digest: sha-256=:A:", "bad_digest"),
            (f"/v1/blobs/{DIGEST}", f"Content-Digest: sha-256=:{other}:", "bad_digest"),
        ):
            self.assert_problem(await self.ask("PUT", path, line, body=b"x"), 409 if other in line else 400, code)
        self.assertEqual(self.blobs.writers, [])

    async def test_too_large_by_its_length(self) -> None:
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", f"Content-Length: {MAX_BLOB + 1}"))
        self.assert_problem(Response(await wire.closed), 413, "body_too_large")
        self.assertEqual(self.blobs.writers, [])

    async def test_too_large_while_it_streams(self) -> None:
        self.blobs.maximum = 100_000
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", "Transfer-Encoding: chunked"))
        for _ in range(4):
            wire.transport.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        # The end of the body never comes.
        self.assert_problem(Response(await wire.closed), 413, "blob_too_large")
        self.assertLess(len(self.blobs.writers[0].data), 300_000)
        self.assertTrue(self.blobs.writers[0].aborted)
        self.assertEqual(self.service.api.gate.uploads, 0)

    async def test_an_upload_without_progress(self) -> None:
        self.patch(limits, "UPLOAD_WINDOW_S", 0.05)
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", "Content-Length: 100000") + b"x")
        self.assert_problem(Response(await wire.closed), 408, "too_slow")
        self.assertTrue(self.blobs.writers[0].aborted)

    async def test_a_disk_that_falls_behind_holds_the_sender(self) -> None:
        window = limits.UPLOAD_WINDOW_S
        self.patch(limits, "UPLOAD_WINDOW_S", 0.1)
        self.blobs.behind = True
        size = MAX_BLOB - 10
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", f"Content-Length: {size}") + b"x")
        while not self.blobs.writers:
            await self.ask("GET", "/v1/status")
        writer = self.blobs.writers[0]
        wire.transport.write(bytes(size - 1))
        before, until = -1, reactor.seconds() + 1.0
        while len(writer.data) != before or reactor.seconds() < until:
            before = len(writer.data)
            for _ in range(20):
                await self.ask("GET", "/v1/status")
        # Held for many windows, and not taken for a client without progress.
        self.assertLess(before, size)
        # From here on the sender's progress counts again: as long a window as a machine of any speed needs.
        limits.UPLOAD_WINDOW_S = window
        until = reactor.seconds() + 0.5
        while reactor.seconds() < until:
            await self.ask("GET", "/v1/status")
        assert writer.on_pressure is not None
        writer.on_pressure(False)
        self.assertIn(b"201 Created", await wire.until(b"\r\n\r\n"))
        self.assertEqual(len(writer.data), size)

    async def test_too_many_at_once(self) -> None:
        self.patch(limits, "MAX_UPLOADS", 1)
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", "Content-Length: 100000") + b"x")
        while not self.blobs.writers:
            await self.ask("GET", "/v1/status")
        self.assert_problem(await self.ask("PUT", "/v1/blobs", body=b"x"), 503, "busy")

    async def test_an_encoded_body_is_not_taken(self) -> None:
        self.assert_problem(
            await self.ask("PUT", "/v1/blobs", "Content-Encoding: gzip", body=b"x"), 415, "unsupported_encoding"
        )


class Downloads(ApiCase):
    def setUp(self) -> None:
        super().setUp()
        self.blobs.put(CONTENT)

    async def get(self, *lines: str) -> Response:
        return await self.ask("GET", f"/v1/blobs/{DIGEST}", *lines)

    async def test_get(self) -> None:
        response = await self.get()
        self.assertEqual((response.status, response.body), (200, CONTENT))
        self.assertEqual(response.headers["etag"], f'"{DIGEST}"')
        self.assertEqual(response.headers["content-type"], "application/octet-stream")
        self.assertEqual(response.headers["content-disposition"], "attachment")
        self.assertEqual(response.headers["accept-ranges"], "bytes")
        self.assertIn("immutable", response.headers["cache-control"])
        self.assertTrue(all(file.closed for file in self.blobs.opened))

    async def test_an_empty_blob(self) -> None:
        response = await self.ask("GET", "/v1/blobs/" + self.blobs.put(b""))
        self.assertEqual((response.status, response.body, response.headers["content-length"]), (200, b"", "0"))

    async def test_unknown(self) -> None:
        for name in ("0" * 64, "x", "..%2f..%2fetc%2fpasswd", "%2e%2e", DIGEST.upper(), DIGEST + "0"):
            response = await self.ask("GET", f"/v1/blobs/{name}")
            self.assertEqual(response.status, 404)
            self.assertEqual(response.headers["cache-control"], "no-store")
            self.assertNotIn("etag", response.headers)

    async def test_ciphertext(self) -> None:
        self.assertEqual((await self.ask("GET", f"/ucxi/v1/blobs/{DIGEST}")).status, 404, "no ciphertext")
        self.blobs.sealed.add(DIGEST)
        path = f"/ucxi/v1/blobs/{DIGEST}"
        self.assertEqual((await self.ask("GET", path)).body, CONTENT)
        part = await self.ask("GET", path, "Range: bytes=1-3")
        self.assertEqual((part.status, part.body), (206, CONTENT[1:4]))
        self.assertEqual(part.headers["content-range"], f"bytes 1-3/{len(CONTENT)}")
        self.assertEqual((await self.ask("GET", path, f"Range: bytes={len(CONTENT)}-")).status, 416)
        self.assertEqual((await self.ask("GET", path, f'If-None-Match: "{DIGEST}"')).status, 304)
        self.assert_problem(await self.ask("GET", path, "Authorization: Bearer x"), 401, "unauthorized")

    async def test_not_modified(self) -> None:
        for tag in (f'"{DIGEST}"', f'W/"{DIGEST}"', f'"x", "{DIGEST}"', "*"):
            response = await self.get(f"If-None-Match: {tag}")
            self.assertEqual((response.status, response.body), (304, b""))
        self.assertEqual((await self.get('If-None-Match: "x"')).status, 200)

    async def test_ranges(self) -> None:
        size = len(CONTENT)
        for text, start, stop in (
            ("0-0", 0, 1),
            ("0-", 0, size),
            ("299999-", 299_999, size),
            ("1000-280000", 1000, 280_001),
            ("100-9999999", 100, size),
            ("-10", size - 10, size),
            ("-9999999", 0, size),
        ):
            response = await self.get(f"Range: bytes={text}")
            self.assertEqual((response.status, response.body), (206, CONTENT[start:stop]), text)
            self.assertEqual(response.headers["content-range"], f"bytes {start}-{stop - 1}/{size}")

    async def test_ranges_that_cannot_be(self) -> None:
        for text in ("300000-", "300000-300001", "-0"):
            response = await self.get(f"Range: bytes={text}")
            self.assert_problem(response, 416, "bad_range")
            self.assertEqual(response.headers["content-range"], "bytes */300000")

    async def test_ranges_that_are_ignored(self) -> None:
        for text in ("bytes=0-1,5-6", "bytes=5-2", "bytes=-", "bytes=a-b", "items=0-1"):
            self.assertEqual((await self.get(f"Range: {text}")).status, 200, text)

    async def test_if_range(self) -> None:
        self.assertEqual((await self.get("Range: bytes=0-0", f'If-Range: "{DIGEST}"')).status, 206)
        self.assertEqual((await self.get("Range: bytes=0-0", 'If-Range: "x"')).status, 200)

    async def test_a_slow_reader_does_not_fill_memory(self) -> None:
        big = self.blobs.put(bytes(SIZE))
        wire = await self.connect()
        wire.transport.write(self.head("GET", f"/v1/blobs/{big}"))
        await wire.until(b"\r\n\r\n")
        wire.transport.pauseProducing()
        before = -1
        while self.blobs.opened[0].tell() != before:
            before = self.blobs.opened[0].tell()
            for _ in range(5):
                await self.ask("GET", "/v1/status")
        # The sockets' buffers, and not the blob.
        self.assertLess(before, 16 * 1024 * 1024)
        wire.transport.resumeProducing()
        response = Response(await wire.until(lambda data: len(data) >= data.find(b"\r\n\r\n") + 4 + SIZE))
        self.assertTrue(response.complete)

    async def test_a_reader_that_takes_nothing_is_dropped(self) -> None:
        self.patch(limits, "STALL_S", 0.05)
        big = self.blobs.put(bytes(32 * 1024 * 1024))
        wire = await self.connect()
        wire.transport.write(self.head("GET", f"/v1/blobs/{big}"))
        await wire.until(b"\r\n\r\n")
        wire.transport.pauseProducing()
        while not self.blobs.opened[0].closed:
            await self.ask("GET", "/v1/status")
        wire.transport.resumeProducing()
        self.assertFalse(Response(await wire.closed).complete)

    async def test_a_client_that_leaves_closes_the_file(self) -> None:
        big = self.blobs.put(bytes(32 * 1024 * 1024))
        wire = await self.connect()
        wire.transport.write(self.head("GET", f"/v1/blobs/{big}"))
        await wire.until(b"\r\n\r\n")
        wire.transport.abortConnection()
        await wire.closed
        while not self.blobs.opened[0].closed:
            await self.ask("GET", "/v1/status")

    async def test_a_blob_that_became_shorter_is_a_broken_answer(self) -> None:
        self.blobs.blobs["a" * 64] = CONTENT
        real = self.blobs.open

        def short(sha256: str) -> object:
            return real(sha256).addCallback(lambda found: (found[0], found[1] + 10))

        self.blobs.open = short  # type: ignore[assignment, method-assign]
        wire = await self.connect()
        wire.transport.write(self.head("GET", "/v1/blobs/" + "a" * 64))
        self.assertFalse(Response(await wire.closed).complete)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    async def test_too_many_at_once(self) -> None:
        self.patch(limits, "MAX_DOWNLOADS", 0)
        self.assert_problem(await self.get(), 503, "busy")


class Asked:
    """As much of a request as `_range` looks at."""

    method = b"GET"

    def __init__(self, text: str) -> None:
        self.requestHeaders = Headers({"Range": [text]})


class Ranges(SynchronousTestCase):
    @given(st.text(alphabet="bytes=-0123456789, ", max_size=40), st.integers(0, 2000))
    @settings(deadline=None, max_examples=500)
    def test_a_range_lies_within_the_blob(self, text: str, size: int) -> None:
        for header in (text, "bytes=" + text):
            try:
                found = _range(Asked(header), size, '"x"')  # type: ignore[arg-type]
            except HttpError as error:
                self.assertEqual(error.status, 416)
            else:
                if found is not None:
                    self.assertTrue(0 <= found[0] < found[1] <= size)
