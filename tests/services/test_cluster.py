from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import stat
from pathlib import Path
from unittest import mock

import attrs
from twisted.logger import capturedLogs

from chorus import strictjson
from chorus.errors import ChorusError
from chorus.files import DataDirectoryError
from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.security.jointoken import JoinToken, TokenError, WeakSecret
from chorus.security.membership import ClusterError, Membership, Wishes, check_open_mode, decide
from chorus.services.cluster import (
    ADDRESSES,
    STATE,
    ClusterService,
    NoCluster,
    WrongCluster,
    load_membership,
    load_token,
)
from tests.support import PureTestCase

ALICE = Identity.from_seed(b"\1" * 32)
BOB = Identity.from_seed(b"\2" * 32)
SECRET = bytes(range(32))
ADDRESS = Multiaddr.parse("/ip4/127.0.0.1/tcp/9000")
OTHER_CLUSTER = b"\7" * 32


def chance(seed: int = 1):
    return random.Random(seed).randbytes


FOUNDED = decide(None, Wishes(), ALICE.peer_id, chance())
TOKEN = JoinToken.make(FOUNDED.cluster_id, ALICE.peer_id, FOUNDED.secret, [ADDRESS])
JOINED = decide(None, Wishes(join=TOKEN), BOB.peer_id, chance(2))
WAITING = decide(None, Wishes(secret=SECRET), BOB.peer_id, chance(2))


class FoundingRuleTests(PureTestCase):
    def test_a_new_node_with_no_wishes_founds(self) -> None:
        self.assertEqual(len(FOUNDED.secret), 32)
        assert FOUNDED.genesis is not None
        self.assertEqual(FOUNDED.cluster_id, hashlib.sha256(FOUNDED.genesis).digest())
        genesis = json.loads(FOUNDED.genesis)
        roster = [{"peer_id": str(ALICE.peer_id), "store_id": FOUNDED.store_id.hex(), "voter": True}]
        self.assertEqual(genesis["roster"], roster)
        self.assertTrue(FOUNDED.founded_here)

    def test_clusters_and_stores_differ(self) -> None:
        other = decide(None, Wishes(), ALICE.peer_id, os.urandom)
        self.assertNotEqual(other.cluster_id, FOUNDED.cluster_id)
        self.assertNotEqual(other.store_id, FOUNDED.store_id)
        self.assertNotEqual(other.secret, FOUNDED.secret)

    def test_found_with_a_configured_secret(self) -> None:
        made = decide(None, Wishes(secret=SECRET, found=True), ALICE.peer_id, chance())
        self.assertEqual(made.secret, SECRET)
        self.assertTrue(made.founded_here)

    def test_a_secret_alone_never_founds(self) -> None:
        self.assertIsNone(WAITING.cluster_id)
        self.assertFalse(WAITING.founded_here)
        self.assertEqual(WAITING.secret, SECRET)

    def test_a_token_joins(self) -> None:
        self.assertEqual((JOINED.cluster_id, JOINED.secret), (FOUNDED.cluster_id, FOUNDED.secret))
        self.assertFalse(JOINED.founded_here)
        self.assertEqual(JOINED.contacts, (ADDRESS.with_peer(ALICE.peer_id),))
        self.assertNotEqual(JOINED.store_id, FOUNDED.store_id)

    def test_bootstrap_peers_without_proof(self) -> None:
        with self.assertRaises(ClusterError) as caught:
            decide(None, Wishes(bootstrap=True), ALICE.peer_id, chance())
        for variable in ("CHORUS_BOOTSTRAP_PEERS", "CHORUS_JOIN", "CHORUS_CLUSTER_SECRET", "CHORUS_FOUND"):
            self.assertIn(variable, str(caught.exception))
        self.assertTrue(decide(None, Wishes(bootstrap=True, found=True), ALICE.peer_id, chance()).founded_here)
        self.assertIsNone(decide(None, Wishes(bootstrap=True, secret=SECRET), ALICE.peer_id, chance()).cluster_id)

    def test_contradictions(self) -> None:
        for wishes in (Wishes(join=TOKEN, found=True), Wishes(join=TOKEN, secret=SECRET)):
            with self.assertRaises(ClusterError):
                decide(None, wishes, BOB.peer_id, chance())
        with self.assertRaises(ClusterError):
            decide(None, Wishes(join=TOKEN), ALICE.peer_id, chance())
        self.assertEqual(decide(None, Wishes(join=TOKEN, secret=TOKEN.secret), BOB.peer_id, chance(2)), JOINED)

    def test_resuming_changes_nothing(self) -> None:
        for stored in (FOUNDED, JOINED, WAITING):
            self.assertEqual(decide(stored, Wishes(), BOB.peer_id, chance(3)), stored)
        self.assertEqual(decide(FOUNDED, Wishes(found=True, bootstrap=True), ALICE.peer_id, chance(3)), FOUNDED)
        self.assertEqual(decide(JOINED, Wishes(join=TOKEN), BOB.peer_id, chance(3)), JOINED)

    def test_a_store_belongs_to_one_cluster_for_life(self) -> None:
        other = attrs.evolve(TOKEN, cluster_id=OTHER_CLUSTER)
        for stored in (FOUNDED, JOINED):
            with self.assertRaises(ClusterError) as caught:
                decide(stored, Wishes(join=other), BOB.peer_id, chance())
            self.assertIn("CHORUS_JOIN", str(caught.exception))
        for stored in (JOINED, WAITING):
            with self.assertRaises(ClusterError):
                decide(stored, Wishes(found=True), BOB.peer_id, chance())

    def test_a_rotated_secret_is_taken(self) -> None:
        new = bytes(range(50, 82))
        self.assertEqual(decide(FOUNDED, Wishes(secret=new), ALICE.peer_id, chance()).secret, new)
        rotated = attrs.evolve(TOKEN, secret=new)
        self.assertEqual(decide(JOINED, Wishes(join=rotated), BOB.peer_id, chance()).secret, new)
        with self.assertRaises(ClusterError):
            decide(JOINED, Wishes(join=rotated, secret=SECRET), BOB.peer_id, chance())

    def test_wishes_from_texts(self) -> None:
        wishes = Wishes.parse(join=TOKEN.text(), cluster_secret=SECRET.hex(), found=True, bootstrap=True)
        self.assertEqual(wishes, Wishes(TOKEN, SECRET, True, True))
        self.assertEqual(Wishes.parse(join="", cluster_secret=""), Wishes())
        with self.assertRaises(WeakSecret):
            Wishes.parse(cluster_secret="short")
        with self.assertRaises(TokenError):
            Wishes.parse(join="nothing")
        self.assertNotIn(SECRET.hex(), repr(wishes))
        self.assertNotIn(repr(SECRET), repr(wishes) + repr(FOUNDED))


class OpenModeTests(PureTestCase):
    def test_refusals(self) -> None:
        for host in ("127.0.0.1", "::1", "127.9.9.9"):
            check_open_mode(listen_host=host, wishes=Wishes(), stored=False)
        for host, wishes, stored in (
            ("0.0.0.0", Wishes(), False),
            ("::", Wishes(), False),
            ("192.168.0.1", Wishes(), False),
            ("fe80::1%eth0", Wishes(), False),
            ("127.0.0.1", Wishes(secret=SECRET), False),
            ("127.0.0.1", Wishes(join=TOKEN), False),
            ("127.0.0.1", Wishes(found=True), False),
            ("127.0.0.1", Wishes(), True),
        ):
            with self.assertRaises(ClusterError, msg=(host, wishes, stored)) as caught:
                check_open_mode(listen_host=host, wishes=wishes, stored=stored)
            self.assertIn("CHORUS_OPEN", str(caught.exception))


class ClusterServiceTests(PureTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(mode=0o700)

    def open(self, wishes: Wishes = Wishes(), identity: Identity = ALICE) -> ClusterService:  # noqa: B008
        service = ClusterService.open(self.directory, identity, wishes)
        service.keep()
        return service

    def test_nothing_is_on_disk_until_it_is_kept(self) -> None:
        for wishes, identity in ((Wishes(), ALICE), (Wishes(join=TOKEN), BOB), (Wishes(secret=SECRET), BOB)):
            with capturedLogs() as said:
                service = ClusterService.open(self.directory, identity, wishes)
            self.assertEqual((os.listdir(self.directory), said), ([], []))
            with capturedLogs() as said:
                service.keep()
                service.keep()
            self.assertEqual(
                [event.get("event") for event in said], ["cluster.founded"] if service.founded_here else []
            )
            stored = load_membership(self.directory)
            assert stored is not None
            self.assertEqual((stored.store_id, stored.cluster_id), (service.store_id, service.cluster_id))
            (self.directory / STATE).unlink()

    def test_what_was_adopted_stays_kept(self) -> None:
        service = ClusterService.open(self.directory, BOB, Wishes(secret=SECRET))
        service.meet(OTHER_CLUSTER)
        service.keep()
        stored = load_membership(self.directory)
        assert stored is not None
        self.assertEqual(stored.cluster_id, OTHER_CLUSTER)

    def test_founded_once(self) -> None:
        first = self.open()
        self.assertEqual(stat.S_IMODE((self.directory / STATE).stat().st_mode), 0o600)
        again = self.open()
        self.assertEqual(again.cluster_id, first.cluster_id)
        self.assertEqual((again.store_id, again.secret), (first.store_id, first.secret))
        self.assertTrue(again.founded_here)

    def test_nothing_is_written_again_without_a_change(self) -> None:
        self.open()
        before = (self.directory / STATE).stat().st_mtime_ns
        self.open()
        self.assertEqual((self.directory / STATE).stat().st_mtime_ns, before)

    def test_every_membership_survives_a_restart(self) -> None:
        for membership in (FOUNDED, JOINED, WAITING):
            self.assertEqual(Membership.from_json(membership.to_json()), membership)

    def test_every_field_is_checked(self) -> None:
        good = json.loads(FOUNDED.to_json())

        def genesis(**changed: object) -> dict[str, object]:
            text = strictjson.canonical({**json.loads(good["genesis"]), **changed})
            return {"genesis": text.decode(), "cluster_id": hashlib.sha256(text).hexdigest()}

        row = json.loads(good["genesis"])["roster"][0]
        for changed in (
            *(
                {name: value}
                for name in good
                for value in ("", "00", 5, [], {}, True)
                if value != good[name] or value is True
            ),
            {"secret": "00" * 15},
            {"secret": "00" * 129},
            {"store_id": "11" * 16},
            {"store_id": good["store_id"].upper()},
            {"cluster_id": None},
            {"contacts": [str(ADDRESS)]},
            {"contacts": [str(ADDRESS.with_peer(BOB.peer_id))] * 9},
            {"more": 1},
            genesis(kind="other"),
            genesis(version=2),
            genesis(nonce="00"),
            genesis(nonce=5),
            genesis(roster=[]),
            genesis(roster=[row, row]),
            genesis(roster=[{**row, "peer_id": "x"}]),
            genesis(roster=[{**row, "store_id": "11" * 16}]),
            genesis(roster=[{**row, "voter": False}]),
            genesis(authority="x"),
            genesis(more=1),
        ):
            with self.assertRaises((ValueError, ChorusError), msg=changed):
                Membership.from_json(strictjson.canonical({**good, **changed}))
        for name in good:
            with self.assertRaises((ValueError, ChorusError), msg=name):
                Membership.from_json(strictjson.canonical({key: good[key] for key in good if key != name}))
        self.assertEqual(Membership.from_json(strictjson.canonical(good)), FOUNDED)

    def test_the_file_of_another_node(self) -> None:
        Identity.load_or_create(self.directory / "identity")
        self.open().publish_addresses([ADDRESS])
        for use in (lambda: self.open(identity=BOB), lambda: load_token(self.directory)):
            with self.assertRaises(DataDirectoryError) as caught:
                use()
            self.assertIn(str(ALICE.peer_id), str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))

    def test_damaged(self) -> None:
        self.open()
        path = self.directory / STATE
        good = json.loads(path.read_bytes())
        for content in (
            b"",
            b"{}",
            b"[]",
            b"null",
            path.read_bytes()[:-1],
            json.dumps(good | {"version": 2}).encode(),
            json.dumps(good | {"cluster_id": "00" * 32}).encode(),
            json.dumps(good | {"cluster_id": "00"}).encode(),
            json.dumps(good | {"secret": 5}).encode(),
            json.dumps(good | {"store_id": "xyz"}).encode(),
            json.dumps(good | {"contacts": ["nothing"]}).encode(),
            json.dumps(good | {"contacts": None}).encode(),
            json.dumps({key: value for key, value in good.items() if key != "genesis"}).encode(),
        ):
            path.write_bytes(content)
            with self.assertRaises(DataDirectoryError, msg=content) as caught:
                self.open()
            self.assertIn(str(path), str(caught.exception))
            self.assertNotIn(good["secret"], str(caught.exception))

    def test_open_to_others(self) -> None:
        self.open()
        (self.directory / STATE).chmod(0o644)
        with self.assertRaises(DataDirectoryError):
            self.open()

    def test_waiting_node_adopts_the_first_cluster_it_meets(self) -> None:
        service = self.open(Wishes(secret=SECRET), BOB)
        heard: list[bytes] = []
        service.when_adopted(heard.append)
        with self.assertRaises(NoCluster):
            service.meet(b"")
        with self.assertRaises(WrongCluster):
            service.meet(b"short")
        self.assertIsNone(service.cluster_id)
        service.meet(OTHER_CLUSTER)
        self.assertEqual((service.cluster_id, heard), (OTHER_CLUSTER, [OTHER_CLUSTER]))
        stored = load_membership(self.directory)
        assert stored is not None
        self.assertEqual(stored.cluster_id, OTHER_CLUSTER)
        service.when_adopted(heard.append)
        self.assertEqual(heard, [OTHER_CLUSTER] * 2)

    def test_clusters_never_merge(self) -> None:
        service = self.open()
        service.meet(service.cluster_id)
        service.meet(b"")
        with self.assertRaises(WrongCluster):
            service.meet(OTHER_CLUSTER)
        with self.assertRaises(RuntimeError):
            service.adopt(OTHER_CLUSTER)

    def test_disk_full_while_adopting(self) -> None:
        service = self.open(Wishes(secret=SECRET), BOB)

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "replace", full)
        with self.assertRaises(DataDirectoryError):
            service.meet(OTHER_CLUSTER)
        self.assertIsNone(service.cluster_id)

    def test_contacts_never_name_this_node(self) -> None:
        service = self.open(Wishes(join=TOKEN), BOB)
        self.assertEqual(service.contacts, TOKEN.dialable())
        self.assertEqual(ClusterService(self.directory, ALICE, JOINED).contacts, ())


class TokenTests(PureTestCase):
    setUp = ClusterServiceTests.setUp
    open = ClusterServiceTests.open

    def test_token_of_a_node(self) -> None:
        identity = Identity.load_or_create(self.directory / "identity")
        service = self.open(identity=identity)
        service.publish_addresses([ADDRESS.with_peer(identity.peer_id)])
        token = load_token(self.directory)
        self.assertEqual(token, service.token([ADDRESS]))
        self.assertEqual(token.cluster_id, service.cluster_id)
        self.assertEqual(token.peer_id, identity.peer_id)
        self.assertEqual(token.secret, service.secret)
        self.assertEqual(token.addresses, (ADDRESS,))

    def test_what_to_do(self) -> None:
        with self.assertRaises(ClusterError) as caught:
            load_token(self.directory)
        self.assertIn("started", str(caught.exception))
        service = self.open()
        with self.assertRaises(ClusterError) as caught:
            load_token(self.directory)
        self.assertIn("listened", str(caught.exception))
        service.publish_addresses([ADDRESS])
        with self.assertRaises(DataDirectoryError):
            load_token(self.directory)

    def test_waiting_node_has_no_token(self) -> None:
        with self.assertRaises(ClusterError):
            self.open(Wishes(secret=SECRET), BOB).token([ADDRESS])

    def test_addresses_that_cannot_be_written_are_a_warning(self) -> None:
        service = self.open()
        with (
            capturedLogs() as said,
            mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
        ):
            service.publish_addresses([ADDRESS])
        self.assertEqual([event.get("event") for event in said], ["cluster.not_published"])
        service.publish_addresses([ADDRESS])
        self.assertEqual(json.loads((self.directory / ADDRESSES).read_text()), [str(ADDRESS)])

    def test_damaged_addresses(self) -> None:
        self.open().publish_addresses([ADDRESS])
        path = self.directory / ADDRESSES
        for content in (b"", b"5", b'["x"]', b"{"):
            path.write_bytes(content)
            with self.assertRaises(DataDirectoryError, msg=content):
                load_token(self.directory)
