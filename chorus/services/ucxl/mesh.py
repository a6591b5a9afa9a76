"""Connected members, and the topic on which decisions are announced."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.messages.decisions import DecisionAnnouncement

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.messages.envelope import Envelope
    from chorus.protocols.stream import Host
    from chorus.services.messaging import Messaging


class PubSubMesh:
    """Implements `Mesh`."""

    _log = Logger()

    def __init__(self, host: Host, messaging: Messaging) -> None:
        self._host = host
        self._messaging = messaging

    def connected(self, peer: PeerId) -> bool:
        return any(connection.peer_id == peer for connection in self._host.connections())

    def announce(self, address: str) -> None:
        try:
            self._messaging.say(DecisionAnnouncement(address=address))
        except ChorusError as error:
            self._log.warn("{address} is not announced: {error}", address=address, error=error)

    def listen(self, heard: Callable[[str], None]) -> None:
        def take(envelope: Envelope, _: object) -> None:
            if isinstance(envelope.data, DecisionAnnouncement):
                heard(envelope.data.address)

        self._messaging.listen(DecisionAnnouncement, take)
