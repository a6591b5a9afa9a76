"""New versions of `roles.json`, and what is sealed in one (spec/amendments.md 28, 32). Pure but for age, which draws
randomness of its own; blocking, about a millisecond for each member whose keys change.

A member's `sealed` holds the newest identity of each of its roles; a role's `past` holds the former ones, encrypted to
the newest. So a member that stays reads all epochs, and one that is left out of a rotation none from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from chorus import strictjson
from chorus.entropy import RandomBytes
from chorus.errors import UserError
from chorus.identity import Identity, PeerId
from chorus.security import age
from chorus.security.roles import (
    BASE,
    DOMAIN,
    MAX_FILE,
    MAX_MEMBERS,
    MAX_PAST,
    MAX_ROLES,
    BadRoles,
    FormerRole,
    MemberEntry,
    RoleEntry,
    RolesFile,
)
from chorus.security.signing import sign

Secrets = Mapping[str, tuple[str, ...]]
"""Of a node: the identities of each of its roles, that of the newest epoch first, then one epoch back each."""
NO_SECRETS: Final[Secrets] = {}


class RolesRefused(UserError):
    """A change of roles that cannot be made; the text says why."""

    code = "roles_refused"
    http_status = 409


def open_secrets(file: RolesFile, peer: PeerId, identity: str) -> Secrets:
    """The keys that `file` holds for `peer`, whose keyring has `identity`. Raises `AgeError` or `BadRoles`."""
    member = file.by_peer.get(str(peer))
    if member is None or not member.sealed:
        return NO_SECRETS
    newest = _unsealed(age.decrypt(member.sealed, [identity]))
    if not isinstance(newest, dict):
        raise BadRoles("no roles are sealed in it")
    return {role: _identities(file, role, str(key)) for role, key in newest.items()}


def _identities(file: RolesFile, role: str, newest: str) -> tuple[str, ...]:
    entry = file.roles.get(role)
    if entry is None or age.recipient_of(newest) != entry.recipient:
        raise BadRoles(f"the identity of {role} is not the role's")
    former = _unsealed(age.decrypt(entry.past, [newest])) if entry.past else []
    if not isinstance(former, list):
        raise BadRoles(f"no identities are sealed in {role}")
    return (newest, *map(str, former))


def _unsealed(data: bytes) -> object:
    return strictjson.loads(data, max_depth=1, error=BadRoles)


@attrs.frozen
class RolesFounder:
    """The founder's way to make `roles.json`. Each method returns a signed file with the next serial, or the same file
    where nothing changes."""

    identity: Identity
    random: RandomBytes

    def found(self, cluster_id: bytes, genesis: str, recipient: str, roles: Mapping[str, tuple[str, ...]]) -> RolesFile:
        """The first one: serial 1, epoch 1, and the founder alone in it. Raises `RolesRefused`."""
        me = MemberEntry(str(self.identity.peer_id), recipient, (BASE,), b"")
        empty = RolesFile(1, cluster_id.hex(), genesis, 0, 1, {}, (me,))
        return self.configured(empty, NO_SECRETS, roles)

    def configured(self, file: RolesFile, secrets: Secrets, roles: Mapping[str, tuple[str, ...]]) -> RolesFile:
        """With `roles` as they are configured: new ones are added, `reads` is replaced, and none is taken away."""
        if len(roles.keys() | file.roles.keys()) > MAX_ROLES:
            raise RolesRefused(f"more than {MAX_ROLES} roles")
        made = {role: age.new_identity(self.random) for role in sorted(roles.keys() - file.roles.keys())}
        entries = dict(file.roles)
        for role, reads in roles.items():
            if role in made:
                entries[role] = RoleEntry(reads, age.recipient_of(made[role]), b"")
            else:
                entries[role] = attrs.evolve(entries[role], reads=reads)
        newest = _newest(secrets) | made
        changed = attrs.evolve(file, roles=entries)
        return self._signed(changed, newest, [str(self.identity.peer_id)] if made else [])

    def admitted(self, file: RolesFile, secrets: Secrets, shown: Mapping[str, str]) -> RolesFile:
        """With the members of `shown` (recipient by peer id): new ones get the base role, others a new recipient."""
        members = {**file.by_peer}
        for peer, recipient in shown.items():
            known = members.get(peer)
            roles = (BASE,) if known is None else known.roles
            former = () if known is None else known.former
            members[peer] = MemberEntry(peer, recipient, roles, b"", former)
        if len(members) > MAX_MEMBERS:
            raise RolesRefused(f"more than {MAX_MEMBERS} members")
        changed = attrs.evolve(file, members=_ordered(members.values()))
        return self._signed(changed, _newest(secrets), shown)

    def granted(self, file: RolesFile, secrets: Secrets, peer: str, role: str) -> RolesFile:
        """Raises `UnknownRole` or `RolesRefused`."""
        file.entry(role)
        return self._with(file, secrets, peer, file.roles_of(peer) | {role})

    def revoked(self, file: RolesFile, secrets: Secrets, peer: str, role: str) -> RolesFile:
        """The role is no longer sealed to the peer, which keeps its key of this epoch until a rotation. Raises
        `UnknownRole` or `RolesRefused`."""
        file.entry(role)
        return self._with(file, secrets, peer, file.roles_of(peer) - {role})

    def _with(self, file: RolesFile, secrets: Secrets, peer: str, roles: frozenset[str]) -> RolesFile:
        member = file.by_peer.get(peer)
        if member is None:
            raise RolesRefused(f"{peer} is no member that the founder has met: `chorus keys list` shows them")
        if roles == frozenset(member.roles):
            return file
        past = {each.role: each for each in member.former if each.role not in roles}
        past.update((role, FormerRole(role, file.epoch)) for role in member.roles if role not in roles)
        former = tuple(past[role] for role in sorted(past))
        members = {**file.by_peer, peer: attrs.evolve(member, roles=tuple(sorted(roles)), former=former)}
        changed = attrs.evolve(file, members=_ordered(members.values()))
        return self._signed(changed, _newest(secrets), [peer])

    def rotated(self, file: RolesFile, secrets: Secrets) -> RolesFile:
        """The next epoch: each role has a new identity, sealed to those that hold the role now."""
        made = {role: age.new_identity(self.random) for role in sorted(file.roles)}
        entries = {
            role: attrs.evolve(entry, recipient=age.recipient_of(made[role]), past=_past(made[role], secrets[role]))
            for role, entry in file.roles.items()
        }
        changed = attrs.evolve(file, epoch=file.epoch + 1, roles=entries)
        return self._signed(changed, made, file.by_peer)

    def _signed(self, file: RolesFile, newest: Mapping[str, str], sealed_to: Iterable[str]) -> RolesFile:
        """The next serial, with `newest` sealed anew to the peers of `sealed_to`."""
        wanted = frozenset(sealed_to)
        members = tuple(self._sealed(each, newest) if each.peer_id in wanted else each for each in file.members)
        unsigned = attrs.evolve(file, serial=file.serial + 1, members=members, signature=b"")
        signature = sign(self.identity, DOMAIN, unsigned.encode())
        signed = attrs.evolve(unsigned, signature=signature)
        if (size := len(signed.encode())) > MAX_FILE:
            raise RolesRefused(f"roles.json would have {size} bytes, the most is {MAX_FILE}")
        return signed

    def _sealed(self, member: MemberEntry, newest: Mapping[str, str]) -> MemberEntry:
        # The founder re-encrypts what others wrote, so it has the keys of all roles, whatever it was granted.
        mine = member.peer_id == str(self.identity.peer_id)
        keys = {role: key for role, key in newest.items() if mine or role in member.roles}
        sealed = age.encrypt(strictjson.canonical(dict(keys)), [member.recipient]) if keys else b""
        return attrs.evolve(member, sealed=sealed)


def _newest(secrets: Secrets) -> dict[str, str]:
    return {role: keys[0] for role, keys in secrets.items()}


def _past(newest: str, former: tuple[str, ...]) -> bytes:
    return age.encrypt(strictjson.canonical(list(former[:MAX_PAST])), [age.recipient_of(newest)])


def _ordered(members: Iterable[MemberEntry]) -> tuple[MemberEntry, ...]:
    return tuple(sorted(members, key=lambda each: each.peer_id))
