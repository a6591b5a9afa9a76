"""What is left of an RPC that is worked off step by step: one may hold 512 messages, and each costs what its
validators do with it."""

from __future__ import annotations

from chorus.protocols.gossipsub.rpc import RPC


class Unfinished:
    """Held by whoever reads the peer's stream, and gone with it: the router remembers nothing of it. Messages come
    first, then IHAVE, IWANT and GRAFT together, then each PRUNE, whose peers have signed records to be checked."""

    __slots__ = ("controlled", "messages", "prunes", "rpc")

    def __init__(self, rpc: RPC) -> None:
        self.rpc = rpc
        self.messages = iter(rpc.messages)
        self.prunes = iter(rpc.prune)
        self.controlled = not (rpc.ihave or rpc.iwant or rpc.graft)
        """Whether what stands between messages and PRUNEs is done."""
