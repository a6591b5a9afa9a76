"""A secret in k-of-n shares of words (SLIP-39, one group). Any k give it back, fewer say nothing about it.

Pure, but that `shamir_mnemonic` draws the randomness of the shares itself. Errors name a share by its place and never
repeat a word of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs
from shamir_mnemonic import MnemonicError, Share, combine_mnemonics, generate_mnemonics

from chorus.errors import UserError

SECRET_BYTES: Final = 32
"""256 bits: 33 words a share."""
MAX_SHARES: Final = 16
"""The index of a share has four bits (SLIP-39)."""
MAX_CHARACTERS: Final = 1024
"""Of one share: 59 words, the longest that SLIP-39 has, of eight letters."""
MAX_EXPONENT: Final = 6
"""640,000 rounds of PBKDF2, about a second; each step more doubles it, and the share says how many."""


class ShareError(UserError):
    """Shares that give no secret."""

    code = "shares"


class DamagedShare(ShareError):
    """A share with a wrong or missing word; its checksum tells."""

    code = "damaged_share"


class ForeignShare(ShareError):
    """Shares of two different splits."""

    code = "foreign_share"


class MissingShare(ShareError):
    """Fewer shares than the secret was split for."""

    code = "missing_share"


@attrs.frozen
class SharesFound:
    """Shares that fit together."""

    threshold: int
    present: int
    """Different ones among them."""


def split(secret: bytes, threshold: int, count: int) -> tuple[str, ...]:
    """`count` shares, of which any `threshold` give `secret` (32 bytes). Raises `ShareError`."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret here has {SECRET_BYTES} bytes")
    if threshold > count:
        raise ShareError(f"k must not be more than n: {threshold} of {count} shares")
    if not 2 <= threshold <= count <= MAX_SHARES:
        raise ShareError(f"{threshold} of {count} shares: it needs 2 of 2 at least, and {MAX_SHARES} shares at most")
    return tuple(generate_mnemonics(1, [(threshold, count)], secret)[0])


def check(shares: Iterable[str]) -> SharesFound:
    """How many of how many are there. Raises `DamagedShare` or `ForeignShare`."""
    parsed = _distinct(shares)
    return SharesFound(parsed[0].member_threshold, len(parsed))


def combine(shares: Iterable[str], passphrase: bytes = b"") -> bytes:
    """The secret; shares beyond those needed must agree with it. Raises `ShareError`.

    A wrong `passphrase` gives another secret: SLIP-39 has no way to tell.
    """
    parsed = _distinct(shares)
    threshold = parsed[0].member_threshold
    if parsed[0].group_count == 1:
        if len(parsed) < threshold:
            missing = threshold - len(parsed)
            are = "is" if missing == 1 else "are"
            raise MissingShare(f"{len(parsed)} of the {threshold} shares that are needed: {missing} more {are} missing")

        # Each share beyond the threshold takes the last place once.
        rounds: Sequence[Sequence[Share]] = [(*parsed[: threshold - 1], last) for last in parsed[threshold - 1 :]]
    else:
        rounds = [parsed]
    found = {_combined(chosen, passphrase) for chosen in rounds}
    if len(found) > 1:
        raise ForeignShare("the shares do not agree: one of them is of another split")
    return found.pop()


def _combined(shares: Sequence[Share], passphrase: bytes) -> bytes:
    try:
        return bytes(combine_mnemonics([share.mnemonic() for share in shares], passphrase))
    except MnemonicError as error:
        if "number" in str(error):
            raise MissingShare("shares are missing, or there are more than are needed") from None
        raise ForeignShare("the shares do not fit together: one of them is of another split") from None


def _distinct(shares: Iterable[str]) -> list[Share]:
    """Each once, parsed and of one split."""
    parsed: dict[Share, int] = {}
    for place, text in enumerate(shares, 1):
        parsed.setdefault(_parsed(place, text), place)
    if not parsed:
        raise MissingShare("no shares")
    first = next(iter(parsed))
    for share, place in parsed.items():
        if share.common_parameters() != first.common_parameters() or (
            share.group_index == first.group_index and share.member_threshold != first.member_threshold
        ):
            raise ForeignShare(f"share {place} is of another split than share {parsed[first]}")
    places = {(share.group_index, share.index) for share in parsed}
    if len(places) < len(parsed):
        raise ForeignShare("two different shares say that they are the same one: one of them is of another split")
    return list(parsed)


def _parsed(place: int, text: str) -> Share:
    if len(text) > MAX_CHARACTERS:
        raise DamagedShare(f"share {place} is longer than a share can be")
    try:
        share = Share.from_mnemonic(" ".join(text.lower().split()))
    except MnemonicError as error:
        if "length" in str(error):
            raise DamagedShare(f"share {place} is incomplete: compare it with what was written down") from None
        raise DamagedShare(f"share {place} has a wrong word: compare it with what was written down") from None
    if share.iteration_exponent > MAX_EXPONENT:
        raise DamagedShare(f"share {place} asks for more work than {MAX_EXPONENT} doublings: it is none of ours")
    return share
