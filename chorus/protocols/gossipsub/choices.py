"""Choices of a heartbeat, apart from the messages they cause: peers to graft, to prune, to gossip to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from chorus.protocols.gossipsub.params import GossipParams


def keep(
    members: Sequence[bytes],
    score: Callable[[bytes], float],
    outbound: Callable[[bytes], bool],
    params: GossipParams,
    rng: random.Random,
) -> set[bytes]:
    """The `d` members that stay when a mesh is over-full.

    The `d_score` best stay, the others by chance, and at least `d_out` connections that we dialled stay if there are
    as many: who only dials in can neither outlive the rest by score alone nor surround us.
    """
    order = list(members)
    rng.shuffle(order)
    order.sort(key=score, reverse=True)
    rest = order[params.d_score :]
    rng.shuffle(rest)
    order = order[: params.d_score] + rest
    kept, cut = order[: params.d], order[params.d :]
    missing = params.d_out - sum(map(outbound, kept))
    spare = [peer for peer in cut if outbound(peer)][: max(missing, 0)]
    replaced = [peer for peer in reversed(kept) if not outbound(peer)][: len(spare)]
    return (set(kept) - set(replaced)) | set(spare)


def fair_share(sizes: Iterable[int], total: int) -> int:
    """How many of its entries each may give, at least one, so that all together give `total`: what the small ones leave
    goes to the large ones."""
    waiting = sorted(sizes)
    share = total
    for index, size in enumerate(waiting):
        share = total // (len(waiting) - index)
        if size > share:
            break
        total -= size
    return max(1, share)


def choose(candidates: Sequence[bytes], count: int, rng: random.Random) -> list[bytes]:
    """Up to `count` of them, at random."""
    if count <= 0:
        return []
    return rng.sample(candidates, min(count, len(candidates)))
