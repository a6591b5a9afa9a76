"""Refuses a start that would certainly fail, before anything is made and before twistd goes into the background."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chorus import descriptors
from chorus.errors import UserError
from chorus.services.datadir import DataDirectory
from chorus.services.listening import ListenAddress, PortInUse, cannot_listen, collision

if TYPE_CHECKING:
    from pydantic import SecretStr

    from chorus.config.settings import Settings
    from chorus.security.membership import Wishes


class CannotWrite(UserError):
    """A file that twistd itself writes cannot be."""

    code = "cannot_write"


def check_twistd(options: Mapping[str, Any]) -> None:
    """The files that twistd writes beside ours, by its own options. Raises `UserError`."""
    folder = Path(options.get("rundir") or ".")
    if not folder.is_dir():
        raise CannotWrite(f"--rundir={folder}: there is no such directory")
    if pidfile := options.get("pidfile"):
        _check_writable(folder / pidfile, "--pidfile", "--pidfile= (no file)")
    logfile = options.get("logfile") or ("" if options.get("nodaemon") else "twistd.log")
    if logfile not in ("", "-") and not options.get("syslog"):
        # twistd opens it before it goes to its directory.
        _check_writable(Path(logfile), "--logfile", "--syslog")


def _check_writable(path: Path, option: str, otherwise: str) -> None:
    """By trying: the mode of a directory is not all that may be in the way."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EEXIST, "something else has this name")
        new = not path.exists()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if new:
            path.unlink()
    except OSError as error:
        raise CannotWrite(
            f"twistd cannot write {path.absolute()} ({error.strerror}): start it in a directory of its own, or give it "
            f"{option}=<another file> or {otherwise} before the word chorus"
        ) from None


def preflight(settings: Settings) -> None:
    """The data directory, the addresses to listen on, and whether what is wished for the cluster can be had there.

    Raises `UserError`. Decides nothing: all that is left behind is the directory with its lock and identity.
    """
    descriptors.raise_to(descriptors_wanted(settings))
    directory = DataDirectory(settings.data_dir)
    directory.acquire()
    try:
        wishes = wishes_of(settings)
        _check_addresses(settings)
        _check_membership(settings, directory, wishes)
        if not settings.open:
            _check_keys(settings, directory)
    finally:
        directory.release()


def descriptors_wanted(settings: Settings) -> int:
    """How many file descriptors a node configured so may use at once."""
    from chorus.http.limits import MAX_CONNECTIONS, MAX_NEWCOMERS
    from chorus.protocols.limits import HostLimits

    tasks = 0 if settings.open else settings.agent_max_tasks
    return descriptors.wanted(
        tasks=tasks,
        peers=settings.max_connections + HostLimits().max_handshakes,
        # Newcomers knock at the API and at the health port, and those with a token are at the API alone.
        http=MAX_CONNECTIONS + 2 * MAX_NEWCOMERS,
    )


def wishes_of(settings: Settings) -> Wishes:
    """The configuration's wishes for the cluster. Raises `UserError`."""
    from chorus.security.membership import Wishes

    return Wishes.parse(
        join=plain(settings.join),
        cluster_secret=plain(settings.cluster_secret),
        found=settings.found,
        bootstrap=bool(settings.bootstrap_peers),
    )


def plain(value: SecretStr | None) -> str | None:
    """The text of a secret setting."""
    return None if value is None else value.get_secret_value()


def _check_addresses(settings: Settings) -> None:
    bindings = (
        ListenAddress("CHORUS_P2P", settings.p2p_bind, settings.p2p_port),
        ListenAddress("CHORUS_API", settings.api_bind, settings.api_port),
        ListenAddress("CHORUS_HEALTH", settings.health_bind, settings.health_port),
    )
    if problem := collision(bindings):
        raise PortInUse(problem)
    with ExitStack() as probes:
        for each in bindings:
            _probe(each, probes)


def _probe(binding: ListenAddress, probes: ExitStack) -> None:
    """Listen there for a moment. With port 0 this tells whether the address is one of this machine."""
    try:
        family = socket.AF_INET6 if ":" in binding.host else socket.AF_INET
        probe = probes.enter_context(socket.socket(family, socket.SOCK_STREAM))
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((binding.host, binding.port))
        probe.listen(1)
    except OSError as error:
        raise PortInUse(cannot_listen(binding.variable, binding.host, binding.port, error)) from None


def _check_keys(settings: Settings, directory: DataDirectory) -> None:
    """Raises `KeyringError`, or `DataDirectoryError`."""
    from chorus.services.keys.files import KeyFiles

    KeyFiles(directory.path, plain(settings.keyring_passphrase)).check()


def _check_membership(settings: Settings, directory: DataDirectory, wishes: Wishes) -> None:
    """The founding rule, without its result. Raises `ClusterError`, `DataDirectoryError` or `IdentityError`."""
    from chorus.security.membership import check_open_mode, decide
    from chorus.services.cluster import check_founder, load_membership

    stored = load_membership(directory.path)
    if settings.open:
        check_open_mode(listen_host=settings.p2p_bind, wishes=wishes, stored=stored is not None)
    else:
        me = directory.identity().peer_id
        if stored is not None:
            check_founder(directory.path, stored, me)
        decide(stored, wishes, me, os.urandom)
