"""Membership in a cluster and the founding rule, both pure (spec/cluster.md).

The authority key, certificates and rosters beyond the genesis entry have their place in a membership and come with the
election.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable
from typing import Any, cast

import attrs

from chorus import strictjson
from chorus.errors import UserError
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.security.jointoken import (
    CLUSTER_ID,
    MAX_ADDRESSES,
    MAX_SECRET,
    MIN_SECRET_BITS,
    JoinToken,
    TokenError,
    parse_secret,
)

MAX_FILE = 64 * 1024
"""Bytes of a membership, or of the addresses beside it."""
SECRET = 32
"""Bytes of a secret made here."""
STORE_ID = 16
"""Random bytes that tell this store from any other, also one of the same peer before it was wiped."""
NONCE = 16
"""Random bytes of a genesis entry: two clusters of one founder differ."""

Random = Callable[[int], bytes]


class ClusterError(UserError):
    """Founding or joining is configured in a way that cannot work; the text names the variables."""

    code = "cluster"


@attrs.frozen
class Membership:
    """The cluster of a data directory. `cluster_id` is `None` while the node waits for its first admission."""

    store_id: bytes
    secret: bytes = attrs.field(repr=False)
    cluster_id: bytes | None = None
    genesis: bytes | None = None
    """The genesis entry, at its founder; other members get it with the journal."""
    contacts: tuple[Multiaddr, ...] = ()
    """Members to dial first, from the join token."""

    @property
    def founded_here(self) -> bool:
        return self.genesis is not None

    @property
    def founder(self) -> PeerId | None:
        """The peer that the genesis entry names; `None` where there is none. Raises `ValueError` or `ChorusError` for
        one that `found` did not write for this store."""
        if self.genesis is None:
            return None
        value = cast("dict[str, Any]", strictjson.loads(self.genesis))
        peer_id, nonce = PeerId.parse(value["roster"][0]["peer_id"]), bytes.fromhex(value["nonce"])
        if len(nonce) != NONCE or _genesis(peer_id, self.store_id, nonce) != self.genesis:
            raise ValueError("the genesis entry was not written for this store")
        return peer_id

    def to_json(self) -> bytes:
        return strictjson.canonical(
            {
                "version": 1,
                "store_id": self.store_id.hex(),
                "secret": self.secret.hex(),
                "cluster_id": self.cluster_id.hex() if self.cluster_id is not None else None,
                "genesis": self.genesis.decode() if self.genesis is not None else None,
                "contacts": [str(address) for address in self.contacts],
                "authority": None,
                "certificate": None,
            }
        )

    @classmethod
    def from_json(cls, encoded: bytes) -> Membership:
        """Raises `ValueError` or `ChorusError` for anything that `to_json` did not write."""
        value = cast("dict[str, Any]", strictjson.loads(encoded, max_bytes=MAX_FILE))
        if not isinstance(value, dict) or value.get("version") != 1:
            raise ValueError("written by another version")
        membership = cls._of(value)
        membership._check()
        if membership.to_json() != encoded:
            raise ValueError("it is not what this program writes")
        return membership

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Membership:
        try:
            cluster_id = bytes.fromhex(value["cluster_id"]) if value["cluster_id"] is not None else None
            genesis = value["genesis"].encode() if value["genesis"] is not None else None
            contacts = tuple(Multiaddr.parse(text) for text in value["contacts"])
            return cls(bytes.fromhex(value["store_id"]), bytes.fromhex(value["secret"]), cluster_id, genesis, contacts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a field is missing or of another type: {error}") from None

    def _check(self) -> None:
        """Raise `ValueError` or `ChorusError` for what no node ever has."""
        if len(self.store_id) != STORE_ID:
            raise ValueError(f"the store id does not have {STORE_ID} bytes")
        if not MIN_SECRET_BITS <= len(self.secret) * 8 <= MAX_SECRET * 8:
            raise ValueError(f"the secret does not have {MIN_SECRET_BITS // 8} to {MAX_SECRET} bytes")
        if self.cluster_id is not None and len(self.cluster_id) != CLUSTER_ID:
            raise ValueError(f"the cluster id does not have {CLUSTER_ID} bytes")
        if len(self.contacts) > MAX_ADDRESSES or any(each.peer_id() is None for each in self.contacts):
            raise ValueError(f"its contacts are not up to {MAX_ADDRESSES} addresses with a peer id each")
        if self.genesis is not None and hashlib.sha256(self.genesis).digest() != self.cluster_id:
            raise ValueError("the genesis entry does not have the cluster id")
        try:
            _ = self.founder
        except (LookupError, TypeError, AttributeError):
            raise ValueError("the genesis entry is none") from None


@attrs.frozen
class Wishes:
    """The configuration's wishes, parsed. `bootstrap` tells whether any bootstrap peer is configured."""

    join: JoinToken | None = None
    secret: bytes | None = attrs.field(default=None, repr=False)
    found: bool = False
    bootstrap: bool = False

    @classmethod
    def parse(
        cls, *, join: str | None = None, cluster_secret: str | None = None, found: bool = False, bootstrap: bool = False
    ) -> Wishes:
        """From the texts of `CHORUS_JOIN` and `CHORUS_CLUSTER_SECRET`. Raises `TokenError` or `WeakSecret`."""
        try:
            token = JoinToken.parse(join) if join else None
        except TokenError as error:
            raise TokenError(f"CHORUS_JOIN: {error}") from None
        return cls(
            token,
            parse_secret(cluster_secret, source="CHORUS_CLUSTER_SECRET") if cluster_secret else None,
            found,
            bootstrap,
        )


def found(peer_id: PeerId, secret: bytes, random: Random) -> Membership:
    """A new cluster with this node as its roster."""
    store_id = random(STORE_ID)
    genesis = _genesis(peer_id, store_id, random(NONCE))
    return Membership(store_id, secret, hashlib.sha256(genesis).digest(), genesis)


def _genesis(peer_id: PeerId, store_id: bytes, nonce: bytes) -> bytes:
    return strictjson.canonical(
        {
            "kind": "genesis",
            "version": 1,
            "nonce": nonce.hex(),
            "roster": [{"peer_id": str(peer_id), "store_id": store_id.hex(), "voter": True}],
            "authority": None,
        }
    )


def decide(stored: Membership | None, wishes: Wishes, peer_id: PeerId, random: Random) -> Membership:
    """The founding rule. Raises `ClusterError` where the wishes contradict the store or one another."""
    if stored is not None:
        return _resume(stored, wishes)
    if wishes.found and wishes.join is not None:
        raise ClusterError("CHORUS_FOUND and CHORUS_JOIN are both set: a node founds a cluster or joins one")
    if wishes.join is not None:
        token = wishes.join
        if wishes.secret is not None and wishes.secret != token.secret:
            raise ClusterError("CHORUS_CLUSTER_SECRET differs from the secret in CHORUS_JOIN: unset one of them")
        if token.peer_id == peer_id:
            raise ClusterError("CHORUS_JOIN is this node's own token: a token is for another node")
        return Membership(random(STORE_ID), token.secret, token.cluster_id, contacts=token.dialable())
    if wishes.secret is not None:
        if wishes.found:
            return found(peer_id, wishes.secret, random)
        return Membership(random(STORE_ID), wishes.secret)
    if wishes.bootstrap and not wishes.found:
        raise ClusterError(
            "CHORUS_BOOTSTRAP_PEERS names peers to join and nothing proves membership to them: "
            "set CHORUS_JOIN or CHORUS_CLUSTER_SECRET, or CHORUS_FOUND=1 to found a new cluster here"
        )
    return found(peer_id, random(SECRET), random)


def _resume(stored: Membership, wishes: Wishes) -> Membership:
    known = stored.cluster_id
    if wishes.found and not stored.founded_here:
        raise ClusterError("CHORUS_FOUND is set, but the data directory joined a cluster that another node founded")
    if wishes.join is not None:
        if known is not None and wishes.join.cluster_id != known:
            raise ClusterError(
                f"CHORUS_JOIN is a token of cluster {wishes.join.cluster_id.hex()[:16]}…, but the data directory "
                f"belongs to cluster {known.hex()[:16]}… for life: unset it, or use another CHORUS_DATA_DIR"
            )
        if wishes.secret is not None and wishes.secret != wishes.join.secret:
            raise ClusterError("CHORUS_CLUSTER_SECRET differs from the secret in CHORUS_JOIN: unset one of them")
        token = wishes.join
        return attrs.evolve(stored, secret=token.secret, cluster_id=token.cluster_id, contacts=token.dialable())
    return stored if wishes.secret is None else attrs.evolve(stored, secret=wishes.secret)


def check_open_mode(*, listen_host: str, wishes: Wishes, stored: bool) -> None:
    """Raise `ClusterError` for what open mode refuses."""
    if wishes.join is not None or wishes.secret is not None:
        raise ClusterError("CHORUS_OPEN proves no membership: unset CHORUS_JOIN and CHORUS_CLUSTER_SECRET, or it")
    if wishes.found:
        raise ClusterError("CHORUS_OPEN has no cluster to found: unset CHORUS_FOUND or CHORUS_OPEN")
    if not ipaddress.ip_address(listen_host.partition("%")[0]).is_loopback:
        raise ClusterError(f"CHORUS_OPEN admits anybody, so it listens on loopback alone, not on {listen_host}")
    if stored:
        raise ClusterError("the data directory belongs to a cluster; CHORUS_OPEN needs another CHORUS_DATA_DIR")
