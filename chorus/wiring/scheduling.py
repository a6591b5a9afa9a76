"""Scheduling tasks: journal, coordinator, placement, bringing results home, and forgetting them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from chorus.seams import MembersMayAll, PassThrough
from chorus.services.handover.following import HandoverContext
from chorus.services.handover.service import Handover
from chorus.services.handover.serving import HandoverServing
from chorus.services.journal import LocalJournal
from chorus.services.scheduling.agents import KnownAgents
from chorus.services.scheduling.collection import Collection
from chorus.services.scheduling.coordinator import CoordinatorService, CoordinatorSettings
from chorus.services.scheduling.events import TaskEvents
from chorus.services.scheduling.placement import Placement
from chorus.services.scheduling.retention import RetentionService
from chorus.services.scheduling.store import StoredEvents
from chorus.tasks.machine import TaskMachine
from chorus.tasks.spec import LimitPolicy
from chorus.wiring.surroundings import task_limits

if TYPE_CHECKING:
    from chorus.protocols.stream import Connection
    from chorus.services.p2p.host import P2PService
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
    handover: Handover
    handover_serving: HandoverServing


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
    handover = Handover(
        HandoverContext(
            host=p2p,
            machine=machine,
            events=events,
            stored=stored,
            append=lambda entry: coordinator.append(entry),  # noqa: PLW0108
            # The coordinator gets its placement after it is made.
            stranded=lambda: coordinator.placement.stranded(),  # noqa: PLW0108
            bring=collection.bring,
            clock=around.reactor,
            wall=around.wall,
        )
    )
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
        hindrance=execution.headroom.blocked_by,
        elsewhere=handover,
        absent=lambda sha256: execution.blobs.path_of(sha256) is None,
    )
    agents = KnownAgents(p2p, messages.presence.view, execution.executor, usable=execution.usable)
    _place(around, messages, execution, coordinator, events, agents)
    journal.watch(coordinator.entry_applied)
    retention = RetentionService(
        machine=machine,
        append=coordinator.append,
        events=events,
        stored_events=stored,
        blobs=execution.blobs,
        named=coordinator.named,
        clock=around.reactor,
        wall=around.wall,
        retention_days=around.settings.retention_days,
        idempotency_days=around.settings.idempotency_days,
    )
    _meet(p2p, execution, coordinator, collection, handover)
    serving = HandoverServing(p2p, coordinator, agents, around.reactor)
    return Scheduling(journal, coordinator, events, collection, retention, handover, serving)


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
    messages: Messages,
    execution: Execution,
    coordinator: CoordinatorService,
    events: TaskEvents,
    agents: KnownAgents,
) -> None:
    """Placement and coordinator know each other; placement looks again whenever an agent says something new."""
    coordinator.placement = Placement(
        scheduler=coordinator,
        streams=execution.streams,
        events=events,
        agents=agents,
        clock=around.reactor,
        wall=around.wall,
    )
    messages.presence.watch(coordinator.placement.agents_changed)


def _meet(
    p2p: P2PService,
    execution: Execution,
    coordinator: CoordinatorService,
    collection: Collection,
    handover: Handover,
) -> None:
    """Who comes is delivered to, and asked for the results it holds; who goes takes no more tasks."""

    def joined(connection: Connection) -> None:
        execution.executor.peer_joined(connection)
        collection.peer_joined(connection.peer_id)
        handover.peer_joined(connection.peer_id)

    p2p.watch_peers(joined, lambda _: coordinator.placement.agents_changed())
