"""Builds the parts that schedule tasks: journal, coordinator, placement, collection, retention and handover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from chorus.seams import MembersMayAll, PassThrough
from chorus.services.handover.following import HandoverContext
from chorus.services.handover.service import Handover
from chorus.services.handover.serving import HandoverServing
from chorus.services.journal import LocalJournal
from chorus.services.scheduling.agents import KnownAgents
from chorus.services.scheduling.collection import Collection
from chorus.services.scheduling.context import CoordinatorSettings, SchedulerContext
from chorus.services.scheduling.coordinator import CoordinatorService
from chorus.services.scheduling.custodies import Custodies
from chorus.services.scheduling.decisions import TaskDecisions
from chorus.services.scheduling.events import TaskEvents
from chorus.services.scheduling.intake import Intake, Submissions
from chorus.services.scheduling.ledger import Ledger
from chorus.services.scheduling.placement import Placement
from chorus.services.scheduling.retention import RetentionService
from chorus.services.scheduling.store import StoredEvents
from chorus.services.scheduling.subscribers import StateEvents, subscribe
from chorus.services.scheduling.views import TaskViews
from chorus.tasks.spec import LimitPolicy
from chorus.wiring.surroundings import task_limits

if TYPE_CHECKING:
    from chorus.protocols.stream import Connection, Host
    from chorus.seams import Document
    from chorus.services.p2p.host import P2PService
    from chorus.services.scheduling.board import Agent
    from chorus.services.scheduling.context import DecisionCopies
    from chorus.services.task_streams import TaskStreams
    from chorus.wiring.execution import Execution
    from chorus.wiring.messages import Messages
    from chorus.wiring.storage import Storage
    from chorus.wiring.surroundings import Surroundings


@attrs.frozen
class Scheduling:
    coordinator: CoordinatorService
    events: TaskEvents
    collection: Collection
    retention: RetentionService
    handover: Handover
    handover_serving: HandoverServing
    journal: LocalJournal
    decisions: TaskDecisions


def build_scheduling(
    around: Surroundings,
    storage: Storage,
    p2p: P2PService,
    messages: Messages,
    execution: Execution,
    copies: DecisionCopies,
) -> Scheduling:
    """`copies` is the memory."""
    journal = LocalJournal(storage.store.database)
    stored = StoredEvents(storage.store.database)
    context = SchedulerContext(
        ledger=Ledger(journal, journal.machine),
        events=TaskEvents(stored, around.reactor, around.wall, journal.machine.is_over),
        stored=stored,
        blobs=execution.blobs,
        clock=around.reactor,
        wall=around.wall,
        settings=_settings(around),
        copies=copies,
    )
    submissions = Submissions(PassThrough(), MembersMayAll(), around.random_bytes, execution.headroom.blocked_by)
    agents = KnownAgents(p2p, messages.presence.view, execution.executor, usable=execution.usable)
    scheduling = assemble(
        context, journal, p2p, execution.streams, agents, submissions, messages.messaging.announce_task
    )
    messages.presence.watch(scheduling.coordinator.placement.agents_changed)

    def joined(connection: Connection) -> None:
        """A peer that joins gets its deliveries, and is asked for the results that it holds."""
        execution.executor.peer_joined(connection)
        scheduling.collection.peer_joined(connection.peer_id)
        scheduling.handover.peer_joined(connection.peer_id)

    p2p.watch_peers(joined, lambda _: scheduling.coordinator.placement.agents_changed())
    return scheduling


def assemble(
    context: SchedulerContext,
    journal: LocalJournal,
    host: Host,
    streams: TaskStreams,
    agents: Callable[[], Sequence[Agent]],
    submissions: Submissions,
    announce: Callable[[Document], None],
) -> Scheduling:
    """The parts of one scheduler, each above those that it uses, and everybody subscribed to the journal."""
    collection = Collection(context, host.peer_id)
    decisions = TaskDecisions(context)
    custodies = Custodies(context, streams, collection.fetch_result_blobs, decisions)
    placement = Placement(context, custodies, streams, agents)
    state_events = StateEvents(context, placement.agent_id)
    subscribe(context, state_events, placement, custodies, collection, decisions, announce)
    handover = Handover(
        HandoverContext(
            host=host,
            ledger=context.ledger,
            events=context.events,
            stored=context.stored,
            stranded=placement.stranded,
            fetch_result_blobs=collection.fetch_result_blobs,
            clock=context.clock,
            wall=context.wall,
        )
    )
    views = TaskViews(context, custodies, placement, handover, decisions)
    intake = Intake(context, submissions, handover)
    coordinator = CoordinatorService(context, intake, custodies, placement, state_events, views)
    return Scheduling(
        coordinator=coordinator,
        events=context.events,
        collection=collection,
        retention=RetentionService(context),
        handover=handover,
        handover_serving=HandoverServing(host, coordinator, agents, context.clock),
        journal=journal,
        decisions=decisions,
    )


def _settings(around: Surroundings) -> CoordinatorSettings:
    settings = around.settings
    return CoordinatorSettings(
        policy=LimitPolicy(*task_limits(settings)),
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        idempotency_days=settings.idempotency_days,
        retention_days=settings.retention_days,
    )
