"""Keys and roles of nodes that exchange them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred

from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.protocols.keys import PROTOCOL, KeyShow
from chorus.protocols.streamio import StreamIO
from chorus.security import age
from chorus.security.role_changes import RolesRefused
from chorus.security.roles import BUILT_IN, Rank, UnknownRole
from chorus.services.keys.exchange import ASK_EVERY, LIAR_S
from chorus.services.keys.files import FORMER_ROLES, ROLES, KeyFiles, KeyringError, RolesNotKept
from chorus.services.keys.service import RESEAL_S, KeysService, NotFounder
from tests.services.keys.kit import FOUNDER, KeyNode, connect, settle
from tests.support import PureTestCase


class KeysTestCase(PureTestCase):
    def setUp(self) -> None:
        self.running = self.clock()
        self.folder = Path(self.mktemp())

    def node(self, seed: int, **more: Any) -> KeyNode:
        node = KeyNode(self.folder / str(seed), self.running, seed, **more)
        self.successResultOf(node.keys.startService())
        self.addCleanup(node.keys.stopService)
        return node

    def mesh(self, *seeds: int) -> list[KeyNode]:
        """Each is connected to the first one."""
        nodes = [self.node(seed) for seed in seeds]
        for node in nodes[1:]:
            connect(node.host, nodes[0].host)
        settle(self.running)
        return nodes

    def done(self, work: Deferred[Any]) -> Any:
        settle(self.running)
        return self.successResultOf(work)


class Founding(KeysTestCase):
    def test_the_founder_has_all_keys_and_the_base_role(self) -> None:
        founder = self.node(1).keys
        self.assertEqual((founder.epoch, founder.founder, founder.role), (1, FOUNDER.peer_id, "developer"))
        self.assertEqual(founder.roles_of(FOUNDER.peer_id), {"developer"})
        self.assertEqual(len(founder.identities()), len(BUILT_IN))

    def test_a_node_without_a_founder_waits(self) -> None:
        member = self.node(2).keys
        self.assertEqual((member.epoch, member.founder, member.role), (0, None, "developer"))
        self.assertEqual(member.identities(), ())
        self.assertRaises(UnknownRole, member.recipients, "developer")

    def test_a_node_that_learns_its_cluster_later(self) -> None:
        founder, late = self.node(1), self.node(2, adopted=False)
        self.assertNotIn(PROTOCOL, late.host.served)
        connect(late.host, founder.host)
        settle(self.running)
        assert founder.cluster.cluster_id is not None
        late.cluster.adopt(founder.cluster.cluster_id)
        late.host.tell(late.host.connections()[0])  # type: ignore[arg-type]
        settle(self.running)
        self.assertEqual(late.keys.roles_of(late.peer), {"developer"})

    def test_a_node_that_stops_before_it_learns_its_cluster(self) -> None:
        late = self.node(2, adopted=False)
        self.done(late.keys.stopService())
        late.cluster.adopt(bytes(32))
        self.assertNotIn(PROTOCOL, late.host.served)

    def test_damaged_roles_are_one_line(self) -> None:
        first = self.node(1)
        self.done(first.keys.stopService())
        first.files.keep_roles(b"{}")
        node = KeyNode(self.folder / "1", self.running, 1)
        error = self.failureResultOf(node.keys.startService(), KeyringError).value
        self.assertIn("roles.json is damaged", str(error))
        self.done(node.keys.stopService())

    def test_the_same_keys_after_a_restart(self) -> None:
        first = self.node(1)
        before = first.keys.identities()
        self.done(first.keys.stopService())
        again = self.node(1).keys
        self.assertEqual((again.identities(), again.epoch), (before, 1))
        self.assertEqual(again.listing()["serial"], 1)

    def test_files_are_private_and_hold_no_key_in_plain_text(self) -> None:
        node = self.node(1)
        for path in node.files.directory.iterdir():
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)
            if path.name != "age.key":
                self.assertNotIn(b"AGE-SECRET-KEY", path.read_bytes())

    def test_own_roles_are_added_at_a_start(self) -> None:
        first = self.node(1)
        self.done(first.keys.stopService())
        again = self.node(1, roles={**BUILT_IN, "auditor": ("developer", "reviewer")}).keys
        self.assertEqual(len(again.recipients("developer")), 4)
        self.assertEqual(len(again.recipients("auditor")), 1)
        self.assertEqual(len(again.identities()), len(BUILT_IN) + 1)


class Exchange(KeysTestCase):
    def test_members_get_the_base_role(self) -> None:
        founder, one, two = self.mesh(1, 2, 3)
        for member in (one, two):
            self.assertEqual(member.keys.roles_of(member.peer), {"developer"})
            self.assertEqual(len(member.keys.identities()), 1)
            self.assertEqual(member.keys.listing()["serial"], founder.keys.listing()["serial"])
        sealed = age.encrypt(b"record", one.keys.recipients("developer"))
        self.assertEqual(age.decrypt(sealed, two.keys.identities()), b"record")
        secret = age.encrypt(b"record", one.keys.recipients("admin"))
        self.assertRaises(age.NotForUs, age.decrypt, secret, two.keys.identities())
        self.assertEqual(age.decrypt(secret, founder.keys.identities()), b"record")

    def test_a_member_passes_the_file_on(self) -> None:
        founder, one = self.mesh(1, 2)
        late = self.node(3)
        connect(one.host, late.host)
        settle(self.running)
        self.assertEqual(late.keys.epoch, 1)
        # Only the founder admits, and it has not met this one.
        self.assertEqual(late.keys.identities(), ())
        connect(late.host, founder.host)
        settle(self.running)
        self.assertEqual(late.keys.roles_of(late.peer), {"developer"})

    def test_what_was_missed_comes_with_the_next_question(self) -> None:
        founder, one = self.mesh(1, 2)
        [connection] = one.host.connections()
        served = founder.host.served, one.host.served
        founder.host.served, one.host.served = {}, {}
        self.done(founder.keys.rotate())
        self.assertEqual(one.keys.epoch, 1)
        founder.host.served, one.host.served = served
        self.running.advance(ASK_EVERY)
        settle(self.running)
        self.assertEqual(one.keys.epoch, 2)
        del connection

    def test_watchers_are_called_and_waited_for(self) -> None:
        founder, one = self.mesh(1, 2)
        calls: list[int] = []
        held: Deferred[None] = Deferred()

        def changed() -> Deferred[None]:
            calls.append(one.keys.epoch)
            return held

        one.keys.watch(changed)
        before = one.keys.show().serial
        self.done(founder.keys.rotate())
        self.assertEqual((calls, one.keys.show().serial), ([2], before))
        held.callback(None)
        settle(self.running)
        self.assertEqual(one.keys.show().serial, before + 1)

    def test_a_stop_waits_for_roles_that_are_being_taken_in(self) -> None:
        founder, one = self.mesh(1, 2)
        gone: Deferred[None] = Deferred()
        one.keys.watch(lambda: gone)
        self.done(founder.keys.grant(str(one.peer), "reviewer"))
        stopped = one.keys.stopService()
        settle(self.running)
        self.assertNoResult(stopped)
        gone.callback(None)
        self.done(stopped)
        self.assertEqual(one.keys.show().serial, founder.keys.show().serial)

    def test_a_change_goes_on_when_its_client_is_gone(self) -> None:
        founder, one = self.mesh(1, 2)
        gone: Deferred[None] = Deferred()
        founder.keys.watch(lambda: gone)
        asked = founder.keys.grant(str(one.peer), "reviewer")
        asked.addErrback(lambda _: None)
        asked.cancel()
        gone.callback(None)
        settle(self.running)
        self.assertIn("reviewer", one.keys.roles_of(one.peer))

    def test_a_watcher_that_fails_holds_nobody_up(self) -> None:
        founder, one = self.mesh(1, 2)
        one.keys.watch(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        self.done(founder.keys.rotate())
        self.assertEqual(one.keys.show().serial, founder.keys.show().serial)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Changes(KeysTestCase):
    def test_grant_and_revoke(self) -> None:
        founder, one = self.mesh(1, 2)
        self.done(founder.keys.grant(str(one.peer), "architect"))
        self.assertEqual(one.keys.role, "architect")
        self.assertEqual(len(one.keys.identities()), 2)
        self.done(founder.keys.revoke(str(one.peer), "architect"))
        self.assertEqual((one.keys.role, len(one.keys.identities())), ("developer", 1))

    def test_only_the_founder_changes_roles(self) -> None:
        founder, one = self.mesh(1, 2)
        for change in (one.keys.grant(str(one.peer), "admin"), one.keys.rotate()):
            error = self.failureResultOf(change, NotFounder).value
            self.assertIn(str(founder.peer), str(error))
        self.assertEqual(one.keys.roles_of(one.peer), {"developer"})

    def test_refusals(self) -> None:
        founder, one = self.mesh(1, 2)
        serial = founder.keys.listing()["serial"]
        self.failureResultOf(founder.keys.grant(str(one.peer), "king"), UnknownRole)
        self.failureResultOf(founder.keys.grant("nobody", "admin"), RolesRefused)
        # Both are so already.
        self.successResultOf(founder.keys.grant(str(one.peer), "developer"))
        self.successResultOf(founder.keys.revoke(str(one.peer), "admin"))
        self.assertEqual(founder.keys.listing()["serial"], serial)

    def test_rotation(self) -> None:
        founder, stays, leaves = self.mesh(1, 2, 3)
        old = age.encrypt(b"old", founder.keys.recipients("developer"))
        self.done(founder.keys.revoke(str(leaves.peer), "developer"))
        kept = leaves.keys.identities()
        self.done(founder.keys.rotate())
        self.assertEqual((stays.keys.epoch, leaves.keys.epoch), (2, 2))
        new = age.encrypt(b"new", stays.keys.recipients("developer"))
        for node in (founder, stays):
            self.assertEqual(age.decrypt(new, node.keys.identities()), b"new")
            self.assertEqual(age.decrypt(old, node.keys.identities()), b"old")
        self.assertEqual((leaves.keys.identities(), kept), ((), ()))
        self.assertRaises(age.NotForUs, age.decrypt, new, leaves.keys.identities())

    def test_a_full_disk_at_the_founder(self) -> None:
        founder, one = self.mesh(1, 2)
        serial = founder.keys.show().serial
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch("chorus.services.keys.files.write_private", side_effect=full):
            self.failureResultOf(founder.keys.rotate(), RolesNotKept)
        self.assertEqual((founder.keys.epoch, founder.keys.show().serial), (1, serial))
        self.done(founder.keys.rotate())
        self.assertEqual(one.keys.epoch, 2)

    def test_a_full_disk_at_a_member(self) -> None:
        founder, one = self.mesh(1, 2)
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(KeyFiles, "keep_roles", lambda files, data, replaced: self.kept(files, data, one, full)):
            self.done(founder.keys.rotate())
        self.assertEqual((founder.keys.epoch, one.keys.epoch), (2, 1))
        self.running.advance(ASK_EVERY)
        settle(self.running)
        self.assertEqual(one.keys.epoch, 2)

    def kept(self, files: KeyFiles, data: bytes, full_at: KeyNode, full: OSError) -> None:
        if files is full_at.files:
            raise RolesNotKept("the disk is full") from full
        (files.directory / ROLES).write_bytes(data)
        (files.directory / ROLES).chmod(0o600)

    def test_a_removed_member_gets_no_role_again_by_connecting(self) -> None:
        founder, one = self.mesh(1, 2)
        self.done(founder.keys.revoke(str(one.peer), "developer"))
        self.running.advance(ASK_EVERY)
        settle(self.running)
        self.assertEqual(founder.keys.roles_of(one.peer), frozenset())

    def test_a_new_keyring_gets_the_old_roles(self) -> None:
        founder, one = self.mesh(1, 2)
        self.done(founder.keys.grant(str(one.peer), "reviewer"))
        self.done(one.keys.stopService())
        for name in ("age.key", "keys.age"):
            (one.files.directory / name).unlink()
        again = self.node(2)
        self.assertEqual(again.keys.identities(), ())
        self.running.advance(RESEAL_S)
        connect(again.host, founder.host)
        settle(self.running)
        self.assertEqual(len(again.keys.identities()), 2)


class Restored(KeysTestCase):
    """The founder's data directory comes out of a backup."""

    def setUp(self) -> None:
        super().setUp()
        self.founder, self.one = self.mesh(1, 2)
        self.backup = self.founder.files.roles() or b""

    def restore(self) -> KeyNode:
        for connection in list(self.founder.host.connections()):
            connection.close()
        self.done(self.founder.keys.stopService())
        self.founder.files.keep_roles(self.backup)
        return self.node(1)

    def test_the_newest_epoch_survives_a_founder_out_of_an_older_backup(self) -> None:
        self.done(self.founder.keys.rotate())
        key = self.one.keys.identities()[0]
        founder = self.restore()
        strangers = [self.node(seed) for seed in (5, 6, 7)]
        for stranger in strangers:
            connect(stranger.host, founder.host)
            settle(self.running)
        self.assertGreater(founder.keys.show().serial, self.one.keys.show().serial)
        self.assertEqual(founder.keys.epoch, 1)
        connect(self.one.host, founder.host)
        settle(self.running)
        self.running.advance(ASK_EVERY)
        settle(self.running)
        for node in (founder, self.one, *strangers):
            self.assertEqual((node.keys.epoch, node.keys.show()), (2, attrs.evolve(node.keys.show(), epoch=2)))
            self.assertIn(key, node.keys.identities())

    def test_a_founder_takes_over_before_it_admits(self) -> None:
        """Who has the newer file and is unknown in the older one."""
        late = self.node(3)
        connect(late.host, self.founder.host)
        settle(self.running)
        self.done(self.founder.keys.grant(str(late.peer), "admin"))
        founder = self.restore()
        self.assertEqual(founder.keys.roles_of(late.peer), frozenset())
        connect(late.host, founder.host)
        settle(self.running)
        self.assertEqual(founder.keys.roles_of(late.peer), {"admin", "developer"})
        self.assertEqual(late.keys.role, "admin")

    def test_replaced_keys_stay_beside_the_newest(self) -> None:
        """An epoch that was made twice: the members' key is in none of the founder's files."""
        self.done(self.founder.keys.rotate())
        lost = self.one.files.roles()
        founder = self.restore()
        for _ in range(2):
            self.done(founder.keys.rotate())
        connect(self.one.host, founder.host)
        settle(self.running)
        kept = [path.read_bytes() for path in self.one.files.directory.glob(f"{ROLES}.*")]
        self.assertIn(lost, kept)
        self.assertEqual(self.one.keys.epoch, 3)
        for _ in range(FORMER_ROLES + 1):
            self.done(founder.keys.rotate())
        names = {path.name for path in self.one.files.directory.glob(f"{ROLES}.*")}
        serial = self.one.keys.show().serial
        self.assertEqual(names, {f"{ROLES}.{serial - back}" for back in range(1, FORMER_ROLES + 1)})


class Hostile(KeysTestCase):
    def test_a_recipient_that_changes_all_the_time(self) -> None:
        founder, one = self.mesh(1, 2)
        serial = founder.keys.show().serial
        for turn in range(10):
            one.keys._recipient = age.recipient_of(age.identity_of(bytes((turn + 1,)) * 32))
            one.keys._exchange.announce()
            settle(self.running)
        self.assertLessEqual(founder.keys.show().serial, serial + 1)

    def test_a_liar_is_not_asked_again_and_again(self) -> None:
        founder, one = self.mesh(1, 2)
        fetched: list[Rank] = []

        def promise() -> KeyShow:
            return attrs.evolve(KeysService.show(one.keys), epoch=99)

        def junk(rank: Rank) -> bytes:
            fetched.append(rank)
            return b"{}"

        with mock.patch.object(one.keys, "show", promise), mock.patch.object(one.keys, "roles_after", junk):
            for _ in range(10):
                one.keys._exchange.announce()
                settle(self.running)
            # Its own questions are answered; it is asked back once.
            asked_back = [rank for rank in fetched if rank < (99, 0)]
            self.assertEqual(len(asked_back), 1)
            self.running.advance(LIAR_S)
            one.keys._exchange.announce()
            settle(self.running)
            self.assertGreater(len([rank for rank in fetched if rank < (99, 0)]), 1)
        self.assertEqual(founder.keys.epoch, 1)

    def test_streams_that_say_nothing_or_nonsense(self) -> None:
        founder, one = self.mesh(1, 2)
        [connection] = one.host.connections()
        for data in (
            b"",
            b"\x05{}",
            b"\xff\xff\x7f",
            b"\x02{}",
            KeyShow.make(FOUNDER, bytes(32), "age1q", (0, 0)).encode(),
        ):
            stream = self.successResultOf(connection.open_stream([PROTOCOL]))
            io = StreamIO(stream, self.running)  # type: ignore[arg-type]
            stream.write(data)
            stream.write_eof()
            settle(self.running)
            self.failureResultOf(Deferred.fromCoroutine(io.read_delimited(1024)), ChorusError)
        self.assertEqual(founder.keys.roles_of(one.peer), {"developer"})

    def test_a_forged_file_is_not_taken(self) -> None:
        founder, one = self.mesh(1, 2)
        for wrong in (b"", b"{}", founder.keys._held.encoded[:-3] + b'x"}'):
            self.failureResultOf(one.keys.received(wrong), ChorusError)
        self.done(founder.keys.rotate())
        before = one.keys.show().serial
        # An older one is valid, and changes nothing.
        self.successResultOf(one.keys.received(founder.keys._held.encoded))
        self.assertEqual((one.keys.show().serial, PeerId.parse(str(one.peer))), (before, one.peer))
