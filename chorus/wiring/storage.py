"""Builds the threads for file work, and the database."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from chorus.services.cluster import STATE
from chorus.services.store import FILE_NAME, StoreService
from chorus.wiring.surroundings import Surroundings

THREADS = 8
"""Of the pool for file work: archives, result spools, blobs."""


@attrs.frozen
class Storage:
    pool: ThreadPool
    in_thread: Any
    """`services.execution.output.InThread`, on `pool`."""
    store: StoreService


def build_storage(context: Surroundings) -> Storage:
    pool = ThreadPool(1, THREADS, "chorus-files")
    # cluster.json is written once the node listens, after the store was opened for the first time.
    expected = (context.path / STATE).exists()
    return Storage(
        pool=pool,
        in_thread=partial(deferToThreadPool, context.reactor, pool),
        store=StoreService(context.path / FILE_NAME, context.reactor, expected=expected),
    )
