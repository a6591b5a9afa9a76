"""Verifier of a chain: the versions under one address, by themselves and against each other. Pure.

It trusts nobody who hands the versions over: hashes, signatures, links and numbers are checked, and nothing that is
missing is passed over in silence.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from chorus.errors import PeerError
from chorus.ucxl.documents import RecordError
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Head, Version

MAX_FAULTS: Final = 100
"""Faults that a report names; a chain with more is as broken."""


@attrs.frozen
class ClaimedVersion:
    """A version as somebody hands it over: what it is said to be, and the bytes that should show it."""

    seq: int
    content: str
    record: bytes | None = None
    """None for one that may not be read here: then its `version` shows its author alone."""
    version: bytes | None = None


@attrs.frozen
class ChainFault:
    """`code`: bad_record, wrong_hash, wrong_number, foreign_address, unproven, broken_link, missing, bad_head, hidden
    or equivocation."""

    code: str
    seq: int
    text: str
    contents: tuple[str, ...] = ()
    """Content hashes that show it: of an equivocation both."""


@attrs.frozen
class ChainReport:
    address: str
    latest: int
    """Highest number that anything shows; 0 where nothing does."""
    verified: int
    """Versions that were read and hold."""
    unread: int
    """Versions that may not be read here: their author is shown, their links are not."""
    faults: tuple[ChainFault, ...]
    unread_from: int | None = None
    """Lowest number of a version that may not be read here."""

    @property
    def clean(self) -> bool:
        return not self.faults and self.verified + self.unread > 0


class _Chain:
    """One run of the verifier."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.author = address.partition("://")[2].partition(":")[0]
        self.records: dict[str, Decision] = {}
        self.by_number: dict[int, dict[str, None]] = {}
        self.numbers: dict[str, int] = {}
        """By content hash."""
        self.unread: list[int] = []
        self.faults: list[ChainFault] = []

    def fault(self, code: str, seq: int, text: str, *contents: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(ChainFault(code, seq, text, contents))

    def take(self, claimed: ClaimedVersion) -> None:
        seq, content = claimed.seq, claimed.content
        if claimed.record is None:
            self.take_unread(claimed)
            return
        try:
            record = Decision.decode(claimed.record)
        except PeerError as error:
            self.fault("bad_record", seq, str(error), content)
            return
        if record.content_hash != content:
            self.fault("wrong_hash", seq, "the record has another content hash", content, record.content_hash)
        elif record.address != self.address:
            self.fault("foreign_address", seq, f"the record is of {record.address}", content)
        elif record.seq != seq:
            self.fault("wrong_number", seq, f"the record has number {record.seq}", content)
        else:
            self.records[content] = record
            self.note(seq, content)

    def take_unread(self, claimed: ClaimedVersion) -> None:
        try:
            if claimed.version is None:
                raise RecordError("neither a record nor a signed version shows it")
            version = Version.decode(claimed.version)
            version.verify()
            if (version.content, version.author) != (claimed.content, self.author):
                raise RecordError("the signed version is of another content or author")
        except PeerError as error:
            self.fault("unproven", claimed.seq, str(error), claimed.content)
            return
        self.unread.append(claimed.seq)
        self.note(claimed.seq, claimed.content)

    def note(self, seq: int, content: str) -> None:
        self.by_number.setdefault(seq, {})[content] = None
        self.numbers.setdefault(content, seq)

    def take_head(self, data: bytes, complete: bool) -> None:
        try:
            head = Head.decode(data)
            head.verify()
            if head.address != self.address:
                raise RecordError(f"the head is of {head.address}")
        except PeerError as error:
            self.fault("bad_head", 0, str(error))
            return
        known = self.by_number.get(head.seq)
        if known is None and complete:
            self.fault("hidden", head.seq, "a head is signed for this number, and no version is shown", head.content)
        self.note(head.seq, head.content)

    def check_numbers(self) -> None:
        for seq, contents in sorted(self.by_number.items()):
            if len(contents) > 1:
                self.fault("equivocation", seq, "its author signed different contents for one number", *contents)

    def check_links(self, complete: bool) -> None:
        """Numbers may be skipped: what was never published has none. What a prev names is never skipped."""
        shown = sorted(self.by_number)
        for content, record in self.records.items():
            prev, seq = record.prev, record.seq
            number = seq if prev is None else self.numbers.get(prev)
            if prev is None or (number is not None and number < seq):
                continue
            if number is not None or bisect_left(shown, seq) == seq - 1:
                before = self.by_number.get(seq - 1, ())
                self.fault("broken_link", seq, "its prev is none of the versions before", content, *before)
            elif complete or seq != shown[0]:
                self.fault("missing", seq, "the version before it is not shown", content, prev)


def verify_chain(
    address: str, versions: Iterable[ClaimedVersion], heads: Sequence[bytes] = (), *, complete: bool = True
) -> ChainReport:
    """Verify versions in any order; `heads` are those that holders have. `complete` is False for a part of a chain,
    whose earlier and later versions need not be there."""
    chain = _Chain(address)
    for each in versions:
        chain.take(each)
    for head in heads:
        chain.take_head(head, complete)
    chain.check_numbers()
    chain.check_links(complete)
    return ChainReport(
        address,
        max(chain.by_number, default=0),
        len(chain.records),
        len(chain.unread),
        tuple(chain.faults),
        min(chain.unread, default=None),
    )
