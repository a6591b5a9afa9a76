"""Decision records (spec/ucxl.md, "Decision record"; artifacts as in spec/amendments.md 29). Pure.

A record is canonical JSON (RFC 8785) of exactly these members. Its content hash is the SHA-256 of the canonical bytes
without `signature`; the author's Ed25519 identity signs that hash.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import attrs

from chorus.fields import Flag, Integer, ListOf, Number, Object, Text, field
from chorus.fields.members import ADDRESS, ID, MAX_SERIAL, PEER, SCORE, SHA256, TIME
from chorus.identity import Identity
from chorus.security import signing
from chorus.ucxl import documents
from chorus.ucxl.address import NO_PROJECT, SCHEME, Address, AddressError
from chorus.ucxl.documents import SIGNATURE, RecordError

DOMAIN: Final = "chorus-decision/1"

MAX_RECORD: Final = 2 * 1024 * 1024
"""Bytes: the rows of a task's result fill a frame of 1 MiB, and each gets two hashes and a key here."""
MAX_SUMMARY: Final = 2048
"""Bytes of what a list shows of a decision."""
MAX_RATIONALE: Final = 64 * 1024
MAX_ITEMS: Final = 64
"""Alternatives, and inputs by name: more are no list that somebody weighs."""
MAX_FILES: Final = 1024
"""Modified files, and artifacts: 1,000 deliverables of a task and its two streams of output."""
MAX_ROWS: Final = MAX_FILES + MAX_ITEMS + 16
"""Arrays and objects: of artifacts and inputs, and the lists and parts of a record."""
MAX_PATH: Final = 8192
"""Bytes of a file's name: 2,048 characters, as a task's result has them."""
MAX_COMMANDS: Final = 64
MAX_COMMAND: Final = 64 * 1024
"""As a task's specification allows."""

ADDRESS_NAME: Final = Text(None, 0, "[A-Za-z0-9._-]{1,128}", "a name of 1 to 128 letters, digits and . _ -")
_SHORT: Final = Text(256, 1)
_PATH: Final = Text(MAX_PATH, 1)
_SIZE: Final = Integer(0, MAX_SERIAL, "bytes")
_WHOLE: Final = Integer(-MAX_SERIAL, MAX_SERIAL)
_MEGABYTES: Final = Integer(0, MAX_SERIAL, "MiB")
SECRET_KEY: Final = Text(
    None, 0, "AGE-SECRET-KEY-[0-9A-Z-]{1,128}", "an age identity in capitals (AGE-SECRET-KEY-…)", free_text=False
)


@attrs.frozen(kw_only=True)
class DecisionInput:
    """Something that a decision was made from."""

    name: str = field(_PATH, "What it is: a file, `image`, an address.")
    sha256: str | None = field(SHA256, "Of its content.", default=None)
    uri: str | None = field(Text(1024, 1), "Where it is from.", default=None)


@attrs.frozen(kw_only=True)
class DecisionArtifact:
    """A file that came of it: encrypted by itself, its key in this record."""

    name: str = field(_PATH, "Its path, or `stdout`, `stderr`.")
    sha256: str = field(SHA256, "Of the plain content.")
    size: int = field(_SIZE, "Of the plain content.")
    stored: str = field(SHA256, "Of the ciphertext: the blob to fetch.")
    key: str = field(SECRET_KEY, "age identity that decrypts the blob. A secret.")


@attrs.frozen(kw_only=True)
class DecisionOutcome:
    success: bool = field(Flag(), "True if it came to what it was for.")
    exit_code: int | None = field(_WHOLE, "Of the last command.", default=None)
    reason: str | None = field(_SHORT, "Why it ended.", default=None)


@attrs.frozen(kw_only=True)
class DecisionLimits:
    """Limits that the sandbox held in effect."""

    cpu: float = field(Number(0, 2**20), "Cores.")
    memory_mb: int = field(_MEGABYTES)
    pids: int = field(_SIZE)
    disk_mb: int = field(_MEGABYTES)
    timeout_s: float = field(Number(0, 2**40))
    output_mb: int = field(_MEGABYTES)


@attrs.frozen(kw_only=True)
class DecisionRun:
    """The execution of a task that the decision is on."""

    commands: tuple[str, ...] = field(ListOf(Text(MAX_COMMAND), MAX_COMMANDS), "What was run.")
    started: int = field(TIME)
    ended: int = field(TIME)
    sandbox: str | None = field(_SHORT, "Kind of sandbox.", default=None)
    image: str | None = field(Text(1024, 1), "Image, with its digest where it has one.", default=None)
    limits: DecisionLimits | None = field(Object(DecisionLimits, closed=True), default=None)


@attrs.frozen(kw_only=True)
class DecisionWords:
    """What an author says of its decision."""

    kind: str = field(ID, "`task`, `design`, `review`, …")
    summary: str = field(Text(MAX_SUMMARY, 1), "The decision in a sentence or two.")
    rationale: str = field(Text(MAX_RATIONALE), "Why.", default="")
    confidence: int = field(SCORE, "How sure its author is.", default=1000)
    inputs: tuple[DecisionInput, ...] = field(
        ListOf(Object(DecisionInput, closed=True), MAX_ITEMS), "What it was made from.", default=()
    )
    alternatives: tuple[str, ...] = field(
        ListOf(Text(MAX_SUMMARY, 1), MAX_ITEMS), "What was not chosen, and why.", default=()
    )
    modified_files: tuple[str, ...] = field(ListOf(_PATH, MAX_FILES), "Files that it changed.", default=())
    outcome: DecisionOutcome = field(
        Object(DecisionOutcome, closed=True), "What came of it.", default=DecisionOutcome(success=True)
    )
    supersedes: str | None = field(ADDRESS, "Address of a decision that this one replaces.", default=None)


@attrs.frozen(kw_only=True)
class DecisionDraft(DecisionWords):
    """A decision as a user hands it in; the node adds the author, the place in the chain, and the signature."""

    task: str = field(ADDRESS_NAME, "What it is on: a task's id, or another name.")
    project: str = field(ADDRESS_NAME, "Its project, or `none`.", default="none")
    role: str | None = field(ADDRESS_NAME, "Role that it is written under; the node's own if missing.", default=None)
    path: str = field(Text(512), "Path below the task, percent-encoded.", default="")

    def place(self, agent: str, role: str) -> Address:
        """Where this agent keeps it, writing under the draft's role, else `role`. Raises `AddressError`."""
        path = f"/{self.path}" if self.path else ""
        place = Address.published(f"{SCHEME}{agent}:{self.role or role}@{self.project}:{self.task}{path}")
        if place.task == NO_PROJECT:
            raise AddressError("task", place.offset_of("task"), f"{NO_PROJECT} is no name of a task")
        return place


@attrs.frozen(kw_only=True)
class Decision(DecisionWords):
    """One version under an address. `decode` has checked all of it; `signed` makes one from an unsigned draft."""

    v: int = field(Integer(1, 1), "Version of this form.", default=1)
    address: str = field(ADDRESS, "Without a version and without wildcards.")
    agent: str = field(ADDRESS_NAME, "As in the address: the author's peer id.")
    peer_id: str = field(PEER, "The author.")
    role: str = field(ADDRESS_NAME, "Role that it is written under.")
    project: str = field(ADDRESS_NAME)
    task: str = field(ADDRESS_NAME)
    path: str = field(Text(1024), "Of the address, as it is written there.", default="")
    seq: int = field(Integer(1, MAX_SERIAL), "Grows with each version under this address; numbers may be skipped.")
    prev: str | None = field(SHA256, "Content hash of the version published before, if any.", default=None)
    created: int = field(TIME, "When it was made.")
    artifacts: tuple[DecisionArtifact, ...] = field(
        ListOf(Object(DecisionArtifact, closed=True), MAX_FILES), "Files that came of it.", default=()
    )
    run: DecisionRun | None = field(Object(DecisionRun, closed=True), "Of a task's decision.", default=None)
    signature: bytes = field(SIGNATURE, "By the author, over the content hash.", default=b"")

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the canonical bytes without the signature, in hexadecimal."""
        return documents.sha256(documents.write(RECORD, self, "signature"))

    def signed(self, identity: Identity) -> Decision:
        """Checked and signed by its author. Raises `RecordError` or `LimitExceeded` for what no reader would take."""
        signature = signing.sign(identity, DOMAIN, bytes.fromhex(self.content_hash))
        # As every reader would: limits, members that contradict the address, and the author's own key.
        return self.decode(attrs.evolve(self, signature=signature).encode())

    def encode(self) -> bytes:
        """Canonical JSON with the signature."""
        return documents.write(RECORD, self)

    @classmethod
    def decode(cls, data: bytes) -> Decision:
        """Read and verify. Raises `RecordError` or `LimitExceeded`."""
        record = documents.read(RECORD, data, MAX_RECORD, "a decision", MAX_ROWS)
        record._check_place()
        verify_author(record.peer_id, record.content_hash, record.signature)
        return record

    @property
    def place(self) -> Address:
        """The address, read."""
        return Address.published(self.address)

    def _check_place(self) -> None:
        try:
            place = self.place
        except AddressError as error:
            raise RecordError(f"a decision's {error}") from None
        said = (self.agent, self.role, self.project, self.task, self.path)
        if said != (place.agent, place.role, place.project, place.task, place.path_text):
            raise RecordError("a decision's agent, role, project, task and path must be those of its address")
        if self.agent != self.peer_id:
            raise RecordError("the agent of a decision's address must be its author's peer id")
        if self.seq == 1 and self.prev is not None:
            raise RecordError("the first decision of a chain has no prev")


DRAFT: Final = Object(DecisionDraft, closed=True)
RECORD: Final = Object(Decision, closed=True)
"""The declaration of a decision, for its schema."""


def verify_author(peer: str, content: str, signature: bytes) -> None:
    """That this peer signed the content hash. Raises `RecordError`."""
    documents.verify(peer, DOMAIN, bytes.fromhex(content), signature)
