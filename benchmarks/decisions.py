"""Searches in an index of many decisions: latency and processor time of one page, by kind of question.

python -m benchmarks.decisions [--decisions 100000] [--rounds 200]
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import tempfile
import time
from pathlib import Path

from chorus.store import decisions
from chorus.store.connection import migrate, open_reader, open_writer
from chorus.ucxl.address import Address
from chorus.ucxl.query import DecisionQuery
from chorus.ucxl.record import Decision

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "lm", "xo", "q")]
AGENTS, PROJECTS, START, TEXT = 8, 20, 1_800_000_000, 40
EVERY_READABLE = 4
"""Of so many decisions one may not be read here."""


def make(number: int, rng: random.Random) -> Decision:
    """Unsigned: the index verifies nothing. Words as in prose: a few in most texts, most in few."""
    agent, project = f"agent-{number % AGENTS}", f"project-{number % PROJECTS}"
    chosen = [WORDS[min(int(rng.expovariate(0.02)), len(WORDS) - 1)] for _ in range(TEXT)]
    return Decision(
        address=f"ucxl://{agent}:developer@{project}:t-{number // 3}",
        agent=agent,
        peer_id=agent,
        role="developer",
        project=project,
        task=f"t-{number // 3}",
        seq=number % 3 + 1,
        prev=None if number % 3 == 0 else "ab" * 32,
        created=START + number * 7 + rng.randrange(1000),
        kind="task",
        summary=" ".join([*chosen[:12], f"unique{number}"]),
        rationale=" ".join(chosen[12:]),
    )


def fill(connection: sqlite3.Connection, count: int) -> None:
    rng = random.Random(1)
    for first in range(0, count, 500):
        connection.execute("BEGIN IMMEDIATE")
        for number in range(first, min(first + 500, count)):
            made = make(number, rng)
            if number % EVERY_READABLE:
                decisions.record(connection, made)
            else:
                decisions.notice(connection, made.place, made.seq, made.content_hash, made.created)
        connection.execute("COMMIT")


def questions(count: int, rng: random.Random) -> dict[str, DecisionQuery]:
    number = rng.randrange(count)
    when = START + number * 7
    pattern = Address.parse(f"ucxl://any:developer@project-{number % PROJECTS}:any")
    return {
        "all, newest": DecisionQuery(),
        "project": DecisionQuery.of(pattern),
        "task": DecisionQuery(task=f"t-{number // 3}"),
        "agent, time range": DecisionQuery(agent=f"agent-{number % AGENTS}", since=when, until=when + 100_000),
        "unknown role": DecisionQuery(role="nobody"),
        "unknown path": DecisionQuery(path="nowhere"),
        "rare word": DecisionQuery.of(None, f"unique{number}"),
        "common word": DecisionQuery.of(None, WORDS[0]),
        "two common words": DecisionQuery.of(None, f"{WORDS[1]} {WORDS[2]}"),
        "three uncommon words": DecisionQuery.of(None, " ".join(rng.sample(WORDS[60:160], 3))),
        "word and project": DecisionQuery.of(pattern, rng.choice(WORDS[:100])),
        "word, role and range": DecisionQuery.of(pattern, rng.choice(WORDS[:100]), since=when, until=when + 100_000),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chorus.db"
        writer = open_writer(path)
        migrate(writer, path)
        # Filling is not what is measured.
        writer.execute("PRAGMA synchronous = OFF")
        writer.execute("PRAGMA cache_size = -200000")
        began = time.perf_counter()
        fill(writer, options.decisions)
        took = time.perf_counter() - began
        size = path.stat().st_size / 2**20
        print(f"{options.decisions} decisions indexed in {took:.0f} s, {took / options.decisions * 1e6:.0f} us each")
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        print(f"database of {path.stat().st_size / 2**20:.0f} MiB (with the log before: {size:.0f})")
        reader = open_reader(path)
        rng = random.Random(2)
        times: dict[str, list[float]] = {}
        processor: dict[str, list[float]] = {}
        found: dict[str, int] = {}
        for _ in range(options.rounds):
            for name, query in questions(options.decisions, rng).items():
                began, used = time.perf_counter(), time.thread_time()
                page = decisions.search(reader, query, 50)
                processor.setdefault(name, []).append(time.thread_time() - used)
                times.setdefault(name, []).append(time.perf_counter() - began)
                found[name] = found.get(name, 0) + len(page.decisions)
        report(times, processor, {name: count / options.rounds for name, count in found.items()})


def report(times: dict[str, list[float]], processor: dict[str, list[float]], found: dict[str, float]) -> None:
    print(f"{'question':24}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}{'cpu p95':>9}{'found':>8}")
    for name in [*times, "all"]:
        wall, used = (
            sorted(each for key, all_of in kind.items() if name in (key, "all") for each in all_of)
            for kind in (times, processor)
        )
        at = int(len(wall) * 0.95)
        columns = (wall[len(wall) // 2], wall[at], wall[-1], used[at])
        figures = "".join(f"{each * 1e3:9.2f}" for each in columns)
        print(f"{name:24}{figures}{found.get(name, sum(found.values()) / len(found)):8.1f}")


if __name__ == "__main__":
    main()
