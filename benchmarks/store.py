"""Durable writes a second and their latency, with and without sharing a sync, beside plain SQLite and bare fdatasync.

    python benchmarks/store.py [--dir DIR] [--seconds 3] [--rounds 3]

DIR must be on the disk to be measured. One line of JSON per figure's median over the rounds; every round interleaves
all of them, so that a busy disk is busy for each. Rows are of 1 KiB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor

asyncioreactor.install()  # type: ignore[no-untyped-call]

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred, gatherResults  # noqa: E402

from chorus.services.journal import LocalJournal  # noqa: E402
from chorus.store import meta  # noqa: E402
from chorus.store.database import Database  # noqa: E402
from chorus.tasks import entries, ids  # noqa: E402

VALUE = os.urandom(512).hex()
Figures = dict[str, float]


def percentile(latencies: list[float], part: float) -> float:
    ordered = sorted(latencies)
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1e3, 3)


def summary(name: str, latencies: list[float], seconds: float) -> Figures:
    return {
        f"{name}_per_s": round(len(latencies) / seconds, 1),
        f"{name}_p50_ms": percentile(latencies, 0.5),
        f"{name}_p99_ms": percentile(latencies, 0.99),
    }


def bare_sync(folder: Path, seconds: float) -> Figures:
    """4 KiB appended and synced: what the disk gives."""
    descriptor = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    block, latencies = os.urandom(4096), []
    start = time.perf_counter()
    while (began := time.perf_counter()) - start < seconds:
        os.write(descriptor, block)
        os.fdatasync(descriptor)
        latencies.append(time.perf_counter() - began)
    os.close(descriptor)
    return summary("fdatasync", latencies, time.perf_counter() - start)


def plain_sqlite(folder: Path, seconds: float) -> Figures:
    """One row a transaction on the calling thread, WAL and FULL: what a store without groups would give."""
    connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID")
    latencies = []
    start = time.perf_counter()
    while (began := time.perf_counter()) - start < seconds:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?, ?)", (os.urandom(16).hex(), VALUE))
        connection.execute("COMMIT")
        latencies.append(time.perf_counter() - began)
    connection.close()
    return summary("sqlite_alone", latencies, time.perf_counter() - start)


async def store_writes(store: Database, writers: int, seconds: float) -> Figures:
    """`writers` chains, each waiting for its write before it asks for the next."""
    latencies: list[float] = []
    before = store.counters.commits
    start = time.perf_counter()

    async def chain() -> None:
        while (began := time.perf_counter()) - start < seconds:
            key = os.urandom(16).hex()
            await store.write(lambda connection, key=key: meta.put(connection, key, VALUE))  # type: ignore[misc]
            latencies.append(time.perf_counter() - began)

    await gatherResults([Deferred.fromCoroutine(chain()) for _ in range(writers)])
    taken = time.perf_counter() - start
    commits = max(1, store.counters.commits - before)
    name = f"store_{writers}_writers"
    return summary(name, latencies, taken) | {f"{name}_rows_a_commit": round(len(latencies) / commits, 1)}


async def journal_appends(store: Database, writers: int, seconds: float) -> Figures:
    """Tasks submitted through the journal and applied: the way to a 202."""
    journal = LocalJournal(store)
    await journal.startService()
    spec: dict[str, Any] = {"commands": ["true"], "description": VALUE}
    latencies: list[float] = []
    start = time.perf_counter()

    async def chain() -> None:
        while (began := time.perf_counter()) - start < seconds:
            now = time.time()
            entry = entries.submitted(now, ids.make(now, os.urandom), spec, "benchmark", max_attempts=3)
            await journal.append(entry)
            latencies.append(time.perf_counter() - began)

    await gatherResults([Deferred.fromCoroutine(chain()) for _ in range(writers)])
    taken = time.perf_counter() - start
    await journal.stopService()
    return summary(f"journal_{writers}_submitters", latencies, taken)


async def replay(store: Database) -> Figures:
    """Starting again with what the rounds have left in the journal."""
    journal = LocalJournal(store)
    start = time.perf_counter()
    await journal.startService()
    taken = time.perf_counter() - start
    return {"replay_tasks": float(len(journal.machine)), "replay_tasks_per_s": round(len(journal.machine) / taken)}


async def measure(arguments: argparse.Namespace) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(dir=arguments.dir))
    rounds: list[Figures] = []
    try:
        store = Database(folder / "chorus.db", reactor)  # type: ignore[arg-type]
        await store.open()
        for _ in range(arguments.rounds):
            figures = bare_sync(folder, arguments.seconds) | plain_sqlite(folder, arguments.seconds)
            for writers in (1, 16, 256):
                figures |= await store_writes(store, writers, arguments.seconds)
            figures |= await journal_appends(store, 64, arguments.seconds)
            figures |= await replay(store)
            figures["ratio_256_writers_to_sqlite_alone"] = round(
                figures["store_256_writers_per_s"] / figures["sqlite_alone_per_s"], 2
            )
            rounds.append(figures)
        await store.close()
    finally:
        shutil.rmtree(folder)
    return {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=".")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    def end(result: object) -> None:
        print(json.dumps({"bench": "store", "sqlite": sqlite3.sqlite_version, "result": result}, indent=1, default=str))
        reactor.stop()

    def begin() -> None:
        Deferred.fromCoroutine(measure(arguments)).addBoth(end)

    reactor.callWhenRunning(begin)
    reactor.run()


if __name__ == "__main__":
    main()
