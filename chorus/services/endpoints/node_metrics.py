"""The metrics of a node's parts (names: spec/system.md 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.services.p2p.admission import AdmissionService

if TYPE_CHECKING:
    from chorus.observe.metrics import Metrics
    from chorus.services.dht.service import DhtService
    from chorus.services.endpoints.node import NodeParts, TaskParts


def register(metrics: Metrics, node: NodeParts) -> None:
    """Register every metric of the parts that `node` has."""
    _network(metrics, node)
    _dht(metrics, node.dht)
    if node.tasks is not None:
        _tasks(metrics, node.tasks)
        _sandbox(metrics, node.tasks)
        _decisions(metrics, node.tasks)


def _network(metrics: Metrics, node: NodeParts) -> None:
    counter, counts, admission = metrics.counter, node.messaging.counters, node.admission
    metrics.gauge("chorus_peers_connected", "Admitted members connected now.", lambda: len(node.p2p.connections()))
    counter("chorus_pubsub_messages_sent_total", "Messages published by this node.", lambda: counts.sent)
    counter("chorus_pubsub_messages_received_total", "Messages heard and understood.", lambda: counts.heard)
    counter(
        "chorus_pubsub_messages_refused_total",
        "Messages that were no envelope, in a foreign name, of no member, or not on a topic of their type.",
        lambda: {
            "refused": counts.refused,
            "foreign": counts.foreign,
            "stranger": counts.strangers,
            "misplaced": counts.misplaced,
        },
        ("reason",),
    )
    counter(
        "chorus_pubsub_messages_unknown_total",
        "Messages of types that this version does not know; they are passed on.",
        lambda: sum(counts.unknown.values()),
    )
    counter("chorus_pubsub_events_total", "What the router counts, by name.", node.pubsub.counters, ("event",))
    if isinstance(admission, AdmissionService):
        counter("chorus_admissions_total", "Admissions by outcome.", lambda: dict(admission.counters), ("outcome",))


def _dht(metrics: Metrics, dht: DhtService) -> None:
    queries = "Queries of this node to the DHT: put, get, holders, provide, providers, by outcome."
    metrics.counter("chorus_dht_queries_total", queries, lambda: dht.queries, ("kind", "outcome"))
    metrics.histogram("chorus_dht_query_seconds", "Duration of those queries.", dht.seconds)
    metrics.gauge("chorus_dht_routing_peers", "Live servers in the routing table.", lambda: len(dht.known))
    metrics.gauge("chorus_dht_records", "Records held here.", lambda: dht.held.rows)


def _tasks(metrics: Metrics, tasks: TaskParts) -> None:
    counter, gauge, coordinator, executor = metrics.counter, metrics.gauge, tasks.coordinator, tasks.executor
    counts = coordinator.counters
    gauge("chorus_tasks_active", "Tasks running on this node.", lambda: executor.current_tasks)
    gauge("chorus_tasks_unfinished", "Tasks this node schedules that have not ended.", lambda: coordinator.active)
    counter("chorus_tasks_submitted_total", "Tasks accepted.", lambda: counts.submitted)
    counter("chorus_tasks_completed_total", "Tasks completed.", lambda: counts.completed)
    counter("chorus_tasks_cancelled_total", "Tasks cancelled.", lambda: counts.cancelled)
    counter("chorus_tasks_reassigned_total", "Times a task went back to the queue.", lambda: counts.reassigned)
    counter("chorus_tasks_failed_total", "Tasks failed.", lambda: dict(counts.failed_by_reason), ("reason",))
    metrics.histogram("chorus_task_duration_seconds", "From submission to end.", counts.durations)
    gauge("chorus_recovery_seconds", "Seconds the last lost task took to run again.", lambda: counts.recovery_last)
    counter("chorus_leases_lost_total", "Leases this agent lost.", lambda: executor.leases_lost)
    counter("chorus_offers_declined_total", "Offers declined.", lambda: dict(executor.declined), ("reason",))


def _decisions(metrics: Metrics, tasks: TaskParts) -> None:
    cache, publisher = tasks.ucxl.cache, tasks.ucxl.publisher
    metrics.counter("chorus_dht_cache_hits_total", "Decisions read from memory.", lambda: cache.hits)
    metrics.counter("chorus_dht_cache_misses_total", "Decisions that were not in memory.", lambda: cache.misses)
    metrics.gauge("chorus_dht_cache_bytes", "Bytes of decisions in memory.", lambda: cache.used)
    metrics.gauge("chorus_decisions_pending", "Decisions that are not safe yet.", lambda: publisher.waiting)
    metrics.counter("chorus_decisions_safe_total", "Decisions made safe by this node.", lambda: publisher.published)
    metrics.histogram("chorus_decision_publish_seconds", "Until a decision was safe.", publisher.durations)


def _sandbox(metrics: Metrics, tasks: TaskParts) -> None:
    counter, gauge, sandbox, blobs = metrics.counter, metrics.gauge, tasks.sandbox, tasks.blobs
    gauge("chorus_sandbox_containers_active", "Sandboxes running now.", lambda: sandbox.active)
    counter("chorus_sandbox_started_total", "Sandboxes started.", lambda: sandbox.started_total)
    counter("chorus_sandbox_ended_total", "Sandboxes ended.", lambda: dict(sandbox.ended_total), ("reason",))
    gauge("chorus_blobs_bytes", "Bytes of blobs kept here.", lambda: blobs.used)
    counter("chorus_blobs_served_bytes_total", "Bytes of blobs sent to peers.", lambda: blobs.counters.served_bytes)
    _replicas(metrics, tasks)


def _replicas(metrics: Metrics, tasks: TaskParts) -> None:
    pushing, looks, counts = tasks.replicas.pushing, tasks.replicas.looks, tasks.blobs.counters
    metrics.counter("chorus_blobs_pushed_total", "Blobs that a peer keeps for this node.", lambda: pushing.pushed)
    metrics.counter(
        "chorus_blobs_pushes_refused_total",
        "Blobs that a peer did not take, by its answer.",
        lambda: dict(pushing.refusals),
        ("reason",),
    )
    metrics.counter("chorus_blobs_kept_total", "Blobs that peers pushed here.", lambda: counts.kept)
    metrics.gauge("chorus_dht_replicas_low", "Blobs kept here that are on too few machines.", lambda: looks.low)
