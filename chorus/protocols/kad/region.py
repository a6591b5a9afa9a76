"""Crowded keys: are the closest peers closer than chance puts them, and whom to ask then (CVE-2023-26248). Pure.

Some dozens of made-up ids around one key would hold all its copies, and name only each other. Ids of the honest are
spread evenly, so that the size of the network says how far the k closest should be. Where they are much closer, all
peers are searched that share a prefix with the key, so short that as many honest ones as k have it; keys in each part
of that region lead there on ways that the ones at the key itself do not answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import sha256

from chorus.protocols.kad.keys import BITS, SPACE
from chorus.protocols.kad.messages import Contact
from chorus.protocols.kad.params import DENSE, MAX_REGION_HASHES, REGION_CELLS


def is_dense(target: int, closest: Sequence[Contact], k: int, network: float) -> bool:
    """True if the k closest lie within a fraction 1 / `DENSE` of the distance expected among `network` servers."""
    if len(closest) < k or network <= k:
        return False
    return (closest[k - 1].point ^ target) * DENSE * network < k * SPACE


def region_bits(k: int, network: float) -> int:
    """Length of the prefix that k to 2k servers of `network` share."""
    return max(0, int(network / k).bit_length() - 1)


def region_radius(k: int, network: float) -> int:
    """The distance below which a peer is in the region."""
    return 1 << (BITS - region_bits(k, network))


def cell_keys(target: int, bits: int, rng: random.Random) -> list[bytes]:
    """Keys for FIND_NODE whose points fall into different parts of the region, one a part, nearest to none in
    particular; fewer where `MAX_REGION_HASHES` do not find them."""
    cell = REGION_CELLS.bit_length() - 1
    shift = BITS - bits - cell
    prefix = target >> (BITS - bits) if bits else 0
    salt = rng.randbytes(24)
    found: dict[int, bytes] = {}
    for count in range(MAX_REGION_HASHES):
        key = b"\x12\x20" + salt + count.to_bytes(8, "big")
        point = int.from_bytes(sha256(key).digest(), "big") >> shift
        if point >> cell == prefix and point not in found:
            found[point] = key
            if len(found) == REGION_CELLS:
                break
    return list(found.values())
