"""The keys of a data directory: `age.key`, `keys.age`, `roles.json`, and backups of them. Blocking.

`keys.age` is the keyring: the identity that roles are sealed to, and the recovery secret. It is encrypted to `age.key`,
and that again to a passphrase where one is configured. A backup holds all three files, encrypted to the recovery
secret.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeVar, cast

import attrs

from chorus import strictjson
from chorus.entropy import RandomBytes, system_random
from chorus.errors import ChorusError, LocalError, UserError
from chorus.fields import Base64, Integer, Object, Refusal, Text, field
from chorus.files import DataDirectoryError, create_once, read_private, write_private
from chorus.security import age
from chorus.security.roles import MAX_FILE

KEY: Final = "age.key"
KEYRING: Final = "keys.age"
ROLES: Final = "roles.json"
MAX_KEY: Final = 256
"""Bytes of `age.key`: one identity."""
MAX_KEYRING: Final = 8 * 1024
"""Bytes: two identities, encrypted twice; ours have under 1 KiB."""
MAX_BACKUP: Final = 4 * MAX_FILE
"""Bytes: `roles.json` in base64, encrypted, and that in text form."""
FORMER_ROLES: Final = 3
"""Replaced files kept, each the last one of its keys: a mistake at the founder is seen before three more rotations."""
PASSPHRASE: Final = "CHORUS_KEYRING_PASSPHRASE_FILE"
EXIT_CONFIG: Final = 78
"""EX_CONFIG: a service manager that knows it need not start this node again."""

_ARMOR: Final = b"-----BEGIN"
_BY_KEY: Final = "age.key does not open the backup: shares are needed, in files or `-` for stdin"
"""Always so where its node had a passphrase."""
_BY_SHARES: Final = "the backup is of another recovery secret: give shares that belong to it"
_IDENTITY: Final = Text(128, 1, "AGE-SECRET-KEY-1[0-9A-Z]+", "an age identity")


class KeyringError(UserError):
    """The keyring cannot be opened; the text says what to do."""

    code = "keyring"
    exit_code = EXIT_CONFIG


class RolesNotKept(LocalError):
    """A new `roles.json` cannot be written, and so is not used."""

    code = "roles_not_kept"


class BackupError(UserError):
    """A file that is no backup, or none that can be opened with what was given."""

    code = "keys_backup"


@attrs.frozen(repr=False)
class Keys:
    """The secrets of a node, as age identities: the content of `keys.age`."""

    own: str = field(_IDENTITY)
    """Roles are sealed to its recipient."""
    recovery: str = field(_IDENTITY)
    v: int = field(Integer(1, 1), default=1)


@attrs.frozen(repr=False)
class KeysBackup:
    """Everything that opens what this node may read."""

    key: str = field(_IDENTITY)
    """Of `age.key`."""
    keys: Keys = field(Object(Keys, closed=True))
    roles: bytes = field(Base64(MAX_FILE), default=b"")
    """`roles.json`, where there is one."""
    v: int = field(Integer(1, 1), default=1)


T = TypeVar("T")


def _encoded(value: Any) -> bytes:
    return strictjson.canonical(cast("Any", Object(type(value)).write(value)))


def _decoded(cls: type[T], data: bytes) -> T:
    """Raises `ValueError` with a line that holds nothing secret."""
    try:
        value = strictjson.loads(data, max_bytes=MAX_BACKUP)
        return Object(cls, closed=True).read(value)
    except Refusal as refusal:
        raise ValueError(refusal.rule("it")) from None
    except ChorusError:
        raise ValueError("it holds no JSON") from None


@attrs.frozen
class KeyFiles:
    """Reads and writes the keys below `directory`. `passphrase` is the configured one."""

    directory: Path
    passphrase: str | None = attrs.field(default=None, repr=False)
    random: RandomBytes = attrs.field(default=system_random, repr=False)

    def check(self) -> None:
        """Raise `KeyringError` or `DataDirectoryError` where `open` would, and make nothing."""
        if (key := self._key()) is not None and self._keyring(key) is None:
            self._refuse_lost()

    def load(self) -> tuple[str, Keys]:
        """The identity of `age.key`, and the keyring. Raises `KeyringError` or `DataDirectoryError`, also where no node
        has been started yet."""
        key = self._key()
        found = None if key is None else self._keyring(key)
        if key is None or found is None:
            raise KeyringError(f"{self.directory} holds no keys yet: start the node once, or recover them")
        return key, found[0]

    def open(self) -> Keys:
        """The keyring, made at the first start. Raises `KeyringError` or `DataDirectoryError`."""
        new = (key := self._key()) is None
        if key is None:
            key = age.new_identity(self.random)
            self._create(key)
        found = self._keyring(key)
        if found is None and not new:
            self._refuse_lost()
        keys = found[0] if found else Keys(age.new_identity(self.random), age.new_identity(self.random))
        if found is None or (self.passphrase is not None and not found[1]):
            self._keep(key, keys)
        return keys

    def roles(self) -> bytes | None:
        return read_private(self.directory / ROLES, MAX_FILE)

    def keep_roles(self, data: bytes, replaced: tuple[int, bytes] | None = None) -> None:
        """With the `replaced` one (serial, bytes) beside it as `roles.json.N`: its keys may be in no other file. Raises
        `RolesNotKept`."""
        path = self.directory / ROLES
        try:
            if replaced is not None:
                write_private(path.with_name(f"{ROLES}.{replaced[0]}"), replaced[1])
                former = sorted(self.directory.glob(f"{ROLES}.*[0-9]"), key=lambda each: each.stat().st_mtime_ns)
                for old in former[:-FORMER_ROLES]:
                    old.unlink()
            write_private(path, data)
        except OSError as error:
            raise RolesNotKept(f"{path} cannot be written: {error.strerror}") from error

    def backup(self) -> bytes:
        """Encrypted to the recovery secret, and to `age.key` unless there is a passphrase, which that would go round.
        Raises `KeyringError` or `DataDirectoryError`."""
        key, keys = self.load()
        readers = [keys.recovery, *([key] if self.passphrase is None else [])]
        return age.encrypt(_encoded(KeysBackup(key, keys, self.roles() or b"")), map(age.recipient_of, readers))

    def recover(self, backup: bytes, secret: bytes | None) -> None:
        """Put the keys of a backup in place, opened with the recovery `secret` (32 bytes), else with `age.key`; what is
        there gets the ending `.before`.

        Raises `BackupError`, `KeyringError` where the keys that are here are whole, or `DataDirectoryError`.
        """
        self._refuse_whole()
        identity = age.identity_of(secret) if secret is not None else self._key()
        found = _opened(backup, identity, by_key=secret is None)
        # They may be whole after all: closed to a passphrase that is not at hand.
        for name in (KEY, KEYRING):
            self._put_aside(name)
        self._write(KEY, found.key.encode() + b"\n")
        self._keep(found.key, found.keys)
        if found.roles and not (self.directory / ROLES).exists():
            self._write(ROLES, found.roles)

    def _put_aside(self, name: str) -> None:
        path = self.directory / name
        try:
            if path.exists():
                path.replace(path.with_name(f"{name}.before"))
        except OSError as error:
            raise DataDirectoryError(f"{path} cannot be moved away: {error.strerror}") from error

    def _refuse_whole(self) -> None:
        try:
            self.load()
        except (KeyringError, DataDirectoryError):
            return
        raise KeyringError(
            f"the keys in {self.directory} are whole: move {KEY} and {KEYRING} away first, to replace them by those of "
            "the backup"
        )

    def _refuse_lost(self) -> None:
        """A new keyring would open nothing that the roles hold, and its recovery secret no backup."""
        if self.roles() is not None:
            raise KeyringError(
                f"{self.directory / KEYRING} is missing, and {ROLES} is encrypted to it: put it back, or use `chorus "
                "keys recover`"
            )

    def _key(self) -> str | None:
        path = self.directory / KEY
        content = read_private(path, MAX_KEY)
        if content is None:
            if (self.directory / KEYRING).exists():
                raise KeyringError(
                    f"{path} is missing, and {KEYRING} is encrypted to it: put it back, or use `chorus keys recover`"
                )
            return None
        key = content.decode("ascii", "replace").strip()
        try:
            age.secret_of(key)
        except age.BadAgeKey as error:
            raise KeyringError(f"{path} is damaged ({error}): put back a copy, or use `chorus keys recover`") from None
        return key

    def _keyring(self, key: str) -> tuple[Keys, bool] | None:
        """The keyring, and whether it is encrypted to the passphrase; None where there is none."""
        path = self.directory / KEYRING
        data = read_private(path, MAX_KEYRING)
        if data is None:
            return None
        try:
            locked = age.is_passphrase(data)
            if locked:
                if self.passphrase is None:
                    raise KeyringError(f"{path} is encrypted to a passphrase: set {PASSPHRASE}")
                data = age.decrypt_passphrase(data, self.passphrase)
            return _decoded(Keys, age.decrypt(data, [key])), locked
        except age.WrongPassphrase:
            raise KeyringError(f"{PASSPHRASE} holds another passphrase than that of {path}") from None
        except age.NotForUs:
            raise KeyringError(f"{path} is encrypted to another {KEY} than the one beside it") from None
        except (age.AgeError, ValueError) as error:
            raise KeyringError(f"{path} is damaged ({error}): use `chorus keys recover`") from None

    def _keep(self, key: str, keys: Keys) -> None:
        data = age.encrypt(_encoded(keys), [age.recipient_of(key)])
        self._write(KEYRING, data if self.passphrase is None else age.encrypt_passphrase(data, self.passphrase))

    def _create(self, key: str) -> None:
        try:
            create_once(self.directory / KEY, key.encode() + b"\n")
        except OSError as error:
            raise DataDirectoryError(f"{self.directory / KEY} cannot be made: {error.strerror}") from error

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_private(self.directory / name, data)
        except OSError as error:
            raise DataDirectoryError(f"{self.directory / name} cannot be written: {error.strerror}") from error


def _opened(backup: bytes, identity: str | None, *, by_key: bool) -> KeysBackup:
    try:
        if backup.lstrip().startswith(_ARMOR):
            backup = age.unarmor(backup)
        return _decoded(KeysBackup, age.decrypt(backup, [] if identity is None else [identity]))
    except age.NotForUs:
        raise BackupError(_BY_KEY if by_key else _BY_SHARES) from None
    except (age.AgeError, ValueError) as error:
        raise BackupError(f"the backup is damaged: {error}") from None


def check_backup(data: bytes) -> None:
    """Raises `BackupError` for a file that is none, before anybody gathers shares for it."""
    try:
        age.check_header(age.unarmor(data) if data.lstrip().startswith(_ARMOR) else data)
    except age.AgeError as error:
        raise BackupError(f"the file is no backup of keys: {error}") from None
