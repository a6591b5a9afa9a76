"""Seals and unseals blobs: age files with an identity of their own, made and read by a child process that streams.

The plaintext or ciphertext goes from a file through the child into a new file of the blobs, piece by piece; it is given
out only when the child has ended well. Small ones are done in a thread: they hold the interpreter for under 2 ms.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, TypeVar

from twisted.internet.defer import DeferredSemaphore

from chorus.errors import LocalError
from chorus.security import age
from chorus.security.age import child
from chorus.services.blobs.files import READ_SIZE
from chorus.services.blobs.ports import SealedBlob
from chorus.services.blobs.sources import open_source, pieces

if TYPE_CHECKING:
    from chorus.protocols.blobs import Manifest
    from chorus.services.blobs.files import Ingest
    from chorus.services.blobs.offload import Offload

T = TypeVar("T")

MAX_CHILDREN = 2
"""Files sealed or unsealed at once; each is a process with 25 MB and a thread of the blobs."""
DIRECT = 256 * 1024
"""Bytes up to which no process is worth its start."""
MAX_KEY = 128
"""Bytes of an identity's line."""
OVERHEAD = 1024
"""Bytes of header and nonce of an age file at most, as we make them; each 64 KiB adds 16 for its tag."""


class SealBroken(LocalError):
    """A sealed blob that its key does not open, or that does not hold what its record says; nothing of it is kept."""

    code = "seal_broken"
    http_status = 502


class SealFailed(LocalError):
    """A blob could not be sealed; nothing of it is kept."""

    code = "seal_failed"


class SealIntake(Protocol):
    """The blobs of the node, as sealing needs them."""

    def ingest(self) -> Ingest: ...

    def reserve(self, size: int) -> None:
        """Take bytes of the quota, or give them back (negative). Raises `BlobStoreFull`."""

    async def keep_ingest(self, ingest: Ingest, manifest: Manifest) -> object: ...


def sealed_size(size: int) -> int:
    """The most bytes that the age file of so many bytes has."""
    return size + 16 * (size // 65536 + 1) + OVERHEAD


class Sealer:
    """`stop` ends the processes; what they were at fails with `SealFailed` or `SealBroken`."""

    def __init__(self, blobs: SealIntake, offload: Offload) -> None:
        self._blobs = blobs
        self._offload = offload
        self._slots = DeferredSemaphore(MAX_CHILDREN)
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        for process in list(self._children):
            process.kill()

    async def seal(self, path: Path) -> SealedBlob:
        """Make a blob of the age file of a regular file. Raises `SourceUnreadable`, `BlobStoreFull`, `SealFailed`."""
        source, size = await self._offload(lambda: open_source(path))
        with source:
            key: list[str] = []
            most = sealed_size(size)
            stored = await self._through(lambda: self._sealed(source, size, key), most, SealFailed, self._keep)
        return SealedBlob(stored, size, key[0])

    async def _keep(self, ingest: Ingest, manifest: Manifest) -> str:
        await self._blobs.keep_ingest(ingest, manifest)
        return manifest.sha256

    async def unseal(self, path: Path, key: str, sha256: str, size: int) -> Ingest:
        """The content of the age file at `path`, synced, no blob; the caller removes it. Raises `SealBroken`,
        `BlobStoreFull`."""

        async def checked(ingest: Ingest, manifest: Manifest) -> Ingest:
            if (manifest.sha256, manifest.size) != (sha256, size):
                await self._offload(ingest.abort)
                raise SealBroken("the content is not what its record says")
            return ingest

        source, length = await self._offload(lambda: open_source(path))
        with source:
            return await self._through(lambda: self._unsealed(source, length, key), size, SealBroken, checked)

    async def check(self, path: Path) -> None:
        """Raises `SealBroken` for what does not begin as an age file: plaintext never goes out by mistake."""
        await self._offload(lambda: check_sealed(path))

    async def _through(
        self,
        content: Callable[[], Generator[bytes, None, None]],
        most: int,
        broken: type[LocalError],
        use: Callable[[Ingest, Manifest], Awaitable[T]],
    ) -> T:
        """Take in at most `most` bytes; what `use` makes of them."""

        def take_in() -> tuple[Ingest, Manifest]:
            ingest = self._blobs.ingest()
            try:
                with contextlib.closing(content()) as arriving:
                    for piece in arriving:
                        if ingest.size + len(piece) > most:
                            raise broken("the content is larger than it may be")
                        ingest.write(piece)
                manifest = ingest.sync()
            except BaseException:
                ingest.abort()
                raise
            return ingest, manifest

        await self._slots.acquire()
        try:
            self._blobs.reserve(most)
            try:
                return await use(*await self._offload(take_in))
            finally:
                self._blobs.reserve(-most)
        finally:
            self._slots.release()

    # In a thread

    def _sealed(self, source: IO[bytes], size: int, key: list[str]) -> Generator[bytes, None, None]:
        if size <= DIRECT:
            key.append(age.new_identity())
            yield age.encrypt(b"".join(pieces(source, size)), [age.recipient_of(key[0])])
            return
        with self._child(["seal"], source, SealFailed) as output:
            key.append(output.readline(MAX_KEY).decode("ascii").strip())
            yield from iter(lambda: output.read(READ_SIZE), b"")

    def _unsealed(self, source: IO[bytes], length: int, key: str) -> Generator[bytes, None, None]:
        _check_header(source)
        if length <= DIRECT:
            try:
                content = age.decrypt(b"".join(pieces(source, length)), [key])
            except (age.AgeError, age.BadAgeKey) as problem:
                raise SealBroken(f"the sealed blob cannot be opened: {problem}") from None
            yield content
            return
        given, giving = os.pipe2(os.O_CLOEXEC)
        try:
            with open(giving, "wb") as end:
                end.write(key.encode("ascii")[:MAX_KEY])
            with self._child(["unseal", str(given)], source, SealBroken, given) as output:
                yield from iter(lambda: output.read(READ_SIZE), b"")
        finally:
            os.close(given)

    @contextlib.contextmanager
    def _child(
        self, arguments: list[str], source: IO[bytes], broken: type[LocalError], *passed: int
    ) -> Iterator[IO[bytes]]:
        """The output of a child that reads `source`; raises `broken` at the end unless it ended well."""
        argv = [sys.executable, "-I", child.__file__, *arguments]
        try:
            process = subprocess.Popen(
                argv, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=passed
            )
        except OSError as problem:
            raise broken(f"no process could be started: {problem.strerror}") from None
        assert process.stdout is not None
        with process:
            self._children.add(process)
            try:
                if self._stopped.is_set():
                    process.kill()
                yield process.stdout
                if process.wait():
                    raise broken("it was truncated or altered, or the process was ended")
            finally:
                process.kill()
                self._children.discard(process)


def check_sealed(path: Path) -> None:
    """Blocking. Raises `SealBroken` for what does not begin as an age file, and `SourceUnreadable`."""
    source, _ = open_source(path)
    with source:
        _check_header(source)


def _check_header(file: IO[bytes]) -> None:
    try:
        age.check_header(os.pread(file.fileno(), age.MAX_HEADER, 0))
    except age.AgeError as problem:
        raise SealBroken(f"this is no sealed blob: {problem}") from None
