#!/usr/bin/env python3
"""What each trick of the byte path brings: the same work with it and without it.

    python benchmarks/wire_tricks.py [--rounds 7] [TRICK…]

Each trick stands in one place, and is undone here by a patch of that place. With and without take turns, each in a
process of its own; what counts is the median of the rounds' ratios (above 1 is what the trick brings). Prints a line of
Markdown for each figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

PATH = [str(HERE / "gossip_path.py"), "--rounds", "5"]
MEMORY = [str(HERE / "wire_core.py"), "--scale", "0.3"]
SOCKETS = [*MEMORY, "--sockets"]


class Trick:
    """`undo` patches it away; `figures` are those of `work` that it is for. `less` is better where they are times."""

    def __init__(
        self, title: str, undo: Callable[[], None], work: list[str], *figures: str, less: bool = False
    ) -> None:
        self.title = title
        self.undo = undo
        self.work = work
        self.figures = figures
        self.less = less


def lone_message() -> None:
    from chorus.protocols.gossipsub import encode

    encode.lone_message = lambda raw: None


def usual_layout() -> None:
    from chorus.protocols.gossipsub import decode

    decode._usual_message = lambda raw: None


def parsed_keys() -> None:
    from chorus.protocols.gossipsub import sign as gossip_sign

    gossip_sign.KEY_CACHE = 0  # type: ignore[misc]


def send_at_once() -> None:
    from chorus.protocols.connection.shell import ConnectionProtocol

    made = ConnectionProtocol.connectionMade

    def connection_made(connection: ConnectionProtocol) -> None:
        made(connection)
        connection._send_now = None

    ConnectionProtocol.connectionMade = connection_made  # type: ignore


def one_write_a_turn() -> None:
    from chorus.protocols.connection.shell import ConnectionProtocol

    ConnectionProtocol.output_waiting = ConnectionProtocol._drain  # type: ignore[method-assign]


def chosen_cipher() -> None:
    from chorus.protocols.noise import aead
    from chorus.protocols.noise import session as noise_session

    noise_session.ChaCha20Poly1305 = aead.SodiumChaCha20Poly1305  # type: ignore[attr-defined]


TRICKS = {
    "lone-message": Trick(
        "an RPC with one message is not taken apart into lists", lone_message, PATH, "first", "again", less=True
    ),
    "usual-layout": Trick(
        "a message laid out as all write it is read in one go", usual_layout, PATH, "first", "again", less=True
    ),
    "parsed-keys": Trick("keys of recent publishers stay parsed", parsed_keys, PATH, "first", less=True),
    "send-at-once": Trick("what answers a read is sent in the turn of the read", send_at_once, SOCKETS, "ping"),
    "one-write-a-turn": Trick(
        "what a turn writes leaves as one frame and one send", one_write_a_turn, SOCKETS, "burst"
    ),
    "cipher": Trick("the faster of two ciphers", chosen_cipher, MEMORY, "ping", "bulk"),
}


def measured(name: str, undone: bool) -> dict[str, float]:
    arguments = [sys.executable, __file__, "--run", name, *(["--undone"] if undone else [])]
    output = subprocess.run(arguments, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def run(trick: Trick, undone: bool) -> None:
    """In this process: the work's own `main`, with the trick or without."""
    import runpy

    if undone:
        trick.undo()
    script, *sys.argv[1:] = trick.work
    sys.argv[0] = script
    runpy.run_path(script, run_name="__main__")


def ratio(trick: Trick, figure: str, sample: tuple[dict[str, float], dict[str, float]]) -> float:
    with_it, without = sample[0][figure], sample[1][figure]
    return without / with_it if trick.less else with_it / without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tricks", nargs="*", choices=[*TRICKS, []], metavar="TRICK")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--run", choices=TRICKS, help=argparse.SUPPRESS)
    parser.add_argument("--undone", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.run:
        run(TRICKS[flags.run], flags.undone)
        return
    print("| trick | figure | with | without | times as good |\n| --- | --- | --- | --- | --- |")
    for name in flags.tricks or TRICKS:
        trick = TRICKS[name]
        samples = [(measured(name, False), measured(name, True)) for _ in range(flags.rounds)]
        for figure in trick.figures:
            with_it, without = (statistics.median(each[side][figure] for each in samples) for side in (0, 1))
            gain = statistics.median(map(partial(ratio, trick, figure), samples))
            unit = "µs" if trick.less else "MB/s" if figure == "bulk" else "/s"
            print(
                f"| {trick.title} | {figure} | {with_it:,.5g} {unit} | {without:,.5g} {unit} | {gain:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
