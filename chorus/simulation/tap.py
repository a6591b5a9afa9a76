"""Passes the bytes of pub/sub peers to observers, between a node's host and its pub/sub service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chorus.identity import PeerId
from chorus.protocols.stream import Stream, StreamOpened, StreamReceiver

if TYPE_CHECKING:
    from chorus.services.p2p.host import P2PService

Sink = Callable[[bytes], object]
Listen = Callable[[PeerId], Sink]
"""Called for each inbound stream with its speaker; gives what takes the stream's bytes."""


class TappedHost:
    """A host whose inbound streams are heard; everything else is the host's."""

    def __init__(self, host: P2PService, listen: Listen) -> None:
        self._host = host
        self._listen = listen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def register(self, protocol: str, opened: StreamOpened, options: Any) -> None:
        self._host.register(protocol, lambda stream: opened(TappedStream(stream, self._listen)), options)


class TappedStream:
    def __init__(self, stream: Stream, listen: Listen) -> None:
        self._stream = stream
        self._sink = listen(stream.connection.peer_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def set_receiver(self, receiver: StreamReceiver) -> None:
        self._stream.set_receiver(_TappedReceiver(receiver, self._sink))


class _TappedReceiver:
    def __init__(self, receiver: StreamReceiver, sink: Sink) -> None:
        self._receiver = receiver
        self._sink = sink

    def __getattr__(self, name: str) -> Any:
        return getattr(self._receiver, name)

    def data_received(self, data: bytes) -> None:
        self._sink(data)
        self._receiver.data_received(data)
