"""The cluster that this node belongs to: kept in its data directory, adopted, shown as a join token (spec/cluster.md).

The founding rule decides once (`security/membership.py`); `cluster.json` of the data directory (mode 0600, replaced
atomically and fsynced) holds the result for the life of the directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs
from twisted.application.service import Service
from twisted.logger import Logger

from chorus import strictjson
from chorus.errors import PeerError, UserError
from chorus.files import DataDirectoryError, read_private, write_private
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.security.jointoken import (
    CLUSTER_ID,
    JoinToken,
)
from chorus.security.membership import MAX_FILE, ClusterError, Membership, Random, Wishes, decide
from chorus.services.datadir import IDENTITY

if TYPE_CHECKING:
    from chorus.seams import JSON

STATE = "cluster.json"
ADDRESSES = "addresses.json"
"""Where members can reach this node, for `chorus token`; written when the node listens."""


class WrongCluster(PeerError):
    """A peer that knows the secret belongs to another cluster; clusters never merge."""

    code = "wrong_cluster"


class NoCluster(PeerError):
    """Neither this node nor the peer belongs to a cluster yet: both are waiting to be admitted by a member."""

    code = "no_cluster"


class ClusterService(Service):
    """The membership of this node, loaded or made by `open`. Its parts never change but by `adopt`."""

    _log = Logger()

    def __init__(
        self, directory: Path, identity: Identity, membership: Membership, stored: Membership | None = None
    ) -> None:
        """`stored` is what is on disk."""
        self._directory = directory
        self._identity = identity
        self._membership = membership
        self._stored = stored
        self._adopted: list[Callable[[bytes], None]] = []

    @classmethod
    def open(cls, directory: Path, identity: Identity, wishes: Wishes, random: Random = os.urandom) -> ClusterService:
        """Load the membership, or decide it; only `keep` writes it to disk. The directory must be held.

        Raises `ClusterError`, or `DataDirectoryError` for a file that is damaged.
        """
        stored = load_membership(directory)
        if stored is not None:
            check_founder(directory, stored, identity.peer_id)
        return cls(directory, identity, decide(stored, wishes, identity.peer_id, random), stored)

    def keep(self) -> None:
        """Write the membership for the life of the directory, before any peer connects. Raises `DataDirectoryError`."""
        stored = self._stored
        self._write(self._membership)
        if stored is None and self.founded_here:
            assert self.cluster_id is not None
            self._log.info(
                "founded cluster {cluster}; to join another one instead, set CHORUS_JOIN and start with an empty "
                "CHORUS_DATA_DIR",
                event="cluster.founded",
                cluster=self.cluster_id.hex(),
            )

    def _write(self, membership: Membership) -> None:
        if membership != self._stored:
            _write_file(self._directory / STATE, membership.to_json())
            self._stored = membership

    @property
    def cluster_id(self) -> bytes | None:
        """32 bytes; `None` until the first admission of a node that was given a secret alone."""
        return self._membership.cluster_id

    @property
    def store_id(self) -> bytes:
        return self._membership.store_id

    @property
    def secret(self) -> bytes:
        return self._membership.secret

    @property
    def founded_here(self) -> bool:
        return self._membership.founded_here

    @property
    def genesis(self) -> str | None:
        """The genesis entry, at the founder alone."""
        genesis = self._membership.genesis
        return None if genesis is None else genesis.decode()

    @property
    def contacts(self) -> tuple[Multiaddr, ...]:
        """Members to dial, each with its peer id."""
        own = self._identity.peer_id
        return tuple(address for address in self._membership.contacts if address.peer_id() != own)

    def when_adopted(self, call: Callable[[bytes], None]) -> None:
        """Call with the cluster id once it is known; at once if it is."""
        if self.cluster_id is not None:
            call(self.cluster_id)
        else:
            self._adopted.append(call)

    def meet(self, theirs: bytes) -> None:
        """A peer that proved the secret says which cluster it belongs to; empty while it belongs to none.

        The first one that a waiting node hears of becomes its own, on disk before this returns. Raises `WrongCluster`
        or `NoCluster`.
        """
        ours = self.cluster_id
        if not theirs:
            if ours is None:
                raise NoCluster("neither side belongs to a cluster yet")
            return
        if ours is None:
            self.adopt(theirs)
        elif theirs != ours:
            raise WrongCluster(f"the peer belongs to cluster {theirs.hex()[:16]}…, this node to {ours.hex()[:16]}…")

    def adopt(self, cluster_id: bytes) -> None:
        """Join `cluster_id` for the life of the directory."""
        if self.cluster_id is not None:
            raise RuntimeError("a store belongs to one cluster for life")
        if len(cluster_id) != CLUSTER_ID:
            raise WrongCluster(f"a cluster id has {CLUSTER_ID} bytes, not {len(cluster_id)}")
        membership = attrs.evolve(self._membership, cluster_id=cluster_id)
        self._write(membership)
        self._membership = membership
        self._log.info("joined cluster {cluster}", event="cluster.joined", cluster=cluster_id.hex())
        calls, self._adopted = self._adopted, []
        for call in calls:
            call(cluster_id)

    def publish_addresses(self, addresses: Iterable[Multiaddr]) -> None:
        """Note where this node listens, for `chorus token`; a full disk must not keep the node from starting."""
        texts: list[JSON] = [str(address.without_peer()) for address in addresses]
        try:
            _write_file(self._directory / ADDRESSES, strictjson.canonical(texts))
        except DataDirectoryError as error:
            self._log.warn("{error}; `chorus token` may name old addresses", event="cluster.not_published", error=error)

    def token(self, addresses: Sequence[Multiaddr]) -> JoinToken:
        """Raises `ClusterError` while the node belongs to no cluster."""
        return _token(self._membership, self._identity.peer_id, addresses)


def load_membership(directory: Path) -> Membership | None:
    """The membership of the data directory; `None` for a new one. Raises `DataDirectoryError` when it is damaged."""
    path = directory / STATE
    encoded = read_private(path, MAX_FILE)
    if encoded is None:
        return None
    try:
        return Membership.from_json(encoded)
    except (ValueError, UserError, PeerError) as error:
        raise DataDirectoryError(f"{path} is damaged: {error}") from None


def check_founder(directory: Path, membership: Membership, peer_id: PeerId) -> None:
    """Raise `DataDirectoryError` when another node founded what `membership` says was founded here."""
    if membership.founder not in (None, peer_id):
        raise DataDirectoryError(
            f"{directory / STATE} is of the node {membership.founder}, and {directory / IDENTITY} is of {peer_id}: "
            "put back the file that belongs here, or start with an empty CHORUS_DATA_DIR and join"
        )


def load_token(directory: Path) -> JoinToken:
    """The join token of the node in `directory`, whether it runs or not. Raises a `UserError` that says what to do."""
    membership = load_membership(directory)
    if membership is None:
        raise ClusterError(f"no node has been started with the data directory {directory} yet")
    listed = read_private(directory / ADDRESSES, MAX_FILE)
    if listed is None:
        raise ClusterError(f"the node of {directory} has never listened: start it, then ask for its token")
    try:
        addresses = [Multiaddr.parse(str(text)) for text in cast("list[JSON]", strictjson.loads(listed))]
    except (ValueError, TypeError, UserError, PeerError) as error:
        raise DataDirectoryError(f"{directory / ADDRESSES} is damaged: {error}") from None
    if not (directory / IDENTITY).exists():
        raise DataDirectoryError(f"{directory / IDENTITY} is missing")
    peer_id = Identity.load_or_create(directory / IDENTITY).peer_id
    check_founder(directory, membership, peer_id)
    return _token(membership, peer_id, addresses)


def _token(membership: Membership, peer_id: PeerId, addresses: Sequence[Multiaddr]) -> JoinToken:
    if membership.cluster_id is None:
        raise ClusterError("this node belongs to no cluster yet: it waits to be admitted by a member")
    return JoinToken.make(membership.cluster_id, peer_id, membership.secret, addresses)


def _write_file(path: Path, content: bytes) -> None:
    try:
        write_private(path, content)
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be written: {error.strerror}") from error
