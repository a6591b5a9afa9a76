"""Scheduling tasks: journal, coordinator, placement, bringing results home, and forgetting them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from chorus.seams import MembersMayAll, PassThrough
from chorus.services.agents import KnownAgents
from chorus.services.collection import Collection
from chorus.services.coordinator import CoordinatorService, CoordinatorSettings
from chorus.services.journal import LocalJournal
from chorus.services.placement import Placement
from chorus.services.retention import RetentionService
from chorus.services.task_events import TaskEvents
from chorus.services.task_store import StoredEvents
from chorus.tasks.machine import TaskMachine
from chorus.tasks.spec import LimitPolicy
from chorus.wiring.task_limits import task_limits

if TYPE_CHECKING:
    from chorus.protocols.stream import Connection
    from chorus.services.p2p import P2PService
    from chorus.wiring.execution import Execution
    from chorus.wiring.messages import Messages
    from chorus.wiring.storage import Storage
    from chorus.wiring.surroundings import Surroundings


@attrs.frozen
class Scheduling:
    journal: LocalJournal
    coordinator: CoordinatorService
    events: TaskEvents
    collection: Collection
    retention: RetentionService


def build_scheduling(
    around: Surroundings, storage: Storage, p2p: P2PService, messages: Messages, execution: Execution
) -> Scheduling:
    database = storage.store.database
    journal = LocalJournal(database)
    machine = TaskMachine(journal.fence_of)
    journal.attach(machine)
    stored = StoredEvents(database)
    coordinator: CoordinatorService

    def settled(task_id: str) -> bool:
        return coordinator.is_settled(task_id)

    events = TaskEvents(stored, around.reactor, around.wall, settled)
    collection = Collection(machine, execution.blobs, p2p.peer_id, around.reactor)
    coordinator = CoordinatorService(
        journal=journal,
        machine=machine,
        events=events,
        stored_events=stored,
        streams=execution.streams,
        blobs=execution.blobs,
        redactor=PassThrough(),
        roles=MembersMayAll(),
        clock=around.reactor,
        wall=around.wall,
        random=around.random_bytes,
        settings=_coordinator_settings(around),
        announce=messages.messaging.announce_task,
        result_known=collection.result_known,
        bring=collection.bring,
        absent=lambda sha256: execution.blobs.path_of(sha256) is None,
    )
    _place(around, p2p, messages, execution, coordinator, events)
    journal.watch(coordinator.entry_applied)
    retention = RetentionService(
        machine=machine,
        append=coordinator.append,
        events=events,
        stored_events=stored,
        blobs=execution.blobs,
        clock=around.reactor,
        wall=around.wall,
        retention_days=around.settings.retention_days,
        idempotency_days=around.settings.idempotency_days,
    )
    _meet(p2p, execution, coordinator, collection)
    return Scheduling(journal, coordinator, events, collection, retention)


def _coordinator_settings(around: Surroundings) -> CoordinatorSettings:
    settings = around.settings
    return CoordinatorSettings(
        policy=LimitPolicy(*task_limits(settings)),
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        idempotency_days=settings.idempotency_days,
    )


def _place(
    around: Surroundings,
    p2p: P2PService,
    messages: Messages,
    execution: Execution,
    coordinator: CoordinatorService,
    events: TaskEvents,
) -> None:
    """Placement and coordinator know each other; placement looks again whenever an agent says something new."""
    view = messages.presence.view
    coordinator.placement = Placement(
        scheduler=coordinator,
        streams=execution.streams,
        events=events,
        agents=KnownAgents(p2p, view, execution.executor, usable=execution.usable),
        clock=around.reactor,
        wall=around.wall,
    )
    messages.presence.watch(coordinator.placement.agents_changed)


def _meet(p2p: P2PService, execution: Execution, coordinator: CoordinatorService, collection: Collection) -> None:
    """Who comes is delivered to, and asked for the results it holds; who goes takes no more tasks."""

    def joined(connection: Connection) -> None:
        execution.executor.peer_joined(connection)
        collection.peer_joined(connection.peer_id)

    p2p.watch_peers(joined, lambda _: coordinator.placement.agents_changed())
