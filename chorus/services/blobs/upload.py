"""An upload as it streams: bounded, hashed and written off the reactor's thread, gone without a trace if it fails."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from chorus.errors import ChorusError, UserError
from chorus.services.blobs.fetch import BlobTooLarge

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.protocols.blobs import Manifest
    from chorus.seams import Document
    from chorus.services.blobs.files import Ingest
    from chorus.services.blobs.offload import Offload

HIGH_WATER = 4 * 1024 * 1024
"""Bytes waiting for the disk above which the sender is asked to pause."""
LOW_WATER = 1024 * 1024
MAX_BUFFERED = 32 * 1024 * 1024
"""Above it `write` itself writes, so that a sender that cannot pause is held at the speed of the disk."""


class DigestMismatch(UserError):
    """The content is not what was announced."""

    code = "digest_mismatch"
    http_status = 422

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"the content's SHA-256 is {found}, announced was {expected}")


class UploadIntake(Protocol):
    """The blobs of the node, as an upload needs them."""

    def ingest(self) -> Ingest:
        """A new temporary file."""

    def reserve(self, size: int) -> None:
        """Take bytes of the quota, or give them back (negative). Raises `BlobStoreFull`."""

    async def keep_ingest(self, ingest: Ingest, manifest: Manifest) -> object:
        """Give synced bytes their name and their row."""


class BlobUpload:
    """`chorus.http.ports.BlobWriter`. Set `on_pressure` to hear when to pause (True) and go on (False)."""

    _log = Logger()

    def __init__(
        self,
        expected: str | None,
        limit: int,
        intake: UploadIntake,
        offload: Offload,
    ) -> None:
        self.on_pressure: Callable[[bool], None] | None = None
        self.size = 0
        self._expected = expected
        self._limit = limit
        self._intake = intake
        self._offload = offload
        self._ingest: Ingest | None = None
        self._pending: collections.deque[bytes] = collections.deque()
        self._buffered = 0
        self._writing = threading.Lock()
        self._pumping = False
        self._pressed = False
        self._error: BaseException | None = None
        self._over = False
        self._idle: list[Deferred[None]] = []

    def write(self, data: bytes) -> None:
        """Raises `BlobTooLarge`, `BlobStoreFull` or `BlobStoreUnavailable`; the upload is over then."""
        if self._error is not None:
            raise self._error
        if self._over:
            raise ValueError("the upload is over")
        if not data:
            return
        try:
            if self.size + len(data) > self._limit:
                raise BlobTooLarge(None, self._limit)
            self._intake.reserve(len(data))
        except ChorusError as problem:
            self._fail(problem)
            raise
        self.size += len(data)
        self._buffered += len(data)
        self._pending.append(data)
        if self._buffered > MAX_BUFFERED:
            self._write_now()
        self._pump()
        self._press(self._buffered > HIGH_WATER)

    def finish(self) -> Deferred[Document]:
        """{sha256, size} once it is durable. Fails with what `write` raises, and with `DigestMismatch`."""
        if self._error is not None:
            return fail(self._error)
        if self._over:
            raise ValueError("the upload is over")
        self._over = True
        return Deferred.fromCoroutine(self._finish())

    def abort(self) -> None:
        """Nothing of it stays. Idempotent, and without effect after `finish`."""
        if not self._over:
            self._over = True
            self._clean_up()

    async def _finish(self) -> Document:
        try:
            await self._until_idle()
            if self._error is not None:
                raise self._error
            ingest, manifest = await self._offload(self._sync)
            self._ingest = None
            if self._expected is not None and manifest.sha256 != self._expected:
                await self._offload(ingest.abort)
                raise DigestMismatch(self._expected, manifest.sha256)
            await self._intake.keep_ingest(ingest, manifest)
            return {"sha256": manifest.sha256, "size": manifest.size}
        finally:
            self._clean_up()

    def _sync(self) -> tuple[Ingest, Manifest]:
        ingest = self._ingest or self._intake.ingest()
        return ingest, ingest.sync()

    def _drain(self) -> int:
        """Write what is pending; on a thread of `offload`, or on the reactor's. Returns the bytes written."""
        written = 0
        with self._writing:
            while self._pending:
                if self._ingest is None:
                    self._ingest = self._intake.ingest()
                try:
                    data = self._pending.popleft()
                except IndexError:
                    break  # the upload was given up meanwhile
                self._ingest.write(data)
                written += len(data)
        return written

    def _write_now(self) -> None:
        try:
            self._drained(self._drain())
        except ChorusError as problem:
            self._fail(problem)
            raise

    def _pump(self) -> None:
        if self._pumping or not self._pending:
            return
        self._pumping = True
        self._offload(self._drain).addCallbacks(self._drained, self._drain_failed).addBoth(self._pumped)

    def _drained(self, written: int) -> None:
        self._buffered -= written
        self._press(self._buffered > LOW_WATER and self._pressed)

    def _drain_failed(self, reason: Failure) -> None:
        if not isinstance(reason.value, ChorusError):
            self._log.failure("an upload could not be written", reason)
        self._fail(reason.value or ChorusError("the upload failed"))

    def _pumped(self, _: object) -> None:
        self._pumping = False
        if self._error is None:
            self._pump()
        if not self._pumping:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def _press(self, pressed: bool) -> None:
        if pressed != self._pressed:
            self._pressed = pressed
            if self.on_pressure is not None:
                self.on_pressure(pressed)

    def _until_idle(self) -> Deferred[None]:
        if not self._pumping:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._idle.append(waiter)
        return waiter

    def _fail(self, problem: BaseException) -> None:
        self._error = self._error or problem
        self._pending.clear()
        self._buffered = 0
        self._press(False)
        if not self._over:
            self._over = True
            self._clean_up()

    def _clean_up(self) -> None:
        """Once no thread writes any more: remove the file, give back the quota."""
        self._pending.clear()
        size, self.size = self.size, 0
        self._intake.reserve(-size)

        def remove(_: object) -> Deferred[None] | None:
            ingest, self._ingest = self._ingest, None
            return None if ingest is None else self._offload(ingest.abort)

        self._until_idle().addCallback(remove).addErrback(
            lambda reason: self._log.failure("an upload could not be removed", reason)
        )
