"""`chorus keys`: roles over the node's API; the recovery secret and backups on the data directory alone."""

from __future__ import annotations

import sys
from pathlib import Path

from chorus.client import show
from chorus.client.api import NodeApi
from chorus.client.errors import ClientError
from chorus.client.task_options import Document, Options
from chorus.config.values import MIN_PASSPHRASE
from chorus.files import create_once, write_private
from chorus.identity import PeerId, PeerIdError
from chorus.security import age, shamir
from chorus.services.datadir import DataDirectory
from chorus.services.keys.files import KEY, MAX_BACKUP, PASSPHRASE, KeyFiles, KeyringError, check_backup

MAX_SHARES_FILE = shamir.MAX_SHARES * shamir.MAX_CHARACTERS
"""Bytes read of a file of shares."""


def list_keys(options: Options, api: NodeApi) -> int:
    return _shown(options, api.json("GET", "/v1/keys"))


def grant(options: Options, api: NodeApi) -> int:
    method = "DELETE" if options.remove else "PUT"
    try:
        peer = PeerId.parse(options.peer)
    except PeerIdError:
        raise ClientError(f"{show.safe(options.peer)} is no peer id: give a peer id (chorus peers shows it)") from None
    found = api.json(method, f"/v1/keys/members/{peer}/roles/{_word(options.role)}")
    if options.remove and not options.json:
        show.note("the member keeps the keys that it has; `chorus keys rotate` makes new ones")
    return _shown(options, found)


def rotate(options: Options, api: NodeApi) -> int:
    return _shown(options, api.json("POST", "/v1/keys/rotate"))


def _word(text: str) -> str:
    if not text.isascii() or not text.replace(".", "").replace("_", "").replace("-", "").isalnum():
        raise ClientError(f"{show.safe(text)} is no role: `chorus keys list` shows them")
    return text


def _shown(options: Options, found: Document) -> int:
    if options.json:
        show.document(found)
        return 0
    show.facts(
        [
            ("founder", found["founder"] or "not known yet: this node waits for the roles of its cluster"),
            ("epoch", f"{found['epoch']} (serial {found['serial']})"),
            ("this node", found["peer_id"]),
            ("writes under", found["role"]),
        ]
    )
    roles = [(role["name"], ", ".join(role["reads"]), _yes(role["readable"])) for role in found["roles"]]
    members = [(member["peer_id"], ", ".join(member["roles"]) or "none") for member in found["members"]]
    print()
    show.table(("role", "reads besides itself", "key here"), roles, "no roles")
    print()
    show.table(("member", "roles"), members, "no members")
    return 0


def _yes(value: object) -> str:
    return "yes" if value else "no"


def split(options: Options, api: NodeApi) -> int:
    """Prints the shares and keeps none."""
    _, keys = _files(api).load()
    shares = shamir.split(age.secret_of(keys.recovery), options.threshold, options.shares)
    if options.json:
        show.document({"threshold": options.threshold, "shares": list(shares)})
        return 0
    show.note(
        f"any {options.threshold} of these {options.shares} shares open every backup of this node's keys; they are "
        "written nowhere: give each to another person, and check them with `chorus keys verify`"
    )
    for number, share in enumerate(shares, 1):
        print(f"# share {number} of {options.shares}\n{share}")
    return 0


def verify(options: Options, api: NodeApi) -> int:
    shares = _shares(options.files)
    found = shamir.check(shares)
    secret = shamir.combine(shares)
    files = _files(api)
    ours = None
    if (files.directory / KEY).exists():
        ours = age.identity_of(secret) == files.load()[1].recovery
    if options.json:
        show.document({"threshold": found.threshold, "shares": found.present, "this_node": ours})
        return 0 if ours is not False else 2
    if ours is False:
        raise ClientError(f"the shares fit together, and are of another recovery secret than that of {files.directory}")
    where = "" if ours is None else ": the recovery secret of this node"
    print(f"{show.counted(found.present, 'share')}, {found.threshold} are needed, they fit together{where}")
    return 0


def backup(options: Options, api: NodeApi) -> int:
    files = _files(api)
    data = files.backup()
    if options.file == "-":
        sys.stdout.buffer.write(data)
        return 0
    path = Path(options.file)
    try:
        (write_private if options.force else create_once)(path, data)
    except FileExistsError:
        raise ClientError(f"{show.safe(path)} is there already; --force overwrites it") from None
    except OSError as error:
        raise ClientError(f"{show.safe(path)} cannot be written: {error.strerror}") from None
    if options.json:
        show.document({"file": str(path), "size": len(data)})
    else:
        opened = "age.key or the shares" if files.passphrase is None else "the shares"
        print(f"{show.safe(path)}: {len(data)} bytes, opened by {opened} of the recovery secret")
    return 0


def recover(options: Options, api: NodeApi) -> int:
    data = _read(options.backup, MAX_BACKUP)
    check_backup(data)
    # A backup is encrypted to age.key as well, unless its node had a passphrase.
    with_key = not options.files and (api.data_dir / KEY).exists()
    secret = None if with_key else shamir.combine(_shares(options.files))
    directory = DataDirectory(api.data_dir)
    directory.acquire()
    try:
        _files(api).recover(data, secret)
    finally:
        directory.release()
    if options.json:
        show.document({"directory": str(directory.path), "recovered": True})
    else:
        print(f"{directory.path}: the keys of the backup are in place")
    return 0


def _files(api: NodeApi) -> KeyFiles:
    passphrase = api.secret("CHORUS_KEYRING_PASSPHRASE")
    if passphrase is not None and len(passphrase) < MIN_PASSPHRASE:
        raise KeyringError(f"the passphrase of {PASSPHRASE} is too short, {MIN_PASSPHRASE} characters at least")
    return KeyFiles(api.data_dir, passphrase)


def _shares(names: list[str]) -> list[str]:
    """One share a line, in files or on stdin; a line that begins with # is none."""
    texts = [_read(name, MAX_SHARES_FILE) for name in names or ["-"]]
    lines = [line.strip() for text in texts for line in text.decode("utf-8", "replace").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _read(name: str, limit: int) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise ClientError(f"{show.safe(name)} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise ClientError(f"{show.safe(name)} is longer than {limit} bytes: it is something else")
    return data
