"""From raw bytes to a secured connection with a multiplexer: multistream, Noise, muxer (spec/wire.md 5). Pure.

The dialer's first Noise message does not wait for the listener's word on /noise, and the muxer is agreed within the
handshake where the peer can do that: each is one flight less.
"""

from __future__ import annotations

from chorus.protocols.multistream import MultistreamDialer, MultistreamError, MultistreamListener
from chorus.protocols.noise import handshake as noise
from chorus.protocols.noise.handshake import HandshakeResult, NoiseHandshake
from chorus.protocols.yamux import session as yamux

Negotiation = MultistreamDialer | MultistreamListener


class Upgrade:
    """`handshake` offers `yamux.PROTOCOL` as its muxer. Once `finished`, `receive_data` is not to be called again."""

    def __init__(self, handshake: NoiseHandshake, *, initiator: bool) -> None:
        self.result: HandshakeResult | None = None
        """Once the peer is authenticated."""
        self.finished = False
        """Streams can be opened."""
        self.stage = 0
        """Messages that brought it further; the number grows by a few in all, however they arrive."""
        self.out: list[bytes] = []
        """To send, before anything of the multiplexer's."""
        self._sealed = b""
        self._plaintexts: list[bytes] = []
        self._initiator = initiator
        self._handshake = handshake
        self._negotiation: Negotiation
        self._receive = self._receive_security
        if initiator:
            self._negotiation = MultistreamDialer((noise.PROTOCOL,))
            self.out.append(self._negotiation.data_to_send() + handshake.data_to_send())
        else:
            self._negotiation = MultistreamListener(lambda protocol: protocol == noise.PROTOCOL)

    def receive_data(self, data: bytes) -> None:
        """Raises `PeerError`."""
        self._receive(data)

    def data_to_send(self) -> bytes:
        data = b"".join(self.out)
        self.out.clear()
        return data

    def take_rest(self) -> tuple[bytes, list[bytes]]:
        """Bytes after the upgrade: still sealed, or what had to be opened with its end."""
        rest = self._sealed, self._plaintexts
        self._sealed, self._plaintexts = b"", []
        return rest

    def _receive_security(self, data: bytes) -> None:
        negotiation = self._negotiation
        self._negotiate(negotiation, data, noise.PROTOCOL)
        if answer := negotiation.data_to_send():
            self.out.append(answer)
        if negotiation.selected is not None:
            self.stage += 1
            self._receive = self._receive_handshake
            if negotiation.leftover:
                self._receive_handshake(negotiation.leftover)

    def _receive_handshake(self, data: bytes) -> None:
        handshake = self._handshake
        handshake.receive_data(data)
        if answer := handshake.data_to_send():
            self.stage += 1
            self.out.append(answer)
        result = handshake.result
        if result is None:
            return
        self.stage += 1
        del self._handshake
        self.result = result
        if result.muxer == yamux.PROTOCOL:
            self._sealed = result.leftover
            self.finished = True
            return
        self._start_muxer_negotiation(result)
        if result.leftover:
            self._receive(result.leftover)

    def _start_muxer_negotiation(self, result: HandshakeResult) -> None:
        """The peer chose no muxer in the handshake (rust, py): multistream, inside Noise."""
        self._receive = self._receive_muxer
        if self._initiator:
            self._negotiation = MultistreamDialer((yamux.PROTOCOL,))
            self.out.append(result.session.seal([self._negotiation.data_to_send()]))
        else:
            self._negotiation = MultistreamListener(lambda protocol: protocol == yamux.PROTOCOL)

    def _receive_muxer(self, data: bytes) -> None:
        assert self.result is not None
        session = self.result.session
        negotiation = self._negotiation
        plaintexts = session.open(data)
        for number, plaintext in enumerate(plaintexts, 1):
            self._negotiate(negotiation, plaintext, yamux.PROTOCOL)
            if answer := negotiation.data_to_send():
                self.out.append(session.seal([answer]))
            if negotiation.selected is not None:
                self._plaintexts = [negotiation.leftover, *plaintexts[number:]]
                self.stage += 1
                self.finished = True
                return

    def _negotiate(self, negotiation: Negotiation, data: bytes, protocol: str) -> None:
        negotiation.receive_data(data)
        if isinstance(negotiation, MultistreamDialer) and negotiation.failed:
            raise MultistreamError(f"the peer does not speak {protocol}")
