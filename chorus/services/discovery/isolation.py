"""Explains why a node that should have peers has none: the check `peers` and the status member `alone`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from chorus.services.cluster import ClusterService
    from chorus.services.discovery.service import DiscoveryService

NOBODY_TO_JOIN = (
    "this node has a secret, but no cluster and nobody to join: set CHORUS_JOIN or CHORUS_BOOTSTRAP_PEERS, or "
    "CHORUS_FOUND=1 on one node to found the cluster"
)


class Isolation:
    """`cluster` is None in open mode, where nobody is missed. `bootstrap` and `join`: whether the configuration names
    such peers."""

    _log = Logger()

    def __init__(
        self, cluster: ClusterService | None, discovery: DiscoveryService, *, bootstrap: bool, join: bool
    ) -> None:
        self._cluster = cluster
        self._discovery = discovery
        self._bootstrap = bootstrap
        self._join = join

    @property
    def nobody_to_join(self) -> bool:
        """Nothing but another node that finds this one will help."""
        cluster = self._cluster
        return cluster is not None and cluster.cluster_id is None and not (cluster.contacts or self._bootstrap)

    def warn(self) -> None:
        """Log it once, at the start."""
        if self.nobody_to_join:
            self._log.warn("{text}", event="cluster.nobody_to_join", text=NOBODY_TO_JOIN)

    def reason(self) -> str | None:
        """Why nobody is connected, where somebody should be; one line."""
        cluster = self._cluster
        if cluster is None or (cluster.founded_here and not self._bootstrap and not self._join):
            return None
        alone = self._discovery.alone
        return NOBODY_TO_JOIN if alone is not None and self.nobody_to_join else alone
