"""`roles.json`: signed by the founder alone, read strictly, sealed to members, rotated."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from chorus import strictjson
from chorus.identity import Identity
from chorus.security import age, roles
from chorus.security.membership import found
from chorus.security.role_changes import NO_SECRETS, RolesFounder, RolesRefused, open_secrets
from chorus.security.roles import BUILT_IN, DOMAIN, BadRoles, MemberEntry, RolesFile, UnknownRole, read_roles
from chorus.security.signing import sign, signed_bytes
from tests.support import PureTestCase

COUNT = itertools.count(1)


def numbered(size: int) -> bytes:
    return next(COUNT).to_bytes(size, "big")


FOUNDER, ONE, TWO = (Identity.from_seed(bytes((seed,)) * 32) for seed in (1, 2, 3))
MEMBERSHIP = found(FOUNDER.peer_id, bytes(range(32)), numbered)
CLUSTER = MEMBERSHIP.cluster_id or b""
GENESIS = (MEMBERSHIP.genesis or b"").decode()
KEYS = {identity.peer_id: age.new_identity(numbered) for identity in (FOUNDER, ONE, TWO)}
SIGNER = RolesFounder(FOUNDER, numbered)


def recipient(identity: Identity) -> str:
    return age.recipient_of(KEYS[identity.peer_id])


def secrets(file: RolesFile, identity: Identity) -> Any:
    return open_secrets(file, identity.peer_id, KEYS[identity.peer_id])


def first() -> RolesFile:
    """The founder, and two members with the base role."""
    file = SIGNER.found(CLUSTER, GENESIS, recipient(FOUNDER), BUILT_IN)
    shown = {str(each.peer_id): recipient(each) for each in (ONE, TWO)}
    return SIGNER.admitted(file, secrets(file, FOUNDER), shown)


def signed_by(identity: Identity, file: RolesFile, domain: str = DOMAIN) -> bytes:
    unsigned = attrs.evolve(file, signature=b"")
    return attrs.evolve(unsigned, signature=sign(identity, domain, unsigned.encode())).encode()


class ReadingRoles(PureTestCase):
    def setUp(self) -> None:
        self.file = first()

    def refused(self, data: bytes, word: str = "", cluster: bytes = CLUSTER) -> None:
        error = self.assertRaises(BadRoles, read_roles, data, cluster)
        self.assertIn(word, str(error))
        self.assertNotIn("\n", str(error))

    def test_what_is_written_is_read(self) -> None:
        self.assertEqual(read_roles(self.file.encode(), CLUSTER), self.file)
        self.assertEqual(self.file.founder, FOUNDER.peer_id)
        self.assertEqual(self.file.roles_of(ONE.peer_id), {"developer"})
        self.assertEqual(self.file.roles_of("nobody"), frozenset())

    def test_only_the_founder_signs(self) -> None:
        read_roles(signed_by(FOUNDER, self.file), CLUSTER)
        self.refused(signed_by(ONE, self.file), "not signed by the founder")
        self.refused(signed_by(FOUNDER, self.file, "chorus-recipient/1"), "not signed by the founder")
        self.refused(attrs.evolve(self.file, signature=b"").encode(), "not signed by the founder")

    def test_a_genesis_entry_of_its_own_makes_nobody_the_founder(self) -> None:
        forged = attrs.evolve(self.file, genesis=GENESIS.replace(str(FOUNDER.peer_id), str(ONE.peer_id)))
        self.refused(signed_by(ONE, forged), "another cluster")
        other = hashlib.sha256(forged.genesis.encode())
        self.refused(signed_by(ONE, attrs.evolve(forged, cluster_id=other.hexdigest())), "another cluster")

    def test_of_another_cluster(self) -> None:
        self.refused(self.file.encode(), "another cluster", bytes(32))

    def test_altered_or_cut_at_every_byte(self) -> None:
        data = self.file.encode()
        for at in range(0, len(data), 7):
            self.refused(data[:at])
            self.refused(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
        self.refused(data + b"\n", "canonical")

    def test_one_spelling(self) -> None:
        value = json.loads(self.file.encode())
        self.refused(json.dumps(value).encode(), "canonical")
        for name in ("extra", "Serial"):
            self.refused(strictjson.canonical({**value, name: 1}))

    def test_limits(self) -> None:
        many = {f"role{number}": self.file.roles["human"] for number in range(roles.MAX_ROLES + 1)}
        member = self.file.members[0]
        for wrong in (
            attrs.evolve(self.file, roles=many),
            attrs.evolve(self.file, members=tuple(member for _ in range(roles.MAX_MEMBERS + 1))),
            attrs.evolve(self.file, genesis=" " * (roles.MAX_GENESIS + 1)),
            attrs.evolve(self.file, serial=2**53),
            attrs.evolve(self.file, epoch=-1),
            attrs.evolve(self.file, v=2),
            attrs.evolve(self.file, roles={"not a role": self.file.roles["human"]}),
            attrs.evolve(self.file, members=(attrs.evolve(member, sealed=bytes(roles.MAX_SEALED + 1)),)),
            attrs.evolve(self.file, members=(attrs.evolve(member, recipient="age1pq?"),)),
        ):
            # 2^53 has no canonical form at all.
            data = json.dumps(roles._FILE.write(wrong), sort_keys=True, separators=(",", ":")).encode()
            self.refused(data)
        self.refused(b" " * (roles.MAX_FILE + 1))

    def test_contradictions_of_a_founder(self) -> None:
        member = self.file.members[0]
        self.refused(signed_by(FOUNDER, attrs.evolve(self.file, members=(member, member))), "twice")
        stranger = attrs.evolve(member, roles=("king",))
        self.refused(signed_by(FOUNDER, attrs.evolve(self.file, members=(stranger,))), "does not have")

    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        self.refused(data)

    @given(st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)))
    def test_any_value_of_any_member(self, value: Any) -> None:
        whole = json.loads(self.file.encode())
        for name in whole:
            self.refused(json.dumps({**whole, name: value}).encode())

    def test_a_signature_has_its_domain(self) -> None:
        self.assertEqual(signed_bytes("ab", b"c"), b"\x02abc")
        self.assertNotEqual(signed_bytes("ab", b"c"), signed_bytes("a", b"bc"))


class Hierarchy(PureTestCase):
    def test_readers(self) -> None:
        file = first()
        readers = {role: len(file.recipients(role)) for role in BUILT_IN}
        self.assertEqual(readers, {"admin": 1, "architect": 2, "developer": 3, "human": 1, "reviewer": 3})
        self.assertIn(file.roles["admin"].recipient, file.recipients("developer"))
        self.assertRaises(UnknownRole, file.recipients, "king")

    def test_the_highest_role(self) -> None:
        file = first()
        for granted, highest in (
            ((), "developer"),
            (("developer", "reviewer"), "developer"),
            (("human", "reviewer"), "human"),
            (("developer", "architect", "reviewer"), "architect"),
            (tuple(BUILT_IN), "admin"),
        ):
            self.assertEqual(file.highest(frozenset(granted)), highest)

    def test_own_roles(self) -> None:
        file = first()
        own = {**BUILT_IN, "auditor": ("developer", "reviewer")}
        after = SIGNER.configured(file, secrets(file, FOUNDER), own)
        self.assertEqual((len(after.recipients("developer")), len(after.recipients("auditor"))), (4, 1))
        self.assertEqual(len(secrets(after, FOUNDER)), len(own))
        # What is no longer configured stays: records of it are there.
        again = SIGNER.configured(after, secrets(after, FOUNDER), BUILT_IN)
        self.assertIn("auditor", again.roles)
        many = {f"role{number}": () for number in range(roles.MAX_ROLES)}
        self.assertRaises(RolesRefused, SIGNER.configured, file, secrets(file, FOUNDER), many)


class Sealing(PureTestCase):
    def test_a_member_opens_its_roles_alone(self) -> None:
        file = first()
        self.assertEqual(set(secrets(file, ONE)), {"developer"})
        self.assertEqual(set(secrets(file, FOUNDER)), set(BUILT_IN))
        self.assertRaises(age.NotForUs, open_secrets, file, ONE.peer_id, KEYS[TWO.peer_id])
        self.assertEqual(open_secrets(file, Identity.from_seed(bytes(32)).peer_id, KEYS[ONE.peer_id]), NO_SECRETS)

    def test_rotation_leaves_out_whoever_lost_the_role(self) -> None:
        file = first()
        keys = secrets(file, FOUNDER)
        before = secrets(file, TWO)
        file = SIGNER.revoked(file, keys, str(TWO.peer_id), "developer")
        self.assertEqual(secrets(file, TWO), NO_SECRETS)
        for epoch in (2, 3):
            file = SIGNER.rotated(file, secrets(file, FOUNDER))
            self.assertEqual(file.epoch, epoch)
        read_roles(file.encode(), CLUSTER)
        sealed = age.encrypt(b"new", file.recipients("developer"))
        for identity in (FOUNDER, ONE):
            kept = secrets(file, identity)["developer"]
            self.assertEqual(len(kept), 3)
            self.assertEqual(kept[2], before["developer"][0])
            self.assertEqual(age.decrypt(sealed, kept), b"new")
        self.assertEqual(secrets(file, TWO), NO_SECRETS)
        self.assertRaises(age.NotForUs, age.decrypt, sealed, before["developer"])
        # The former identities are closed to the one before, too.
        self.assertRaises(age.NotForUs, age.decrypt, file.roles["developer"].past, before["developer"])

    def test_what_was_written_under_a_role_outlives_it(self) -> None:
        file = SIGNER.revoked(first(), secrets(first(), FOUNDER), str(TWO.peer_id), "developer")
        file = SIGNER.rotated(file, secrets(file, FOUNDER))
        self.assertEqual(file.roles_of(TWO.peer_id), frozenset())
        self.assertEqual(file.wrote_under(TWO.peer_id), {"developer": 1})
        self.assertEqual(file.wrote_under(ONE.peer_id), {"developer": 2})
        self.assertEqual(file.wrote_under(Identity.from_seed(bytes(32)).peer_id), {})
        self.assertEqual(read_roles(file.encode(), CLUSTER), file)
        file = SIGNER.admitted(file, secrets(file, FOUNDER), {str(TWO.peer_id): recipient(TWO)})
        self.assertEqual(file.wrote_under(TWO.peer_id), {"developer": 1})
        again = SIGNER.granted(file, secrets(file, FOUNDER), str(TWO.peer_id), "developer")
        self.assertEqual(again.by_peer[str(TWO.peer_id)].former, ())

    def test_a_late_member_reads_all_epochs(self) -> None:
        file = SIGNER.found(CLUSTER, GENESIS, recipient(FOUNDER), BUILT_IN)
        old = file.recipients("developer")
        file = SIGNER.rotated(file, secrets(file, FOUNDER))
        file = SIGNER.admitted(file, secrets(file, FOUNDER), {str(ONE.peer_id): recipient(ONE)})
        self.assertEqual(age.decrypt(age.encrypt(b"old", old), secrets(file, ONE)["developer"]), b"old")

    def test_old_identities_are_forgotten_at_last(self) -> None:
        file = SIGNER.found(CLUSTER, GENESIS, recipient(FOUNDER), {"developer": ()})
        for _ in range(roles.MAX_PAST + 3):
            file = SIGNER.rotated(file, secrets(file, FOUNDER))
        self.assertEqual(len(secrets(file, FOUNDER)["developer"]), roles.MAX_PAST + 1)
        self.assertLess(len(file.roles["developer"].past), roles.MAX_SEALED)
        read_roles(file.encode(), CLUSTER)

    def test_the_largest_file(self) -> None:
        file = first()
        shown = {str(number): recipient(ONE) for number in range(roles.MAX_MEMBERS)}
        self.assertRaises(RolesRefused, SIGNER.admitted, file, secrets(file, FOUNDER), shown)
        # As many members as may be, with names as long as they are, still fit.
        names = [f"12D3KooW{number:044}".replace("0", "1") for number in range(roles.MAX_MEMBERS)]
        sealed = next(each.sealed for each in file.members if each.peer_id == str(ONE.peer_id))
        full = tuple(MemberEntry(name, recipient(ONE), ("developer",), sealed) for name in names)
        self.assertLess(len(attrs.evolve(file, members=full).encode()), roles.MAX_FILE)

    def test_a_member_that_was_never_met(self) -> None:
        file = first()
        for change in (SIGNER.granted, SIGNER.revoked):
            self.assertRaises(RolesRefused, change, file, secrets(file, FOUNDER), "nobody", "admin")
            self.assertRaises(UnknownRole, change, file, secrets(file, FOUNDER), str(ONE.peer_id), "king")

    def test_serials_grow_and_what_changes_nothing_is_no_change(self) -> None:
        file = first()
        after = SIGNER.granted(file, secrets(file, FOUNDER), str(ONE.peer_id), "admin")
        self.assertEqual((after.serial, after.epoch), (file.serial + 1, file.epoch))
        self.assertIs(SIGNER.granted(after, secrets(after, FOUNDER), str(ONE.peer_id), "admin"), after)
