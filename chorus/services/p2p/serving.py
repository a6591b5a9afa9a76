"""The protocols that a host serves: the rules of open mode and admission, and the dispatch of inbound streams.

A stream over a limit is reset once its protocol is agreed, when its negotiation has already cost something; so a peer
that opens too many of them is closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import attrs
from twisted.logger import Logger

from chorus.errors import LimitExceeded
from chorus.protocols.stream import ProtocolNotSupported, ProtocolOptions, Stream, StreamOpened
from chorus.services.p2p.gate import allowed_in_open_mode
from chorus.services.p2p.link import Link
from chorus.services.p2p.system_scope import SystemScope

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.protocols.connection.streams import MuxedStream


@attrs.frozen
class _Served:
    opened: StreamOpened
    options: ProtocolOptions


class ServedProtocols:
    """`changed` is called after each change: peers are told. `refused` counts streams by the name of the limit."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        scope: SystemScope,
        *,
        open_mode: bool,
        changed: Callable[[], None],
        refused: Counter[str],
    ) -> None:
        self._clock = clock
        self._scope = scope
        self._open_mode = open_mode
        self._changed = changed
        self._refused = refused
        self._serving: dict[str, _Served] = {}

    def register(self, protocol: str, opened: StreamOpened, options: ProtocolOptions) -> None:
        if self._open_mode and not allowed_in_open_mode(protocol):
            self._log.debug("{protocol} is not served in open mode", protocol=protocol)
            return
        self._serving[protocol] = _Served(opened, options)
        self._changed()

    def unregister(self, protocol: str) -> None:
        if self._serving.pop(protocol, None) is not None:
            self._changed()

    def names(self) -> list[str]:
        return list(self._serving)

    def may_speak(self, protocol: str, *, admitted: bool) -> bool:
        """True if a peer may open a stream of it; `admitted` is whether its connection is."""
        served = self._serving.get(protocol)
        return served is not None and (admitted or not served.options.needs_admission)

    def stream_opened(self, link: Link, stream: Stream) -> None:
        """Hand an inbound stream, whose protocol is agreed, to its service; or reset it."""
        served = self._serving.get(stream.protocol)
        if served is None:
            stream.reset(ProtocolNotSupported(stream.protocol))
            return
        try:
            self._scope.count_stream(link, cast("MuxedStream", stream), served.options.max_inbound_per_peer)
        except LimitExceeded as error:
            self._refused[error.limit] += 1
            stream.reset(error)
            self._count_refused(link)
            return
        served.opened(stream)

    def _count_refused(self, link: Link) -> None:
        try:
            link.count_refused(self._clock.seconds())
        except LimitExceeded as error:
            link.connection.close(error)
