"""`chorus keys` as a process: roles over the API, the recovery secret on the data directory."""

from __future__ import annotations

from chorus.services.keys.files import KeyFiles
from tests.client.test_command import CommandCase

PEER = "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"


class RolesByCommand(CommandCase):
    async def test_list_grant_rotate(self) -> None:
        run = await self.good("keys", "list")
        for word in ("developer", PEER, "epoch"):
            self.assertIn(word, run.out)
        self.assertEqual((await self.good("keys", "list", "--json")).json["epoch"], 1)
        await self.good("keys", "grant", PEER, "admin")
        run = await self.good("keys", "grant", PEER, "admin", "--remove")
        self.assertIn("chorus keys rotate", run.err)
        self.assertEqual((await self.good("keys", "rotate", "--json")).json["epoch"], 2)
        self.assertEqual(self.keys.changes, [("grant", PEER, "admin"), ("revoke", PEER, "admin"), ("rotate",)])

    async def test_refusals_are_one_line(self) -> None:
        self.keys.founder = False
        run = await self.chorus("keys", "rotate")
        self.assertEqual((run.status, run.err.count("\n")), (2, 1))
        self.assertIn("founder", run.err)
        run = await self.chorus("keys", "grant", "node1", "admin")
        self.assertIn("give a peer id (chorus peers shows it)", run.err)
        run = await self.chorus("keys", "grant", PEER, "../x")
        self.assertEqual((run.status, run.err.count("\n")), (2, 1))
        self.assertEqual(self.keys.changes, [])


class RecoveryByCommand(CommandCase):
    def setUp(self) -> None:
        super().setUp()
        self.data.chmod(0o700)
        (self.data / "ports.json").unlink()
        self.files = KeyFiles(self.data)
        self.kept = self.files.open()
        # `recover` takes a directory of its own alone.
        (self.data / "lock").touch(0o600)

    async def test_split_lose_recover(self) -> None:
        shares = (await self.good("keys", "split", "-k", "2", "-n", "3", "--json")).json["shares"]
        self.assertEqual(len(shares), 3)
        two = "\n".join(shares[1:]).encode()
        run = await self.good("keys", "verify", stdin=two)
        self.assertIn("the recovery secret of this node", run.out)
        backup = str(self.outside / "backup")
        await self.good("keys", "backup", backup)
        for name in ("age.key", "keys.age"):
            (self.data / name).unlink()

        run = await self.chorus("keys", "recover", backup, stdin=shares[0].encode())
        self.assertEqual((run.status, run.err), (2, "chorus: 1 of the 2 shares that are needed: 1 more is missing\n"))
        wrong = shares[0].replace(shares[0].split()[5], "academic").encode()
        run = await self.chorus("keys", "recover", backup, stdin=wrong + b"\n" + two)
        self.assertEqual((run.status, run.err.count("\n")), (2, 1))
        self.assertIn("share 1 has a wrong word", run.err)
        self.assertFalse((self.data / "age.key").exists())

        await self.good("keys", "recover", backup, stdin=b"# a note\n\n" + two)
        self.assertEqual(self.files.open(), self.kept)

    async def test_shares_are_written_nowhere(self) -> None:
        before = {path: path.read_bytes() for path in self.data.iterdir()}
        run = await self.good("keys", "split")
        self.assertEqual(len([line for line in run.out.splitlines() if not line.startswith("#")]), 5)
        self.assertEqual({path: path.read_bytes() for path in self.data.iterdir()}, before)

    async def test_misuse_is_one_line(self) -> None:
        taken = self.outside / "taken"
        taken.write_text("x")
        backup = self.outside / "backup"
        backup.write_bytes(self.files.backup())
        for words, text in (
            (("backup", str(taken)), "--force"),
            (("backup", str(self.outside / "no/such")), "cannot be written"),
            (("split", "-k", "4", "-n", "3"), "k must not be more than n: 4 of 3 shares"),
            (("verify", str(self.outside / "none")), "cannot be read"),
            (("verify", str(taken)), "share 1"),
            (("recover", str(taken)), "no backup of keys"),
            (("recover", str(backup)), "whole"),
        ):
            run = await self.chorus("keys", *words)
            self.assertEqual((run.status, run.err.count("\n"), run.out), (2, 1, ""), words)
            self.assertIn(text, run.err)
        self.assertEqual(taken.read_text(), "x")

    async def test_a_wrong_passphrase(self) -> None:
        KeyFiles(self.data, "correct horse").open()
        file = self.outside / "passphrase"
        file.write_text("battery staple\n")
        file.chmod(0o600)
        for env in ({}, {"CHORUS_KEYRING_PASSPHRASE_FILE": str(file)}):
            run = await self.chorus("keys", "split", **env)
            self.assertEqual((run.status, run.err.count("\n"), run.out), (2, 1, ""))
            self.assertIn("CHORUS_KEYRING_PASSPHRASE_FILE", run.err)
        file.write_text("correct horse\n")
        await self.good("keys", "split", CHORUS_KEYRING_PASSPHRASE_FILE=str(file))
        file.write_text("corgi\n")
        run = await self.chorus("keys", "split", CHORUS_KEYRING_PASSPHRASE_FILE=str(file))
        self.assertIn("CHORUS_KEYRING_PASSPHRASE_FILE is too short, 8 characters", run.err)

    async def test_what_opens_a_backup_is_said(self) -> None:
        run = await self.good("keys", "backup", str(self.outside / "open"))
        self.assertIn("opened by age.key or the shares", run.out)
        file = self.outside / "passphrase"
        file.write_text("correct horse\n")
        file.chmod(0o600)
        closed = str(self.outside / "closed")
        run = await self.good("keys", "backup", closed, CHORUS_KEYRING_PASSPHRASE_FILE=str(file))
        self.assertIn("opened by the shares", run.out)
        self.assertNotIn("age.key", run.out)
        (self.data / "keys.age").unlink()
        run = await self.chorus("keys", "recover", closed)
        self.assertEqual((run.status, run.err.count("\n")), (2, 1))
        self.assertIn("shares are needed", run.err)
