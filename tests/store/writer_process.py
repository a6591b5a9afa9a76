"""A process that writes to a store and says what was acknowledged, one line each; for tests that kill or starve it.

writer_process.py PATH kill             write until killed, 64 at a time
writer_process.py PATH starve LIMIT     write under a limit of LIMIT bytes a file until refused, lift it, go on
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from twisted.internet import asyncioreactor

asyncioreactor.install()

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402
from twisted.python.failure import Failure  # noqa: E402

from chorus.store import meta  # noqa: E402
from chorus.store.database import Database  # noqa: E402
from chorus.store.errors import StoreUnavailable  # noqa: E402


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def acknowledged(store: Database, key: str) -> bool:
    try:
        await store.write(lambda connection: meta.put(connection, key, "x" * 2000))
    except StoreUnavailable as problem:
        say(f"refused {key} {problem.code}")
        return False
    say(f"acknowledged {key}")
    return True


async def until_killed(store: Database) -> None:
    async def chain(name: int) -> None:
        number = 0
        while True:
            await acknowledged(store, f"{name}-{number}")
            number += 1

    for name in range(64):
        Deferred.fromCoroutine(chain(name)).addErrback(lambda reason: say(f"error {reason}"))
    await Deferred()


async def starved(store: Database, limit: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    number = refusals = 0
    # One refusal is not the end: what the log holds then moves to the database's own file, which has room left.
    while refusals < 5:
        refusals = 0 if await acknowledged(store, str(number)) else refusals + 1
        number += 1
    say(f"available {store.available}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await acknowledged(store, "after")
    say(f"available {store.available}")


async def main() -> None:
    store = Database(Path(sys.argv[1]), reactor)  # type: ignore[arg-type]
    await store.open()
    if sys.argv[2] == "kill":
        await until_killed(store)
    else:
        await starved(store, int(sys.argv[3]))
    await store.close()


def end(result: object) -> None:
    if isinstance(result, Failure):
        say(f"error {result}")
    reactor.stop()  # type: ignore[attr-defined]


reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()).addBoth(end))  # type: ignore[attr-defined]
reactor.run()  # type: ignore[attr-defined]
