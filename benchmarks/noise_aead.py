"""What the AEAD, the Noise session and the Noise handshake cost: `python benchmarks/noise_aead.py`.

Prints microseconds a call, the best of several rounds, for both implementations behind the seam of
`chorus.protocols.noise.aead`; then the session (which adds framing and nonces) and a full
XX handshake, both ends in one process.
"""

from __future__ import annotations

import os
import timeit
from collections.abc import Callable
from functools import partial

from chorus.identity import Identity
from chorus.protocols.noise.aead import Aead, ChaCha20Poly1305, SodiumChaCha20Poly1305
from chorus.protocols.noise.handshake import HandshakeResult, NoiseHandshake
from chorus.protocols.noise.session import MAX_PLAINTEXT, NoiseSession

SIZES = (16, 256, 4096, 16384, MAX_PLAINTEXT)
ROUNDS = 5


def microseconds(call: Callable[[], object], number: int) -> float:
    return min(timeit.repeat(call, number=number, repeat=ROUNDS)) / number * 1e6


def measure_ciphers() -> None:
    print(f"{'bytes':>7} {'seal: cryptography':>19} {'PyNaCl':>8} {'open: cryptography':>19} {'PyNaCl':>8}  (µs)")
    for size in SIZES:
        number = 4_000 if size < 10_000 else 800
        key, nonce, data = os.urandom(32), bytes(12), os.urandom(size)
        seal: list[float] = []
        opened: list[float] = []
        ciphers: tuple[Aead, ...] = (ChaCha20Poly1305(key), SodiumChaCha20Poly1305(key))
        for cipher in ciphers:
            sealed = cipher.encrypt(nonce, data, None)
            seal.append(microseconds(partial(cipher.encrypt, nonce, data, None), number))
            opened.append(microseconds(partial(cipher.decrypt, nonce, sealed, None), number))
        print(f"{size:>7} {seal[0]:>19.2f} {seal[1]:>8.2f} {opened[0]:>19.2f} {opened[1]:>8.2f}")


def measure_session() -> None:
    print(f"\n{'bytes':>7} {'session seal':>13} {'session open':>13}  (µs, both with framing)")
    for size in SIZES:
        number = 4_000 if size < 10_000 else 800
        cipher = ChaCha20Poly1305(os.urandom(32))
        data = os.urandom(size)
        sender = NoiseSession(cipher, cipher)
        seal = microseconds(partial(sender.seal, [data]), number)
        sender, receiver = NoiseSession(cipher, cipher), NoiseSession(cipher, cipher)
        frame = sender.seal([data])

        def reopen(receiver: NoiseSession = receiver, frame: bytes = frame) -> None:
            receiver.receive_nonce = 0
            receiver.open(frame)

        print(f"{size:>7} {seal:>13.2f} {microseconds(reopen, number):>13.2f}")


def handshake(dialer: Identity, listener: Identity) -> HandshakeResult | None:
    muxers = ("/yamux/1.0.0",)
    initiator = NoiseHandshake(dialer, initiator=True, expected_peer=listener.peer_id, muxers=muxers)
    responder = NoiseHandshake(listener, initiator=False, muxers=muxers)
    responder.receive_data(initiator.data_to_send())
    initiator.receive_data(responder.data_to_send())
    responder.receive_data(initiator.data_to_send())
    return responder.result


def main() -> None:
    measure_ciphers()
    measure_session()
    dialer, listener = Identity.generate(), Identity.generate()
    assert handshake(dialer, listener) is not None
    print(f"\nfull XX handshake, both ends: {microseconds(partial(handshake, dialer, listener), 100) / 1000:.3f} ms")


if __name__ == "__main__":
    main()
