"""The metrics of a node's parts (names: spec/system.md 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.services.p2p.admission import AdmissionService

if TYPE_CHECKING:
    from chorus.observe.metrics import Metrics
    from chorus.services.endpoints.node import NodeParts, TaskParts


def register(metrics: Metrics, node: NodeParts) -> None:
    """Register every metric of the parts that `node` has."""
    _network(metrics, node)
    if node.tasks is not None:
        _tasks(metrics, node.tasks)
        _sandbox(metrics, node.tasks)
        _blobs(metrics, node.tasks)


def _network(metrics: Metrics, node: NodeParts) -> None:
    p2p, pubsub, messaging, admission = node.p2p, node.pubsub, node.messaging, node.admission
    metrics.gauge("chorus_peers_connected", "Admitted members connected now.", lambda: len(p2p.connections()))
    metrics.counter(
        "chorus_pubsub_messages_sent_total", "Messages published by this node.", lambda: messaging.counters.sent
    )
    metrics.counter(
        "chorus_pubsub_messages_received_total", "Messages heard and understood.", lambda: messaging.counters.heard
    )
    metrics.counter(
        "chorus_pubsub_messages_refused_total",
        "Messages that were no envelope, in a foreign name, of no member, or not on a topic of their type.",
        lambda: {
            "refused": messaging.counters.refused,
            "foreign": messaging.counters.foreign,
            "stranger": messaging.counters.strangers,
            "misplaced": messaging.counters.misplaced,
        },
        labels=("reason",),
    )
    metrics.counter(
        "chorus_pubsub_messages_unknown_total",
        "Messages of types that this version does not know; they are passed on.",
        lambda: sum(messaging.counters.unknown.values()),
    )
    metrics.counter(
        "chorus_pubsub_events_total", "What the router counts, by name.", pubsub.counters, labels=("event",)
    )
    if isinstance(admission, AdmissionService):
        metrics.counter(
            "chorus_admissions_total", "Admissions by outcome.", lambda: dict(admission.counters), labels=("outcome",)
        )


def _tasks(metrics: Metrics, tasks: TaskParts) -> None:
    coordinator, executor = tasks.coordinator, tasks.executor
    counters = coordinator.counters
    metrics.gauge("chorus_tasks_active", "Tasks running on this node.", lambda: executor.current_tasks)
    metrics.gauge(
        "chorus_tasks_unfinished", "Tasks this node schedules that have not ended.", lambda: coordinator.active
    )
    for name, text in (
        ("submitted", "Tasks accepted."),
        ("completed", "Tasks completed."),
        ("cancelled", "Tasks cancelled."),
        ("reassigned", "Times a task went back to the queue."),
    ):
        metrics.counter(f"chorus_tasks_{name}_total", text, lambda name=name: getattr(counters, name))  # type: ignore[misc]
    metrics.counter(
        "chorus_tasks_failed_total", "Tasks failed.", lambda: dict(counters.failed_by_reason), labels=("reason",)
    )
    metrics.histogram("chorus_task_duration_seconds", "From submission to end.", counters.durations)
    metrics.gauge(
        "chorus_recovery_seconds", "Seconds the last lost task took to run again.", lambda: counters.recovery_last
    )
    metrics.counter("chorus_leases_lost_total", "Leases this agent lost.", lambda: executor.leases_lost)
    metrics.counter(
        "chorus_offers_declined_total", "Offers declined.", lambda: dict(executor.declined), labels=("reason",)
    )


def _sandbox(metrics: Metrics, tasks: TaskParts) -> None:
    sandbox = tasks.sandbox
    metrics.gauge("chorus_sandbox_containers_active", "Sandboxes running now.", lambda: sandbox.active)
    metrics.counter("chorus_sandbox_started_total", "Sandboxes started.", lambda: sandbox.started_total)
    metrics.counter(
        "chorus_sandbox_ended_total", "Sandboxes ended.", lambda: dict(sandbox.ended_total), labels=("reason",)
    )


def _blobs(metrics: Metrics, tasks: TaskParts) -> None:
    blobs = tasks.blobs
    metrics.gauge("chorus_blobs_bytes", "Bytes of blobs kept here.", lambda: blobs.used)
    metrics.counter(
        "chorus_blobs_served_bytes_total", "Bytes of blobs sent to peers.", lambda: blobs.counters.served_bytes
    )
