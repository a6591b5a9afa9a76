"""Settings of a node's part in the DHT."""

from __future__ import annotations

from typing import Literal

import attrs

from chorus.store.dht import Quotas

Mode = Literal["auto", "server", "client"]

QUORUM = 3
"""Valid answers that a get waits for, or all holders where there are fewer."""
REPLICATION = 3


@attrs.frozen
class DhtSettings:
    enabled: bool = True
    """False: nobody is asked and nobody is answered; records stay here."""
    mode: Mode = "auto"
    prefix: str = "/chorus"
    replication: int = REPLICATION
    """Holders that make a record safe; it is put to all of the closest servers."""
    quotas: Quotas = attrs.field(factory=Quotas)
    quorum: int = QUORUM
    holders: int | None = None
    """Servers that a put is sent to, for benchmarks; None: the 20 closest."""
    ask_others: bool = False
    """A get passes over this node's own records, for benchmarks."""
