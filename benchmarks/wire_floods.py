"""What hostile bytes cost: one full read (`READ_SIZE`) of each kind of flood against a connection in memory.

    python -m benchmarks.wire_floods

A row: milliseconds of the read (one reactor turn; 50 is the limit of spec/security.md 3), microseconds a byte (the
limit is 1), and the limit that ended the connection, if one did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count, islice

from benchmarks import wire_core
from chorus.errors import PeerError
from chorus.protocols import multistream
from chorus.protocols.connection.shell import READ_SIZE
from chorus.protocols.yamux.frames import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN, WINDOW_UPDATE

OFFER = multistream.lazy_offer(wire_core.ECHO)
REFUSED = multistream.lazy_offer("/nobody/speaks/this")
REFUSALS = multistream.HEADER + multistream.encode_message("ls") * 15


def frame(kind: int, flags: int, stream_id: int, length: int = 0, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, flags, stream_id, length or len(body)) + body


def piecemeal(stream_id: int) -> bytes:
    pieces = (frame(DATA, 0, stream_id, body=OFFER[at : at + 1]) for at in range(len(OFFER)))
    return frame(WINDOW_UPDATE, SYN, stream_id) + b"".join(pieces)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "data, a byte a frame": lambda _: frame(DATA, 0, 1, body=b"x"),
    "window updates of 1": lambda _: frame(WINDOW_UPDATE, 0, 1, 1),
    "empty data": lambda _: frame(DATA, 0, 1),
    "late data": lambda _: frame(DATA, 0, 2**31 + 1),
    "late window updates": lambda _: frame(WINDOW_UPDATE, 0, 2**31 + 1, 5),
    "go away": lambda _: frame(GO_AWAY, 0, 0, 1),
    "pings": lambda _: frame(PING, SYN, 0, 1),
    "pongs": lambda _: frame(PING, ACK, 0, 1),
    "open": lambda stream_id: frame(WINDOW_UPDATE, SYN, stream_id),
    "open and reset": lambda stream_id: frame(WINDOW_UPDATE, SYN, stream_id) + frame(WINDOW_UPDATE, RST, stream_id),
    "open and close": lambda stream_id: frame(WINDOW_UPDATE, SYN | FIN, stream_id),
    "open, offer, close": lambda stream_id: frame(DATA, SYN | FIN, stream_id, body=OFFER),
    "open, be refused, close": lambda stream_id: frame(DATA, SYN | FIN, stream_id, body=REFUSED),
    "open, be refused 15 times": lambda stream_id: frame(DATA, SYN | FIN, stream_id, body=REFUSALS),
    "offers, a byte a frame": piecemeal,
}


def plaintexts(flood: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    one = len(flood(3))
    return islice((flood(stream_id) for stream_id in count(3, 2)), size // one)


def measure(name: str, flood: Callable[[int], bytes], *, apart: bool) -> None:
    """`apart` puts each frame into a Noise message of its own."""
    dialer, listener = wire_core.connected()
    assert dialer.result is not None
    seal = dialer.result.session.seal
    listener.receive_data(seal([frame(DATA, SYN, 1, body=OFFER)]), 0.0)
    listener.data_to_send()
    parts = list(plaintexts(flood, READ_SIZE))
    sealed = (b"".join(seal([part]) for part in parts) if apart else seal(parts))[:READ_SIZE]
    outcome = "goes on"
    started = time.perf_counter()
    try:
        listener.receive_data(sealed, 0.0)
        while listener.data_to_send():
            pass
    except PeerError as error:
        outcome = str(error)
    seconds = time.perf_counter() - started
    shape = "apart" if apart else "joined"
    print(f"{name:26} {shape:7} {seconds * 1e3:6.1f} ms {seconds / len(sealed) * 1e6:7.3f} µs/byte  {outcome}")


def main() -> None:
    for name, flood in FLOODS.items():
        for apart in (False, True):
            measure(name, flood, apart=apart)


if __name__ == "__main__":
    main()
