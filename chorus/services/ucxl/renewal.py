"""Publications that waited while the roles changed are encrypted anew before they leave (spec/amendments.md 32)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from chorus.services.ucxl.memory import REASON
from chorus.store import publications

if TYPE_CHECKING:
    from chorus.services.ucxl.authoring import DecisionAuthor
    from chorus.services.ucxl.bundle import Publication
    from chorus.services.ucxl.memory import MemoryPorts
    from chorus.services.ucxl.reading import DecisionReader


class PublicationRenewal:
    """For the roles of now, as far as this node may sign: as the author or the founder."""

    def __init__(self, ports: MemoryPorts, reader: DecisionReader, author: DecisionAuthor) -> None:
        self._ports = ports
        self._reader = reader
        self._author = author

    async def current(self, publication: Publication) -> Publication:
        """As it is where its epoch is the newest, where another signs, and where this node reads it no longer: then the
        founder does it later. A new one is durable when this returns. Raises `UnknownRole` and errors of the blobs and
        the store."""
        keyring = self._ports.keyring
        signers = (publication.head.author, str(keyring.founder))
        if publication.version.epoch >= keyring.epoch or str(self._ports.identity.peer_id) not in signers:
            return publication
        decision = (await self._reader.opened(publication)).decision
        if decision is None:
            return publication
        version, ciphertext = await self._author.encrypted(decision)
        renewed = attrs.evolve(publication, signed_version=version.encode(), ciphertext=ciphertext)
        bundle = await self._ports.in_thread(renewed.encode)
        content = bytes.fromhex(publication.content)
        await self._ports.store.write(lambda connection: publications.renew(connection, content, bundle))
        if publication.version.blob:
            await self._ports.replicas.unpin(publication.version.ciphertext, f"{REASON} {publication.content}")
        return renewed
