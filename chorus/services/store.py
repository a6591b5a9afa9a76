"""The node's database as a service: opened before every part that writes to it, closed after them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twisted.application.service import Service

from chorus.store.database import Database

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorFromThreads

FILE_NAME = "chorus.db"


class StoreService(Service):
    """Opens and closes `database`, the file at `path`. `startService` fails with `StoreRefused` or `StoreUnavailable`.
    `expected`: see `Database`."""

    name = "store"

    def __init__(self, path: Path, reactor: IReactorFromThreads, *, expected: bool = False) -> None:
        self.database = Database(path, reactor, expected=expected)

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return self.database.open()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return self.database.close()
