"""Cost of the replicated journal's core and codec: one admin and two followers in one thread, no disk and no network.

Prints processor time for each entry and replica, with 64 entries outstanding and proposed one by one, as requests do.
Run: `python benchmarks/journal_core.py --entries 20000 --size 2048`.
"""

from __future__ import annotations

import argparse
import time

import attrs

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.roster import Roster, Voter
from chorus.protocols.journal import JournalCore
from chorus.protocols.replication.codec import decode, encode
from chorus.protocols.replication.log import StoredLog
from chorus.protocols.replication.messages import Append, AppendReply
from chorus.protocols.replication.outbox import Committed, ReplicaOutbox

OUTSTANDING = 64


class Unsigned:
    def verify(self, roster: Roster) -> bool:
        return True

    def sign(self, roster: Roster) -> Roster | None:
        return roster


VOTERS = tuple(Voter(f"12D3KooW{letter * 44}", f"{at:032x}") for at, letter in enumerate("ABC"))
ROSTER = Roster(1, "ab" * 32, 1, 1000, VOTERS)


@attrs.define
class Node:
    me: Voter
    outbox: ReplicaOutbox = attrs.Factory(ReplicaOutbox)
    core: JournalCore = attrs.field(init=False)
    applied: int = 0

    def __attrs_post_init__(self) -> None:
        self.core = JournalCore(self.me, StoredLog(LogPosition(), ROSTER), self.outbox, Unsigned())

    def turn(self, now: float) -> list[tuple[str, bytes]]:
        """Write, apply, and encode what leaves."""
        sent: list[tuple[str, bytes]] = []
        while True:
            self.core.flush()
            output = self.outbox.drain()
            sent += [(peer, encode(message)) for peer, message in output.messages]  # type: ignore[arg-type]
            for event in output.events:
                if isinstance(event, Committed):
                    self.applied += len(event.entries)
            if output.write is None:
                return sent
            self.outbox.persisted(output.write.ticket)
            self.core.persisted(output.write.ticket, now)

    def receive(self, peer: str, data: bytes, now: float) -> None:
        message = decode(data)
        if isinstance(message, Append):
            self.core.receive_append(peer, message)
        elif isinstance(message, AppendReply):
            self.core.receive_reply(peer, message, now)


def run(entries: int, size: int, outstanding: int) -> float:
    """Seconds of processor time."""
    nodes = {voter.peer: Node(voter) for voter in VOTERS}
    leader = nodes[VOTERS[0].peer]
    leader.core.lead(1, 0.0)
    data, proposed, now, messages = bytes(size), 0, 0.0, 0
    begun = time.process_time()
    while leader.applied < entries + 1:
        while proposed < entries and proposed + 1 - leader.applied < outstanding:
            leader.core.propose([data], now)
            proposed += 1
        for sender, node in nodes.items():
            for peer, frame in node.turn(now):
                messages += 1
                nodes[peer].receive(sender, frame, now)
        now += 0.001
        if (due := leader.core.due()) is not None and due <= now:
            leader.core.tick(now)
    taken = time.process_time() - begun
    each = taken / entries / len(nodes) * 1e6
    print(
        f"{outstanding:5} outstanding: {taken:.2f} s for {entries} entries of {size} bytes, "
        f"{each:.1f} us an entry and replica, {messages / entries:.2f} messages an entry"
    )
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=2048)
    options = parser.parse_args()
    for outstanding in (1, OUTSTANDING, 10_000):
        run(options.entries, options.size, outstanding)


if __name__ == "__main__":
    main()
