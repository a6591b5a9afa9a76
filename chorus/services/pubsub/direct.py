"""Direct peers: dialled until they are connected; the first failure of each is logged as a warning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.identity import PeerId

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.multiformats.multiaddr import Multiaddr
    from chorus.protocols.stream import Host


class DirectPeers:
    """`addresses` end in `/p2p/…`; those of `own`, the node itself, are left out and `warn_of_own` logs them."""

    _log = Logger()

    def __init__(self, host: Host, own: PeerId, addresses: Sequence[Multiaddr]) -> None:
        self._host = host
        self._own: list[Multiaddr] = []
        self._addresses: dict[PeerId, list[Multiaddr]] = {}
        self._missed: set[PeerId] = set()
        """Said to be unreachable, and not seen since."""
        self._stopped = False
        for address in addresses:
            peer = address.peer_id()
            if peer == own:
                self._own.append(address)
            elif peer is not None:
                self._addresses.setdefault(peer, []).append(address)

    def raw_ids(self) -> list[bytes]:
        return [peer.raw for peer in self._addresses]

    def warn_of_own(self) -> None:
        for address in self._own:
            self._log.warn(
                "the direct peer {address} is this node itself and is left out; name the other nodes alone in "
                "CHORUS_GOSSIP_DIRECT_PEERS",
                event="peer.direct_self",
                address=address,
            )

    def dial(self, absent: Iterable[bytes]) -> None:
        """Dial these of them, by raw id. A peer's first failure is a warning, the further ones are details."""
        self._stopped = False
        for raw in absent:
            peer = PeerId(raw)
            self._host.dial(peer, self._addresses[peer]).addCallbacks(lambda _: None, self._failed, errbackArgs=(peer,))

    def stop(self) -> None:
        """Dials end with the host; that is nothing to warn of."""
        self._stopped = True

    def joined(self, peer: PeerId) -> None:
        """The peer is connected and speaks pub/sub."""
        if peer in self._missed:
            self._missed.discard(peer)
            self._log.info("the direct peer {peer} is connected", event="peer.direct_reached", peer=peer)

    def _failed(self, failure: Failure, peer: PeerId) -> None:
        if self._stopped or peer in self._missed:
            self._log.debug("the direct peer {peer} does not answer: {error}", peer=peer, error=failure.value)
            return
        self._missed.add(peer)
        self._log.warn(
            "the direct peer {peer} cannot be reached: {error}; it is tried again until it is there",
            event="peer.direct_unreachable",
            peer=peer,
            addresses=[str(address) for address in self._addresses[peer]],
            error=failure.value,
        )
