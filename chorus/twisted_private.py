# mypy: allow-untyped-calls
"""The private names of Twisted that CHORUS uses, under names of its own.

No other file uses them. Any release of Twisted may change them, so setup.cfg bounds it from above; the bound is raised
when this file was read beside the new release and the tests of the HTTP ports and of the log passed with it.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from twisted.internet.protocol import ServerFactory
from twisted.logger import FileLogObserver
from twisted.web.http import HTTPChannel

if TYPE_CHECKING:
    from twisted.logger import LogPublisher


class OpenChannel(HTTPChannel):
    """Twisted's HTTP/1.1 channel. Override `bad_request`."""

    _networkProducer: Any

    def bad_request(self) -> None:
        """Called for bytes that are no well-formed HTTP/1.1 request, and for headers over the limits."""
        super()._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.bad_request()

    @property
    def over_header_limits(self) -> bool:
        return bool(self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders)

    @property
    def handling_request(self) -> bool:
        """A request is whole, and its answer is not."""
        return bool(self._handlingRequest)

    def head(self) -> tuple[bytes, bytes, bytes]:
        """(method, target, version) of the request whose headers are complete."""
        return self._command, self._path, self._version

    def pause_reading(self) -> None:
        self._networkProducer.pauseProducing()

    def resume_reading(self) -> None:
        self._networkProducer.resumeProducing()

    def send_continue(self) -> None:
        self._send100Continue()

    def forget_abort(self) -> None:
        """The timer that was to abort the connection has run, or is not needed any more."""
        self._abortingCall = None


class PlainFactory(ServerFactory):
    """A factory of sites whose requests parse no forms."""

    _parsePOSTFormSubmission = False


def log_files(publisher: LogPublisher) -> list[FileLogObserver]:
    """Those of its observers that write files."""
    return [each for each in list(publisher._observers) if isinstance(each, FileLogObserver)]


def has_observers(publisher: LogPublisher) -> bool:
    return bool(publisher._observers)


def file_of(observer: FileLogObserver) -> IO[Any]:
    return observer._outFile
