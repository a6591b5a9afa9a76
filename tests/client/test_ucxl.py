"""`chorus ucxl` as a process, against the real API on a real socket; and what it prints."""

from __future__ import annotations

import contextlib
import hashlib
import io

import attrs

from chorus.client.ucxl import view
from chorus.ucxl.address import exact
from chorus.ucxl.chain import ChainFault, ChainReport
from chorus.ucxl.provenance import ProvenanceEnvelope
from chorus.ucxl.record import Decision, DecisionArtifact
from chorus.ucxl.signed import Head
from tests.client.test_command import CommandCase
from tests.support import PureTestCase
from tests.ucxl import samples
from tests.ucxl.test_record import FULL

CHAIN = samples.chain(3)
ADDRESS = CHAIN[0].address


class UcxlCommands(CommandCase):
    async def test_get(self) -> None:
        run = await self.good("ucxl", "get", f"{ADDRESS}/~~1")
        self.assertIn("Version 2.", run.out)
        self.assertIn(CHAIN[1].content_hash, run.out)
        self.assertEqual((await self.good("ucxl", "get", ADDRESS, "--json")).json["seq"], 3)

    async def test_artifacts_on_any_node(self) -> None:
        content = {"out": b"made", "logs/a": b"logged"}
        rows = []
        for name, data in content.items():
            digest = hashlib.sha256(data).hexdigest()
            self.blobs.blobs[digest] = data
            rows.append(
                DecisionArtifact(
                    name=name, sha256=digest, size=len(data), stored=samples.HASH, key="AGE-SECRET-KEY-1QQQQ"
                )
            )
        made = samples.decision(artifacts=tuple(rows))
        self.decisions.chains[ADDRESS] = [made]
        folder = self.outside / "made"
        await self.good("ucxl", "get", ADDRESS, "--artifacts", str(folder))
        self.assertEqual({name: (folder / name).read_bytes() for name in content}, content)
        text = await self.bad(2, "ucxl", "get", ADDRESS, "--artifacts", str(folder))
        self.assertIn("another --artifacts", text)
        self.decisions.chains[ADDRESS] = [samples.decision(artifacts=(attrs.evolve(rows[0], name="../out"),))]
        self.assertIn("leaves the directory", await self.bad(2, "ucxl", "get", ADDRESS, "--artifacts", str(folder)))
        self.blobs.blobs[rows[0].sha256] = b"fake"
        self.decisions.chains[ADDRESS] = [made]
        other = str(self.outside / "other")
        run = await self.chorus("ucxl", "get", ADDRESS, "--artifacts", other)
        self.assertEqual((run.status, "did not arrive whole" in run.err), (1, True))

    async def test_get_refusals(self) -> None:
        self.assertIn("temporal of the address, at character", await self.bad(2, "ucxl", "get", f"{ADDRESS}/*x"))
        self.assertIn("nothing is known", await self.bad(2, "ucxl", "get", "ucxl://a:r@p:t"))
        self.assertIn("chorus ucxl search", await self.bad(2, "ucxl", "get", "ucxl://any:r@p:t"))
        self.decisions.secret.add(CHAIN[2].content_hash)
        self.assertIn("no role that may read", await self.bad(2, "ucxl", "get", ADDRESS))

    async def test_a_false_decision_is_told_whatever_the_node_says(self) -> None:
        forged = samples.draft(summary="Coffee.", seq=1)
        self.decisions.chains[ADDRESS] = [forged]
        self.assertIn("the decision is false", await self.bad(1, "ucxl", "get", ADDRESS))

    async def test_provenance(self) -> None:
        run = await self.good("ucxl", "get", ADDRESS, "--provenance")
        envelope = ProvenanceEnvelope.decode(run.out.encode())
        self.assertEqual(envelope.check(CHAIN[2]), (samples.ALICE.peer_id,))

    async def test_history_and_its_pages(self) -> None:
        self.assertEqual((await self.good("ucxl", "history", ADDRESS)).out.count("Version"), 3)
        run = await self.good("ucxl", "history", ADDRESS, "--limit", "2")
        self.assertEqual((run.out.count("Version"), "larger --limit" in run.err), (2, True))

    async def test_what_cannot_be_had_is_named(self) -> None:
        self.decisions.chains[ADDRESS] = CHAIN[1:]
        run = await self.good("ucxl", "history", ADDRESS)
        self.assertIn(f"={CHAIN[0].content_hash}, cannot be had now", run.err)
        self.assertEqual((await self.good("ucxl", "history", ADDRESS, "--json")).json["missing"], CHAIN[0].content_hash)
        run = await self.chorus("ucxl", "verify", ADDRESS)
        self.assertEqual((run.status, "missing at version 2" in run.out), (1, True), run.out)

    async def test_search(self) -> None:
        run = await self.good(
            *("ucxl", "search", "ucxl://any:developer@any:any", "--project", "team..tool", "--text", "two words")
        )
        self.assertIn(exact(ADDRESS, CHAIN[0].content_hash), run.out)
        query, limit, _ = self.decisions.queries[-1]
        self.assertEqual(
            (query.role, query.project, query.words, limit), ("developer", "team..tool", ("two", "words"), 50)
        )
        self.assertIn("since must be a time", await self.bad(2, "ucxl", "search", "--since", "yesterday"))
        self.assertIn("1 or more", await self.bad(2, "ucxl", "search", "--limit", "0"))

    async def test_verify_a_clean_chain(self) -> None:
        self.decisions.heads[ADDRESS] = [Head.of(CHAIN[2], samples.ALICE)]
        self.assertEqual((await self.good("ucxl", "verify", ADDRESS)).out, "clean: 3 versions, 3 verified\n")
        self.decisions.secret.add(CHAIN[1].content_hash)
        run = await self.good("ucxl", "verify", f"{ADDRESS}/*~", "--json")
        self.assertEqual((run.json["clean"], run.json["verified"], run.json["unread"]), (True, 2, 1))
        run = await self.good("ucxl", "verify", ADDRESS)
        self.assertIn("not readable here from version 2 on", run.out)

    async def test_verify_shows_both_sides_of_a_fork(self) -> None:
        fork = samples.decision(seq=3, prev=CHAIN[1].content_hash, summary="Coffee.")
        self.decisions.heads[ADDRESS] = [Head.of(CHAIN[2], samples.ALICE), Head.of(fork, samples.ALICE)]
        run = await self.chorus("ucxl", "verify", ADDRESS)
        self.assertEqual(run.status, 1)
        self.assertIn("equivocation at version 3", run.out)
        self.assertIn(f"={fork.content_hash}", run.out)
        self.assertIn(f"={CHAIN[2].content_hash}", run.out)
        self.assertIn("verify` shows both", (await self.good("ucxl", "history", ADDRESS)).err)

    async def test_verify_misused(self) -> None:
        self.assertIn("scheme of the address", await self.bad(2, "ucxl", "verify", "http://x"))
        self.assertIn("nothing is known", await self.bad(2, "ucxl", "verify", "ucxl://a:r@p:t"))

    async def test_put(self) -> None:
        run = await self.good(
            *("ucxl", "put", "Tea.", "--task", "t-1", "--project", "tools", "--rationale", "Late.", "--kind", "design"),
            *("--confidence", "900", "--alternative", "Coffee.", "--alternative", "Milk.", "--path", "docs"),
        )
        self.assertTrue(run.out.strip().endswith(f"@tools:t-1/={samples.HASH}"))
        (draft,) = self.decisions.drafts
        self.assertEqual((draft.kind, draft.confidence, draft.path), ("design", 900, "docs"))
        self.assertEqual(draft.alternatives, ("Coffee.", "Milk."))
        for words in (("--task", "none"), ("--task", "t", "--project", "none")):
            await self.bad(2, "ucxl", "put", "Tea.", *words)
        await self.good("ucxl", "put", "Tea.", "--task", "t-1", "--project", "acme/web")
        self.assertEqual(self.decisions.drafts[-1].project, "acme..web")
        self.assertIn("confidence", await self.bad(2, "ucxl", "put", "Tea.", "--task", "t-1", "--confidence", "1001"))


class Views(PureTestCase):
    def printed(self, record: Decision) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            view.decision(record)
        return out.getvalue()

    def test_everything_that_a_decision_has_but_its_keys(self) -> None:
        text = self.printed(samples.decision(**FULL))
        for part in (
            "Because.",
            "80 %",
            "failure (exit 3)",
            "true",
            "docker",
            "1.5 cores",
            "Coffee",
            "a/b.py",
            "3 B  out",
        ):
            self.assertIn(part, text)
        self.assertNotIn("AGE-SECRET-KEY", text)

    def test_foreign_text_drives_no_terminal(self) -> None:
        text = self.printed(samples.decision(summary="\x1b[2Jhidden\u202e\nauthor  me", rationale="\x9b1m"))
        self.assertNotRegex(text, "[\x1b\x9b\u202e]")
        self.assertEqual(text.count("\nauthor"), 1)

    def test_foreign_text_of_a_report(self) -> None:
        out = io.StringIO()
        fault = ChainFault("bad_record", 1, "\x1b[2J", ("\x1b",))
        with contextlib.redirect_stdout(out):
            view.report(ChainReport("a", 1, 0, 0, (fault,)))
            view.report(ChainReport("a", 0, 0, 0, ()))
        self.assertNotIn("\x1b", out.getvalue())
        self.assertTrue(out.getvalue().endswith("nothing to verify\n"))
