"""Any history of grants, removals and rotations, held against a model of who may open what."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import Identity
from chorus.security import age
from chorus.security.role_changes import RolesFounder, open_secrets
from chorus.security.roles import BASE, RolesFile, read_roles
from tests.security.test_roles import CLUSTER, GENESIS, numbered
from tests.support import PureTestCase

FOUNDER = Identity.from_seed(b"\1" * 32)
MEMBERS = [Identity.from_seed(bytes((seed,)) * 32) for seed in (2, 3)]
KEYS = {str(each.peer_id): age.new_identity(numbered) for each in (FOUNDER, *MEMBERS)}
ROLES = {"admin": (BASE,), BASE: ()}
STEPS = st.one_of(
    st.tuples(st.sampled_from(("grant", "revoke")), st.sampled_from(MEMBERS), st.sampled_from(tuple(ROLES))),
    st.tuples(st.just("rotate"), st.just(FOUNDER), st.just("")),
)


class World:
    """The founder's file, a ciphertext of each role and epoch, and the keys that each member ever had."""

    def __init__(self) -> None:
        self.signer = RolesFounder(FOUNDER, numbered)
        own = str(FOUNDER.peer_id)
        self.file = self.signer.found(CLUSTER, GENESIS, age.recipient_of(KEYS[own]), ROLES)
        shown = {str(each.peer_id): age.recipient_of(KEYS[str(each.peer_id)]) for each in MEMBERS}
        self.file = self.signer.admitted(self.file, self.secrets(FOUNDER), shown)
        self.held = {str(each.peer_id): {BASE} for each in MEMBERS}
        self.ever: dict[str, set[str]] = {str(each.peer_id): set() for each in MEMBERS}
        self.sealed: dict[tuple[str, int], bytes] = {}
        self.note()

    def secrets(self, identity: Identity) -> Any:
        return open_secrets(self.file, identity.peer_id, KEYS[str(identity.peer_id)])

    def note(self) -> None:
        for role in ROLES:
            self.sealed[role, self.file.epoch] = age.encrypt(role.encode(), self.file.recipients(role))
        for member in MEMBERS:
            self.ever[str(member.peer_id)].update(key for keys in self.secrets(member).values() for key in keys)

    def step(self, what: str, member: Identity, role: str) -> None:
        before, peer, keys = self.file.serial, str(member.peer_id), self.secrets(FOUNDER)
        if what == "rotate":
            self.file = self.signer.rotated(self.file, keys)
        elif what == "grant":
            self.file = self.signer.granted(self.file, keys, peer, role)
            self.held[peer].add(role)
        else:
            self.file = self.signer.revoked(self.file, keys, peer, role)
            self.held[peer].discard(role)
        assert self.file.serial in (before, before + 1)
        self.note()


def opens(sealed: bytes, identities: Any) -> bool:
    try:
        age.decrypt(sealed, list(identities))
    except age.NotForUs:
        return False
    return True


class RoleHistories(PureTestCase):
    @settings(max_examples=20, deadline=None)
    @given(st.lists(STEPS, max_size=8))
    def test_who_opens_what(self, steps: list[tuple[str, Identity, str]]) -> None:
        world = World()
        for step in steps:
            world.step(*step)
        self.check(world)

    def check(self, world: World) -> None:
        self.assertEqual(read_roles(world.file.encode(), CLUSTER), world.file)
        founder = [key for keys in world.secrets(FOUNDER).values() for key in keys]
        self.assertTrue(all(opens(sealed, founder) for sealed in world.sealed.values()))
        for member in MEMBERS:
            peer = str(member.peer_id)
            held = world.held[peer]
            self.assertEqual(world.file.roles_of(peer), held)
            self.member(world, held, [key for keys in world.secrets(member).values() for key in keys], world.ever[peer])

    def member(self, world: World, held: set[str], now: list[str], ever: set[str]) -> None:
        for (role, epoch), sealed in world.sealed.items():
            reads = role in held or any(role in ROLES[each] for each in held)
            self.assertEqual(opens(sealed, now), reads, (role, epoch, held))
            # All that it ever had: what it lost it keeps, and no more.
            if epoch == world.file.epoch and not reads and self.new_keys(world, ever):
                self.assertFalse(opens(sealed, ever))

    def new_keys(self, world: World, ever: set[str]) -> bool:
        """True if none of `ever` is a key of this epoch."""
        newest: RolesFile = world.file
        return not {age.recipient_of(key) for key in ever} & {entry.recipient for entry in newest.roles.values()}
