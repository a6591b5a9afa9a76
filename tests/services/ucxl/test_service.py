"""Decisions written by people, read by other nodes, hidden from those without the role."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock

from chorus.errors import ChorusError
from chorus.identity import Identity
from chorus.security import age
from chorus.services.dht.ports import DhtUnavailable
from chorus.services.ucxl.bundle import Publication
from chorus.services.ucxl.cache import CACHE_S, OVERHEAD, CachedDecision, DecisionCache
from chorus.services.ucxl.opening import MAX_READERS
from chorus.services.ucxl.publishing import MAX_AT_ONCE
from chorus.services.ucxl.reading import MAX_LEARNED
from chorus.services.ucxl.rotation import REST_S, RETRY
from chorus.services.ucxl.service import NoRole
from chorus.store import decision_texts, publications
from chorus.store.decisions import BadCursor
from chorus.store.errors import StoreBusy
from chorus.store.inline import InlineDatabase
from chorus.ucxl.address import Address
from chorus.ucxl.chain import ClaimedVersion, verify_chain
from chorus.ucxl.documents import RecordError
from chorus.ucxl.query import ChainGap, DecisionQuery, DecisionUnreadable, UnknownDecision
from chorus.ucxl.record import Decision, DecisionDraft
from chorus.ucxl.signed import Head, Version, ciphertext_key, head_key, version_key
from tests.services.memory_kit import ROLE_KEYS, FakeMesh, memory_ports, memory_service
from tests.support import PureTestCase
from tests.ucxl.samples import resigned


class PlainFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (self._folder / name).write_bytes(data)
        return name

    def path_of(self, sha256: str) -> Path | None:
        path = self._folder / sha256
        return path if path.exists() else None


class Member:
    """One node's memory."""

    def __init__(self, case: MembersCase, name: str, in_thread: Any = maybeDeferred) -> None:
        self.case = case
        self.identity = Identity.from_seed(name.encode().ljust(32, b"\0"))
        self.peer = self.identity.peer_id
        folder = Path(case.mktemp())
        folder.mkdir(parents=True)
        self.file = folder / "chorus.db"
        self.store = InlineDatabase(self.file)
        self.ports = memory_ports(
            case.mesh, self.identity, store=self.store, blobs=PlainFiles(folder), clock=case.clock_, wall=case.wall
        )
        self.ports = attrs.evolve(self.ports, in_thread=in_thread)
        self.service = memory_service(self.ports)
        case.successResultOf(self.service.startService())

    def roles(self) -> Any:
        return self.ports.keyring

    def publish(self, summary: str, task: str = "design", **members: Any) -> Any:
        draft = DecisionDraft(kind="design", summary=summary, task=task, **members)
        placed = self.case.successResultOf(self.service.publish(draft))
        self.case.settle()
        return placed

    def ask(self, deferred: Deferred[Any]) -> Any:
        return self.case.successResultOf(deferred)

    def fails(self, deferred: Deferred[Any], kind: type[ChorusError]) -> Any:
        return self.case.failureResultOf(deferred, kind).value

    def resolve(self, address: str) -> Any:
        return self.ask(self.service.resolve(Address.parse(address)))

    def found(self, text: str = "") -> list[str | None]:
        page = self.ask(self.service.search(DecisionQuery.of(None, text), limit=50, after=None))
        return [each.summary for each in page.decisions]


class MembersCase(PureTestCase):
    def setUp(self) -> None:
        self.clock_ = Clock()
        self.mesh = FakeMesh()
        self.author, self.reader, self.stranger = (Member(self, name) for name in ("author", "reader", "stranger"))
        self.stranger.roles().reads = False
        self.addCleanup(self.stop)

    def stop(self) -> None:
        for member in (self.author, self.reader, self.stranger):
            member.service.stopService()
            member.store.close()

    def wall(self) -> float:
        return 1_800_000_000.0 + self.clock_.seconds()

    def version(self, content: str, author: Member | None = None) -> Version:
        """As some holder has it."""
        key = version_key(str((author or self.author).peer), content)
        return Version.decode(next(iter(self.mesh.holders(key).values())))

    def settle(self, seconds: float = 1.0) -> None:
        for _ in range(int(seconds / 0.02)):
            self.clock_.advance(0.02)


class ReadingTest(MembersCase):
    def test_another_node_reads_it(self) -> None:
        placed = self.author.publish("use yamux", rationale="fewer round trips")
        found = self.reader.resolve(placed.address)
        self.assertEqual((found.record.summary, found.seq, found.content), ("use yamux", 1, placed.content))
        found.version.verify()
        found.head.verify()

    def test_its_versions_in_time(self) -> None:
        placed = [self.author.publish(f"version {number}") for number in range(1, 5)]
        base = placed[0].address
        for temporal, expected in (
            ("*^", 4),
            ("*~", 1),
            ("~~1", 3),
            ("^^1", 2),
            (f"={placed[1].content}", 2),
        ):
            for member in (self.author, self.reader):
                self.assertEqual(member.resolve(f"{base}/{temporal}").seq, expected, temporal)
        self.author.fails(self.author.service.resolve(Address.parse(f"{base}/~~4")), UnknownDecision)

    def test_in_force_at_a_time(self) -> None:
        first = self.author.publish("early")
        self.clock_.advance(3600)
        self.author.publish("late")
        self.assertEqual(self.reader.resolve(f"{first.address}/@2027-01-15T08:30:00Z").record.summary, "early")
        self.assertEqual(self.reader.resolve(f"{first.address}/@2028-01-01T00:00:00Z").record.summary, "late")

    def test_history_by_pages_is_a_chain_that_verifies(self) -> None:
        for number in range(5):
            placed = self.author.publish(f"version {number}")
        address = Address.parse(placed.address)
        after, versions, heads = None, [], ()
        while True:
            page = self.reader.ask(self.reader.service.history(address, limit=2, after=after))
            versions += page.versions
            heads = heads or page.heads
            after = page.next
            if after is None:
                break
        self.assertEqual([each.seq for each in versions], [5, 4, 3, 2, 1])
        claimed = [ClaimedVersion(each.seq, each.content, each.record.encode()) for each in versions]
        report = verify_chain(placed.address, claimed, [head.encode() for head in heads])
        self.assertTrue(report.clean, report.faults)

    def test_a_history_ends_at_what_nobody_has(self) -> None:
        placed = [self.author.publish(f"version {number}") for number in range(1, 5)]
        key = version_key(str(self.author.peer), placed[1].content)
        for held in self.mesh.records.values():
            held.pop(key)
        self.reader.service.cache.clear()
        address = Address.parse(placed[0].address)
        for limit, numbers in ((10, [4, 3]), (2, [4, 3])):
            found = self.reader.ask(self.reader.service.history(address, limit=limit, after=None))
            self.assertEqual([each.seq for each in found.versions], numbers)
            self.assertEqual((found.missing, found.next), (placed[1].content, None))
        self.reader.fails(self.reader.service.resolve(Address.parse(f"{address}/@2020-01-01T00:00:00Z")), ChainGap)
        claimed = [ClaimedVersion(each.seq, each.content, each.record.encode()) for each in found.versions]
        faults = verify_chain(str(address), claimed).faults
        self.assertEqual([(each.code, each.seq) for each in faults], [("missing", 3)])

    def test_a_history_goes_on_to_what_may_not_be_read(self) -> None:
        """A readable version names it: it is there, and nothing is missing."""
        placed = [self.author.publish(f"version {number}") for number in range(1, 4)]
        address = Address.parse(placed[0].address)
        reader = self.stranger.service._parts.reader
        self.stranger.roles().reads = True
        read = reader._opener.fetched

        async def fetched(version: Version) -> Any:
            opened = await read(version)
            return attrs.evolve(opened, decision=None) if version.content == placed[1].content else opened

        async def unknown(*_: Any) -> None:
            """It was told of none."""

        with (
            mock.patch.object(reader._opener, "fetched", fetched),
            mock.patch.object(reader._index, "version", unknown),
            mock.patch.object(reader._index, "before", unknown),
        ):
            found = self.stranger.ask(self.stranger.service.history(address, limit=10, after=None))
            self.stranger.service.cache.clear()
            page = self.stranger.ask(self.stranger.service.history(address, limit=1, after=None))
            self.stranger.service.cache.clear()
            following = self.stranger.ask(self.stranger.service.history(address, limit=1, after=page.next))
            for forged in (placed[0].content + placed[2].content, placed[1].content + "x"):
                self.stranger.fails(self.stranger.service.history(address, limit=1, after=forged), BadCursor)
        self.assertEqual([each.seq for each in following.versions], [2], "also where a page begins with it")
        self.assertEqual([(each.seq, each.record is not None) for each in found.versions], [(3, True), (2, False)])
        self.assertIsNone(found.missing)

    def test_two_at_once_are_one_line(self) -> None:
        drafts = [DecisionDraft(kind="design", summary=f"version {number}", task="t") for number in (1, 2)]
        first, second = map(self.successResultOf, [self.author.service.publish(draft) for draft in drafts])
        self.settle()
        found = self.reader.resolve(second.address)
        self.assertEqual((found.seq, found.record.prev), (2, first.content))

    def test_announced_decisions_are_found_without_the_network(self) -> None:
        self.author.publish("use yamux for streams")
        self.mesh.up.clear()
        self.assertEqual(self.reader.found("yamux"), ["use yamux for streams"])
        self.mesh.up.extend(self.mesh.members)

    def test_nothing_is_known(self) -> None:
        address = Address.parse(f"ucxl://{self.author.peer}:developer@none:nothing")
        self.reader.fails(self.reader.service.resolve(address), UnknownDecision)
        self.mesh.members.clear()
        self.mesh.refuse["get"] = DhtUnavailable("the network is cut")

    def test_provenance_is_signed_by_the_node_that_gives_it(self) -> None:
        placed = self.author.publish("use yamux")
        envelope = self.reader.ask(self.reader.service.provenance(Address.parse(placed.address)))
        signers = envelope.check(self.reader.resolve(placed.address).record)
        self.assertEqual(signers, (self.reader.peer,))

    def test_a_large_record_is_a_blob(self) -> None:
        placed = self.author.publish("large", rationale="x" * 20_000)
        version = self.version(placed.content)
        self.assertTrue(version.blob)
        self.assertEqual(len(self.reader.resolve(placed.address).record.rationale), 20_000)

    def test_hits_and_misses(self) -> None:
        placed = self.author.publish("use yamux")
        before = self.reader.service.cache.hits
        self.reader.resolve(placed.address)
        self.reader.resolve(placed.address)
        self.assertEqual(self.reader.service.cache.hits, before + 2, "the announcement has brought it")


class CostTest(MembersCase):
    """What a reader spends on what others wrote."""

    def test_a_large_record_is_read_when_it_is_asked_for(self) -> None:
        files = tuple(f"{number:0800}" for number in range(MAX_LEARNED // 800))
        placed = self.author.publish("large", modified_files=files)
        self.assertGreater(self.version(placed.content).size, MAX_LEARNED)
        self.assertEqual((self.mesh.passed, self.reader.found("large")), ([], []))
        self.assertEqual(self.reader.found(), [None], "its address is known")
        self.assertEqual(self.author.found("large"), ["large"])
        self.assertEqual(self.reader.resolve(placed.address).record.modified_files, files)
        self.assertEqual(self.reader.found("large"), ["large"])

    def test_what_is_for_others_is_tried_once_with_the_same_keys(self) -> None:
        with mock.patch("chorus.security.age.decrypt", wraps=age.decrypt) as decrypt:
            placed = self.author.publish("use yamux")
            before = decrypt.call_count
            self.assertIsNone(self.stranger.resolve(placed.address).record)
            self.assertEqual(decrypt.call_count, before)
            self.stranger.roles().reads = True
            self.assertEqual(self.stranger.resolve(placed.address).record.summary, "use yamux")

    def test_a_record_with_more_stanzas_than_there_are_roles(self) -> None:
        placed = self.author.publish("use yamux")
        version = self.version(placed.content)
        many = [age.recipient_of(age.new_identity()) for _ in range(MAX_READERS)]
        sealed = age.encrypt(b"{}", [*many, age.recipient_of(ROLE_KEYS[1])])
        for held in self.mesh.records.values():
            held[ciphertext_key(version.ciphertext)] = sealed
        self.reader.service.cache.clear()
        problem = self.reader.fails(self.reader.service.resolve(Address.parse(placed.address)), RecordError)
        self.assertIn("stanzas", str(problem))

    def test_a_few_are_opened_at_a_time(self) -> None:
        waiting: list[tuple[Deferred[Any], Any]] = []

        def slow(work: Any, *args: Any) -> Deferred[Any]:
            waiting.append((Deferred(), work(*args)))
            return waiting[-1][0]

        busy = Member(self, "busy", slow)
        self.addCleanup(busy.service.stopService)
        for number in range(4):
            self.author.publish("x", task=f"t{number}")
        for opened in range(2, 5):
            self.assertEqual(len(waiting), min(opened, 4))
            done, result = waiting[opened - 2]
            done.callback(result)
        self.settle()

    def test_records_are_decoded_in_threads(self) -> None:
        inside = [False]
        seen: list[bool] = []

        def in_thread(work: Any, *args: Any) -> Deferred[Any]:
            inside[0] = True
            try:
                return maybeDeferred(work, *args)
            finally:
                inside[0] = False

        def watched(decode: Any) -> Any:
            def decoded(data: bytes) -> Any:
                seen.append(inside[0])
                return decode(data)

            return staticmethod(decoded)

        with (
            mock.patch.object(Decision, "decode", watched(Decision.decode)),
            mock.patch.object(Publication, "decode", watched(Publication.decode)),
        ):
            self.mesh.listeners.clear()  # The others decode outside of it.
            member = Member(self, "busy", in_thread)
            self.addCleanup(member.service.stopService)
            member.publish("first")
            member.resolve(member.publish("second").address)
        self.assertEqual(set(seen), {True})


class LyingHoldersTest(MembersCase):
    def test_a_ciphertext_of_something_else(self) -> None:
        placed = self.author.publish("use yamux")
        version = self.version(placed.content)
        self.reader.service.cache.clear()
        for held in self.mesh.records.values():
            held[ciphertext_key(version.ciphertext)] = age.encrypt(b"{}", [age.recipient_of(ROLE_KEYS[1])])
        self.reader.fails(self.reader.service.resolve(Address.parse(placed.address)), RecordError)

    def test_a_large_ciphertext_of_more_bytes_than_its_version_says(self) -> None:
        placed = self.author.publish("large", rationale="x" * 20_000)
        version = self.version(placed.content)
        lie = resigned(version, self.author.identity, size=version.size - 1)
        for held in self.mesh.records.values():
            held[version.key] = lie.encode()
        self.reader.service.cache.clear()
        self.reader.fails(self.reader.service.resolve(Address.parse(placed.address)), RecordError)

    def test_a_truncated_ciphertext(self) -> None:
        placed = self.author.publish("use yamux")
        version = self.version(placed.content)
        key = ciphertext_key(version.ciphertext)
        whole = next(iter(self.mesh.holders(key).values()))
        for cut in (0, 1, 50, len(whole) - 1):
            self.reader.service.cache.clear()
            for held in self.mesh.records.values():
                held[key] = whole[:cut]
            self.reader.fails(self.reader.service.resolve(Address.parse(placed.address)), RecordError)

    def test_a_head_that_points_to_anothers_decision(self) -> None:
        mine, other = self.author.publish("mine"), self.reader.publish("other")
        address = Address.parse(mine.address)
        lie = Head.decode(next(iter(self.mesh.holders(head_key(address)).values())))
        forged = lie.encode().replace(lie.content.encode(), other.content.encode())
        for held in self.mesh.records.values():
            held[head_key(address)] = forged
        fresh = Member(self, "fresh")
        self.addCleanup(fresh.service.stopService)
        self.assertIsInstance(self.failureResultOf(fresh.service.resolve(address)).value, ChorusError)

    def test_a_rolled_back_head_is_not_believed(self) -> None:
        first = self.author.publish("first")
        old = next(iter(self.mesh.holders(head_key(Address.parse(first.address))).values()))
        self.author.publish("second")
        for held in self.mesh.records.values():
            held[head_key(Address.parse(first.address))] = old
        self.assertEqual(self.reader.resolve(first.address).record.summary, "second")


class RolesTest(MembersCase):
    def test_without_the_role_there_is_metadata_alone(self) -> None:
        placed = self.author.publish("the secret of the vault", rationale="under the third stone")
        found = self.stranger.resolve(placed.address)
        self.assertEqual((found.record, found.content, found.seq), (None, placed.content, 1))
        self.stranger.fails(self.stranger.service.provenance(Address.parse(placed.address)), DecisionUnreadable)
        self.assertEqual(self.stranger.found(), [None])
        self.assertEqual(self.stranger.found("vault"), [])

    def test_no_plaintext_on_its_disk(self) -> None:
        self.author.publish("the secret of the vault", rationale="under the third stone")
        self.settle(10)
        for path in self.stranger.file.parent.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                for word in (b"vault", b"third stone"):
                    self.assertNotIn(word, data, path)

    def test_losing_a_role_takes_the_text(self) -> None:
        placed = self.author.publish("the secret of the vault")
        self.assertEqual(self.reader.found("vault"), ["the secret of the vault"])
        self.reader.roles().reads = False
        [changed] = self.reader.roles()._watchers
        self.assertEqual(self.successResultOf(changed()), None)
        self.assertEqual(self.reader.found("vault"), [])
        self.assertIsNone(self.reader.resolve(placed.address).record)

    def test_a_power_cut_between_new_roles_and_the_lost_text(self) -> None:
        self.author.publish("the secret of the vault")
        self.reader.service.stopService()
        self.reader.roles().reads = False
        self.reader.service = memory_service(self.reader.ports)
        self.successResultOf(self.reader.service.startService())
        self.assertEqual(self.reader.ask(self.reader.store.read(decision_texts.keys)), {})

    def test_roles_that_come_while_the_node_stops(self) -> None:
        self.author.publish("the secret of the vault")
        self.reader.roles().reads = False
        self.mesh.epoch = 2
        [changed] = self.reader.roles()._watchers
        self.reader.service.stopService()
        with mock.patch.object(self.reader.service._parts.reencryption, "start") as started:
            self.successResultOf(changed())
        started.assert_not_called()
        self.assertEqual(self.reader.ask(self.reader.store.read(decision_texts.keys)), {})

    def test_losing_a_role_while_a_record_is_being_read(self) -> None:
        waiting: list[tuple[Deferred[Any], Any]] = []

        def slow(work: Any, *args: Any) -> Deferred[Any]:
            waiting.append((Deferred(), work(*args)))
            return waiting[-1][0]

        busy = Member(self, "busy", slow)
        self.addCleanup(busy.service.stopService)
        self.author.publish("the secret of the vault")
        self.assertEqual(len(waiting), 1)
        busy.roles().reads = False
        [changed] = busy.roles()._watchers
        self.successResultOf(changed())
        for done, result in waiting:
            done.callback(result)
        self.settle()
        self.assertEqual((busy.found(), busy.found("vault"), busy.service.cache.used), ([None], [], 0))
        self.assertEqual(busy.ask(busy.store.read(decision_texts.keys)), {})

    def test_losing_a_role_before_a_text_is_written(self) -> None:
        placed = self.author.publish("the secret of the vault")
        record = self.author.resolve(placed.address).record
        index = self.stranger.service._parts.index
        self.stranger.ask(Deferred.fromCoroutine(index.record(record, self.stranger.ports.may_read)))
        self.assertEqual(self.stranger.ask(self.stranger.store.read(decision_texts.keys)), {})
        self.stranger.roles().reads = True
        self.stranger.ask(Deferred.fromCoroutine(index.record(record, self.stranger.ports.may_read)))
        self.assertEqual(self.stranger.found("vault"), ["the secret of the vault"])

    def test_a_new_role_opens_what_was_announced_before(self) -> None:
        placed = self.author.publish("the secret of the vault")
        self.stranger.roles().reads = True
        [changed] = self.stranger.roles()._watchers
        self.successResultOf(changed())
        self.settle()
        self.assertEqual(self.stranger.found("vault"), ["the secret of the vault"])
        self.assertIsNotNone(self.stranger.resolve(placed.address).record)

    def test_an_older_page_in_the_log_is_erased_before_the_role_counts_as_lost(self) -> None:
        self.author.publish("the secret of the vault")
        self.reader.roles().reads = False
        [changed] = self.reader.roles()._watchers
        with mock.patch.object(self.reader.store, "erase", return_value=fail(StoreBusy("a reader has it"))):
            done = changed()
            self.settle(0.4)
            self.assertNoResult(done)
        self.settle(0.4)
        self.successResultOf(done)
        self.assertEqual(self.reader.found("vault"), [])

    def test_a_role_that_is_not_held_is_not_written_under(self) -> None:
        draft = DecisionDraft(kind="design", summary="x", task="t", role="admin")
        self.author.fails(self.author.service.publish(draft), NoRole)
        self.mesh.epoch = 0
        self.author.fails(self.author.service.publish(DecisionDraft(kind="a", summary="b", task="t")), NoRole)

    def test_status(self) -> None:
        self.author.publish("use yamux")
        status = self.reader.ask(self.reader.service.memory_status())
        self.assertEqual((status.role, status.epoch, status.decisions, status.readable), ("developer", 1, 1, 1))
        self.assertEqual(self.stranger.ask(self.stranger.service.memory_status()).readable, 0)


class RotationTest(MembersCase):
    def rotate(self) -> None:
        self.mesh.epoch = 2
        for member in (self.author, self.reader, self.stranger):
            for changed in member.roles()._watchers:
                self.successResultOf(changed())
        self.settle()

    def test_the_author_encrypts_its_own_anew(self) -> None:
        placed = [self.author.publish(f"version {number}") for number in range(3)]
        before = [self.version(each.content) for each in placed]
        self.rotate()
        after = [self.version(each.content) for each in placed]
        self.assertEqual([each.epoch for each in after], [2, 2, 2])
        for old, new in zip(before, after, strict=True):
            self.assertEqual((old.content, old.author_signature), (new.content, new.author_signature))
            ciphertext = next(iter(self.mesh.holders(ciphertext_key(new.ciphertext)).values()))
            with self.assertRaises(age.NotForUs):
                age.decrypt(ciphertext, [ROLE_KEYS[1]])
        self.assertEqual(self.reader.resolve(placed[0].address).record.summary, "version 2")
        puts = len(self.mesh.puts)
        self.rotate()
        self.assertEqual(len(self.mesh.puts), puts, "once an epoch")

    def test_the_founder_does_it_for_an_author_that_is_gone(self) -> None:
        placed = self.author.publish("my last words")
        self.mesh.members.remove(self.author.peer)
        self.mesh.leave(self.author.peer)
        self.mesh.founder = self.reader.peer
        self.mesh.epoch = 2
        self.successResultOf(self.reader.roles()._watchers[0]())
        self.settle()
        version = self.version(placed.content)
        self.assertEqual(
            (version.epoch, version.signer, version.author), (2, *map(str, (self.reader.peer, self.author.peer)))
        )
        self.mesh.join(self.author.peer)

    def test_what_was_signed_before_goes_out_for_the_roles_of_now(self) -> None:
        address = Address.parse(f"ucxl://{self.author.peer}:developer@none:t")
        author, publisher = self.author.service._parts.author, self.author.service.publisher
        words = {"kind": "design", "summary": "late"}
        written = self.author.ask(Deferred.fromCoroutine(author.write(address, words)))
        content = written.decision.content_hash
        self.rotate()
        self.mesh.broken_after = 1
        self.author.ask(Deferred.fromCoroutine(publisher.publish(written)))
        self.settle(0.1)
        row = self.author.ask(self.author.store.read(lambda c: publications.get(c, bytes.fromhex(content))))
        renewed = Publication.decode(row.bundle)
        self.assertEqual((renewed.version.epoch, renewed.content), (2, content), "durable before it leaves")
        self.mesh.broken_after = None
        self.settle(10)
        self.assertEqual(publisher.waiting, 0)
        self.assertEqual(self.version(content).encode(), renewed.signed_version)
        texts = [value for held in self.mesh.records.values() for key, value in held.items() if b"-ct/" in key]
        for text in texts:
            self.assertRaises(age.NotForUs, age.decrypt, text, [ROLE_KEYS[1]])

    def test_roles_that_change_while_it_is_sent(self) -> None:
        publisher = self.author.service.publisher
        send = publisher._sender.send

        async def slow(*args: Any, **kwargs: Any) -> Any:
            stored = await send(*args, **kwargs)
            self.mesh.epoch = 2
            return stored

        with mock.patch.object(publisher._sender, "send", slow):
            placed = self.author.publish("in between")
            self.assertEqual((self.version(placed.content).epoch, publisher.waiting), (1, 1))
            self.settle(10)
        self.assertEqual((self.version(placed.content).epoch, publisher.waiting), (2, 0))

    def test_what_could_not_be_sent_before_is_encrypted_anew_once(self) -> None:
        self.mesh.refuse["put"] = DhtUnavailable("the network is cut")
        placed = self.author.publish("in between")
        self.rotate()
        del self.mesh.refuse["put"]
        self.settle(10)
        self.assertEqual((self.version(placed.content).epoch, self.author.service.publisher.waiting), (2, 0))
        ciphertexts = {key for held in self.mesh.records.values() for key in held if b"-ct/" in key}
        self.assertEqual(len(ciphertexts), 1, "encrypted anew once")

    def test_what_failed_is_tried_again(self) -> None:
        placed = self.author.publish("version")
        self.mesh.refuse["put"] = DhtUnavailable("the network is cut")
        self.rotate()
        self.assertEqual(self.version(placed.content).epoch, 1)
        self.clock_.advance(RETRY.ceiling(1))
        self.assertEqual(self.author.service._parts.reencryption.renewed, 0)
        del self.mesh.refuse["put"]
        self.clock_.advance(RETRY.ceiling(1))
        self.assertEqual(self.version(placed.content).epoch, 1, "the second wait is longer")
        self.clock_.advance(RETRY.ceiling(2))
        self.assertEqual(self.version(placed.content).epoch, 2)

    def test_the_founder_does_what_authors_leave_undone(self) -> None:
        self.stranger.roles().reads = True
        large = tuple(f"{number:0800}" for number in range(MAX_LEARNED // 800))
        mine, dead = self.author.publish("I am here"), self.stranger.publish("last words", modified_files=large)
        self.mesh.founder = self.reader.peer
        self.mesh.leave(self.stranger.peer)
        self.mesh.epoch = 2
        for member in (self.reader, self.author):
            self.successResultOf(member.roles()._watchers[0]())
        self.settle()
        self.clock_.advance(REST_S - 2)
        self.assertEqual(self.version(dead.content, self.stranger).epoch, 1)
        self.clock_.advance(2)
        version = self.version(dead.content, self.stranger)
        self.assertEqual((version.epoch, version.signer), (2, str(self.reader.peer)))
        self.assertEqual(self.version(mine.content).signer, str(self.author.peer), "done already")
        self.mesh.join(self.stranger.peer)
        self.stranger.roles().reads = True
        self.successResultOf(self.stranger.roles()._watchers[0]())
        self.settle()
        self.assertEqual(self.stranger.service._parts.reencryption.renewed, 0)


class AnnouncementsTest(MembersCase):
    def test_made_up_ones_cost_little(self) -> None:
        for number in range(100):
            for heard in self.mesh.listeners:
                heard(f"ucxl://{self.author.peer}:developer@none:{number}")
                heard("nonsense")
        self.settle(30)
        self.assertEqual(self.reader.found(), [])

    def test_publications_are_a_few_at_a_time(self) -> None:
        self.mesh.refuse["put"] = DhtUnavailable("the network is cut")
        for number in range(3 * MAX_AT_ONCE):
            self.author.publish("x", task=f"t{number}")
        del self.mesh.refuse["put"]
        self.settle(10)
        self.assertEqual(self.author.service.publisher.waiting, 0)


class CacheTest(PureTestCase):
    def entry(self, name: str, size: int) -> Any:
        version: Any = type("V", (), {"content": name})()
        decision: Any = None
        return CachedDecision(version, decision, size)

    def test_what_was_asked_for_last_stays(self) -> None:
        cache = DecisionCache(3 * (OVERHEAD + 100))
        for name in "abc":
            cache.put(self.entry(name, 100), 0.0)
        cache.get("a", 1.0)
        cache.put(self.entry("d", 100), 1.0)
        self.assertEqual([name for name in "abcd" if cache.get(name, 2.0)], ["a", "c", "d"])
        self.assertEqual(cache.used, 3 * (OVERHEAD + 100))

    def test_too_large_ones_do_not_empty_it(self) -> None:
        cache = DecisionCache(2 * OVERHEAD)
        cache.put(self.entry("a", 10), 0.0)
        cache.put(self.entry("b", 2 * OVERHEAD), 0.0)
        self.assertIsNotNone(cache.get("a", 1.0))
        self.assertIsNone(cache.get("b", 1.0))

    def test_old_ones_go(self) -> None:
        cache = DecisionCache(1 << 20)
        cache.put(self.entry("a", 10), 0.0)
        self.assertIsNone(cache.get("a", CACHE_S))
        cache.clean(CACHE_S)
        self.assertEqual(cache.used, 0)
