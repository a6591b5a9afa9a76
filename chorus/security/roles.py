"""`roles.json`: who holds which role, and the age recipient of each (spec/amendments.md 28). Pure.

The founder signs it (domain `chorus-roles/1`). The genesis entry in it hashes to the cluster id and names the founder,
so any member can verify it with the cluster id alone. The highest valid rank wins. `role_changes.py` makes new ones
and opens what is sealed in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from chorus import strictjson
from chorus.errors import ChorusError, PeerError, UserError
from chorus.fields import Base64, Integer, ListOf, Object, Refusal, Schema, Shape, Text, field
from chorus.fields.members import PEER, SERIAL, SHA256
from chorus.identity import PeerId
from chorus.security.signing import verify

DOMAIN: Final = "chorus-roles/1"
BASE: Final = "developer"
"""The role that every admitted member gets."""
BUILT_IN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "admin": ("architect", "developer", "reviewer"),
        "architect": ("developer", "reviewer"),
        "developer": (),
        "human": (),
        "reviewer": (),
    }
)
"""By role, the others that it reads besides itself; all of them are written out, nothing follows from anything."""

MAX_ROLES: Final = 32
"""Each costs every record of a role that it reads a stanza, and half of `age.MAX_STANZAS` is left for others."""
MAX_MEMBERS: Final = 1000
"""With all built-in roles each the file stays under its limit; a closed mesh has some hundred nodes."""
MAX_FILE: Final = 1 << 20
"""Bytes: read at once, in a thread."""
MAX_PAST: Final = 64
"""Former identities kept of a role: what was written that long ago has been re-encrypted many times."""
MAX_SEALED: Final = 8 * 1024
"""Bytes of one age file in it: an identity of each role (80 bytes), or `MAX_PAST` identities."""
MAX_GENESIS: Final = 1024
"""Bytes of a genesis entry; ours have about 250."""
MAX_DEPTH: Final = 5

ROLE_PATTERN: Final = "[A-Za-z0-9._-]{1,64}"
ROLE: Final = Text(None, 1, ROLE_PATTERN, "a role: 1 to 64 letters, digits and . _ -")
RECIPIENT: Final = Text(128, 1, "age1[a-z0-9]+", "an age recipient (age1…)")
_ROLES: Final = ListOf(ROLE, MAX_ROLES, distinct=True)


Rank = tuple[int, int]
"""(epoch, serial): a later epoch wins whatever the serial, so that a founder out of an old backup ends no epoch."""


class BadRoles(PeerError):
    """A file that is no valid `roles.json` of this cluster."""

    code = "bad_roles"


class UnknownRole(UserError):
    """A role that the newest `roles.json` does not have."""

    code = "unknown_role"
    http_status = 404


@attrs.frozen
class RoleEntry:
    """One role: its readers encrypt to `recipient`."""

    reads: tuple[str, ...] = field(_ROLES, "Other roles whose records this one reads.")
    recipient: str = field(RECIPIENT, "age recipient, in the file's epoch.")
    past: bytes = field(Base64(MAX_SEALED), "Its identities of former epochs, encrypted to `recipient`.")


@attrs.frozen
class FormerRole:
    """A role that was taken back. What was written under it stays valid; nothing of a later epoch is."""

    role: str = field(ROLE, "The role.")
    epoch: int = field(SERIAL, "The last epoch in which the member held it.")


_FORMER: Final = ListOf(Object(FormerRole, closed=True), MAX_ROLES)


@attrs.frozen
class MemberEntry:
    """One member; it stays in the file without roles when it has lost them all."""

    peer_id: str = field(PEER, "Peer id.")
    recipient: str = field(RECIPIENT, "age recipient of its keyring.")
    roles: tuple[str, ...] = field(_ROLES, "Granted roles.")
    sealed: bytes = field(Base64(MAX_SEALED), "Identities of its roles in this epoch, encrypted to `recipient`.")
    former: tuple[FormerRole, ...] = field(_FORMER, "Roles that were taken back.", default=())


class _ByName(Shape):
    """An object with a role for each of its members."""

    expected = f"an object of at most {MAX_ROLES} roles"

    def read(self, value: object) -> Mapping[str, RoleEntry]:
        if not isinstance(value, dict) or len(value) > MAX_ROLES:
            raise Refusal(self.expected, value)
        return {ROLE.read(name): _ROLE_ENTRY.read(entry) for name, entry in value.items()}

    def write(self, value: Any) -> Any:
        return {name: _ROLE_ENTRY.write(entry) for name, entry in value.items()}

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": _ROLE_ENTRY.schema()}


_ROLE_ENTRY: Final = Object(RoleEntry, closed=True)
_MEMBER_ENTRY: Final = Object(MemberEntry, closed=True)


@attrs.frozen(slots=False)
class RolesFile:
    """A verified `roles.json`, or one about to be signed."""

    v: int = field(Integer(1, 1))
    cluster_id: str = field(SHA256)
    genesis: str = field(Text(MAX_GENESIS, 1))
    serial: int = field(SERIAL)
    epoch: int = field(SERIAL)
    roles: Mapping[str, RoleEntry] = field(_ByName())
    members: tuple[MemberEntry, ...] = field(ListOf(_MEMBER_ENTRY, MAX_MEMBERS))
    signature: bytes = field(Base64(64), default=b"")

    @cached_property
    def by_peer(self) -> Mapping[str, MemberEntry]:
        return {each.peer_id: each for each in self.members}

    @property
    def rank(self) -> Rank:
        return self.epoch, self.serial

    @cached_property
    def founder(self) -> PeerId:
        """The peer that the genesis entry names."""
        return founder_of(self.genesis)

    def roles_of(self, peer: PeerId | str) -> frozenset[str]:
        entry = self.by_peer.get(str(peer))
        return frozenset() if entry is None else frozenset(entry.roles)

    def wrote_under(self, peer: PeerId | str) -> Mapping[str, int]:
        """Each role that the peer holds or held, with the last epoch in which it did."""
        entry = self.by_peer.get(str(peer))
        if entry is None:
            return {}
        return {each.role: each.epoch for each in entry.former} | dict.fromkeys(entry.roles, self.epoch)

    def recipients(self, role: str) -> tuple[str, ...]:
        """Of the role and of all that read it. Raises `UnknownRole`."""
        self.entry(role)
        readers = (name for name, entry in sorted(self.roles.items()) if name == role or role in entry.reads)
        return tuple(self.roles[name].recipient for name in readers)

    def entry(self, role: str) -> RoleEntry:
        """Raises `UnknownRole`."""
        if role not in self.roles:
            raise UnknownRole(f"there is no role {role!r}; there are {', '.join(sorted(self.roles))}")
        return self.roles[role]

    def highest(self, roles: frozenset[str]) -> str:
        """The one that reads most others, by its name among equals; the base role for none."""
        known = sorted(roles & self.roles.keys(), key=lambda name: (-len(self.roles[name].reads), name != BASE, name))
        return known[0] if known else BASE

    def encode(self) -> bytes:
        """Canonical JSON."""
        return strictjson.canonical(cast("Any", _FILE.write(self)))

    def signed_part(self) -> bytes:
        """The bytes that the signature covers: all but itself."""
        return attrs.evolve(self, signature=b"").encode()


_FILE: Final = Object(RolesFile, closed=True)


def founder_of(genesis: str) -> PeerId:
    """Raises `BadRoles`."""
    try:
        value = cast("Any", strictjson.loads(genesis, max_bytes=MAX_GENESIS, max_depth=MAX_DEPTH, error=BadRoles))
        return PeerId.parse(value["roster"][0]["peer_id"])
    except (LookupError, TypeError, AttributeError, PeerError) as error:
        raise BadRoles(f"the genesis entry names no founder: {error}") from None


def read_roles(data: bytes, cluster_id: bytes) -> RolesFile:
    """Verify a file of the cluster `cluster_id`. Raises `BadRoles`."""
    value = strictjson.loads(data, max_bytes=MAX_FILE, max_depth=MAX_DEPTH, error=BadRoles)
    try:
        file = _FILE.read(value)
    except Refusal as refusal:
        raise BadRoles(refusal.rule("roles.json")) from None
    if file.encode() != data:
        raise BadRoles("not in canonical form")
    if file.cluster_id != cluster_id.hex() or hashlib.sha256(file.genesis.encode()).digest() != cluster_id:
        raise BadRoles("of another cluster")
    try:
        verify(file.founder, DOMAIN, file.signed_part(), file.signature)
    except ChorusError as error:
        raise BadRoles(f"not signed by the founder: {error}") from None
    _check(file)
    return file


def _check(file: RolesFile) -> None:
    if len(file.by_peer) != len(file.members):
        raise BadRoles("a member stands in it twice")
    named = {role for entry in file.roles.values() for role in entry.reads}
    for member in file.members:
        named.update(member.roles, (each.role for each in member.former))
    if not named <= file.roles.keys():
        raise BadRoles("it names a role that it does not have")
