"""Starts of nodes on the connections of a host: fields of identify, and pushes of it that a record asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from chorus.protocols.stream import Connection
from chorus.services.p2p.link import Link

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.services.starts import Starts


class LinkStarts:
    """Without `starts` (open mode) records are neither sent nor read. `push` sends identify again on a connection."""

    def __init__(self, starts: Starts | None, links: Mapping[Connection, Link], push: Callable[[Link], None]) -> None:
        self._starts = starts
        self._links = links
        self._push = push
        if starts is not None:
            starts.watch(self._show)

    def fields(self, connection: Connection) -> dict[str, bytes | None]:
        """For `identify.with_observed`."""
        if self._starts is None:
            return {}
        link = self._links.get(connection)
        said = None if link is None else link.identification
        theirs = None if said is None else said.start_record
        return {"start": self._starts.record(), "your_start": self._starts.other_of(connection.peer_id, theirs)}

    def received(self, link: Link) -> None:
        """Reads the records of an admitted peer; strangers could make us remember anything."""
        said = link.identification
        if self._starts is None or said is None or link.peer is None or not link.admitted:
            return
        if said.start_record is not None:
            self._starts.received(link.peer, said.start_record)
        if said.your_start_record is not None and said.your_start_record != link.start_answered:
            # Once for each record, or a peer that shows it would get ours again and again.
            link.start_answered = said.your_start_record
            if self._starts.shown(said.your_start_record):
                self._push(link)

    def _show(self, peer: PeerId) -> None:
        for link in list(self._links.values()):
            if link.peer == peer and link.admitted:
                self._push(link)
