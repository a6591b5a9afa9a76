"""The keys of a data directory: made once, closed to others, damaged, backed up, recovered."""

from __future__ import annotations

from pathlib import Path

from chorus.errors import UserError
from chorus.files import DataDirectoryError
from chorus.security import age
from chorus.services.keys.files import KEY, KEYRING, ROLES, BackupError, KeyFiles, KeyringError
from tests.services.keys.kit import numbered
from tests.support import PureTestCase


class KeyFilesCase(PureTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.files = self.with_passphrase(None)

    def with_passphrase(self, passphrase: str | None) -> KeyFiles:
        return KeyFiles(self.folder, passphrase, numbered)

    def refused(self, files: KeyFiles, *words: str) -> None:
        for look in (files.check, files.open):
            error = self.assertRaises(KeyringError, look)
            self.assertEqual(error.exit_code, 78)
            self.assertNotIn("\n", str(error))
            self.assertNotIn("AGE-SECRET", str(error))
            for word in words:
                self.assertIn(word, str(error))


class Opening(KeyFilesCase):
    def test_made_once(self) -> None:
        self.files.check()
        self.assertEqual(list(self.folder.iterdir()), [])
        keys = self.files.open()
        self.assertEqual(self.files.open(), keys)
        self.assertEqual({path.name for path in self.folder.iterdir()}, {KEY, KEYRING})
        for path in self.folder.iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertNotIn("AGE", repr(keys))

    def test_age_key_alone_is_no_role(self) -> None:
        keys = self.files.open()
        key = (self.folder / KEY).read_text().strip()
        self.assertNotIn(key, (keys.own, keys.recovery))

    def test_a_start_that_stopped_between_both_files(self) -> None:
        self.files.open()
        (self.folder / KEYRING).unlink()
        self.files.open()
        self.files.check()

    def test_the_keyring_is_missing_beside_roles(self) -> None:
        self.files.open()
        (self.folder / KEYRING).unlink()
        self.files.keep_roles(b"{}")
        self.refused(self.files, KEYRING, "missing", "chorus keys recover")
        self.assertFalse((self.folder / KEYRING).exists())

    def test_a_passphrase(self) -> None:
        keys = self.files.open()
        locked = self.with_passphrase("correct horse")
        self.assertEqual(locked.open(), keys)
        self.assertEqual(locked.open(), keys)
        self.refused(self.files, "CHORUS_KEYRING_PASSPHRASE_FILE", KEYRING)
        self.refused(self.with_passphrase("battery staple"), "CHORUS_KEYRING_PASSPHRASE_FILE", "another passphrase")

    def test_age_key_is_missing(self) -> None:
        self.files.open()
        (self.folder / KEY).unlink()
        self.refused(self.files, KEY, "chorus keys recover")

    def test_age_key_is_another_one(self) -> None:
        self.files.open()
        (self.folder / KEY).write_text(age.new_identity(numbered))
        self.refused(self.files, "another age.key")

    def test_damaged_at_every_byte(self) -> None:
        self.files.open()
        for name in (KEY, KEYRING):
            path = self.folder / name
            whole = path.read_bytes()
            for at in range(len(whole) - (name == KEY)):
                for wrong in (whole[:at], whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]):
                    path.write_bytes(wrong)
                    self.assertRaises(KeyringError, self.files.check)
            path.write_bytes(whole)
        self.files.check()

    def test_others_may_read_them(self) -> None:
        self.files.open()
        (self.folder / KEYRING).chmod(0o644)
        self.assertRaises(DataDirectoryError, self.files.check)

    def test_what_is_sealed_is_not_a_keyring(self) -> None:
        self.files.open()
        key = (self.folder / KEY).read_text().strip()
        for content in (b"", b"[]", b'{"v":2}', b'{"v":1,"own":"x","recovery":"y"}'):
            (self.folder / KEYRING).write_bytes(age.encrypt(content, [age.recipient_of(key)]))
            self.refused(self.files, "damaged")


class Backups(KeyFilesCase):
    def setUp(self) -> None:
        super().setUp()
        self.keys = self.files.open()
        self.files.keep_roles(b"roles")
        self.secret = age.secret_of(self.keys.recovery)
        self.saved = self.files.backup()

    def lose(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()

    def test_everything_comes_back_with_the_secret(self) -> None:
        before = (self.folder / KEY).read_bytes()
        self.lose(KEY, KEYRING, ROLES)
        self.files.recover(self.saved, self.secret)
        self.assertEqual(self.files.open(), self.keys)
        self.assertEqual(((self.folder / KEY).read_bytes(), self.files.roles()), (before, b"roles"))

    def test_the_keyring_comes_back_with_age_key(self) -> None:
        self.lose(KEYRING)
        self.files.recover(self.saved, None)
        self.assertEqual(self.files.open(), self.keys)

    def test_a_backup_that_was_sent_as_text(self) -> None:
        import base64

        lines = base64.encodebytes(self.saved).replace(b"\n", b"")
        body = b"\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
        text = b"-----BEGIN AGE ENCRYPTED FILE-----\n" + body + b"\n-----END AGE ENCRYPTED FILE-----\n"
        self.lose(KEY, KEYRING)
        self.files.recover(text, self.secret)
        self.assertEqual(self.files.open(), self.keys)

    def test_newer_roles_stay(self) -> None:
        self.files.keep_roles(b"newer")
        self.lose(KEYRING)
        self.files.recover(self.saved, self.secret)
        self.assertEqual(self.files.roles(), b"newer")

    def test_keys_that_are_whole_are_not_replaced(self) -> None:
        error = self.assertRaises(KeyringError, self.files.recover, self.saved, self.secret)
        self.assertIn("move", str(error))

    def test_keys_closed_to_a_lost_passphrase_are_put_aside(self) -> None:
        self.with_passphrase("lost for ever").open()
        locked = (self.folder / KEYRING).read_bytes()
        self.files.recover(self.saved, self.secret)
        self.assertEqual(self.files.open(), self.keys)
        self.assertEqual((self.folder / f"{KEYRING}.before").read_bytes(), locked)

    def test_the_passphrase_closes_recovered_keys(self) -> None:
        self.lose(KEY, KEYRING)
        self.with_passphrase("correct horse").recover(self.saved, self.secret)
        self.assertRaises(KeyringError, self.files.check)

    def test_another_secret(self) -> None:
        self.lose(KEY, KEYRING)
        self.assertRaises(BackupError, self.files.recover, self.saved, bytes(32))
        self.assertRaises(BackupError, self.files.recover, self.saved, None)
        self.assertFalse((self.folder / KEYRING).exists())

    def test_a_damaged_backup(self) -> None:
        self.lose(KEY, KEYRING)
        for wrong in (b"", b"-----BEGIN", self.saved[:-1], self.saved[:100], self.saved + b"x"):
            error = self.assertRaises(UserError, self.files.recover, wrong, self.secret)
            self.assertIsInstance(error, BackupError)
            self.assertNotIn("\n", str(error))

    def test_age_key_goes_round_no_passphrase(self) -> None:
        locked = self.with_passphrase("correct horse")
        locked.open()
        saved = locked.backup()
        self.lose(KEYRING)
        self.assertRaises(BackupError, locked.recover, saved, None)
        locked.recover(saved, self.secret)
        self.assertEqual(locked.open(), self.keys)

    def test_a_backup_is_closed_to_others(self) -> None:
        for identity in (self.keys.own, age.new_identity(numbered)):
            self.assertRaises(age.NotForUs, age.decrypt, self.saved, [identity])
