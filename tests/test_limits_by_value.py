"""Limits by their values, against the specifications: every other test reads them by name, and would follow them."""

from __future__ import annotations

import importlib

import attrs

from chorus.config.settings import Settings
from chorus.protocols.connection.limits import ConnectionLimits
from chorus.protocols.gossipsub.params import GossipParams
from chorus.protocols.kad.params import KadParams
from chorus.protocols.limits import HostLimits
from chorus.protocols.yamux.frames import YamuxLimits
from chorus.tasks.spec import MINIMUM_LIMITS, WIDEST_LIMITS
from tests.support import PureTestCase

KIB, MIB = 1024, 1024 * 1024

CONSTANTS = (
    # specification, module, name, value
    ("Noise 5.1: 2^64 - 1 is reserved", "protocols.noise.xx", "NONCE_END", 18446744073709551615),
    ("Noise: frames of two bytes of length", "protocols.noise.session", "MAX_FRAME", 65535),
    ("security 1.3", "protocols.noise.handshake", "MAX_HANDSHAKE_FRAME", 8 * KIB),
    ("security 1.3", "protocols.noise.handshake", "MAX_MUXERS", 16),
    ("security 1.3", "identity", "MAX_KEY_PROTOBUF", 4096),
    ("security 1.1: varints of nine bytes", "multiformats.varint", "MAX_BYTES", 9),
    ("security 1.1", "multiformats.multiaddr", "MAX_BYTES", KIB),
    ("security 1.2", "protocols.multistream", "MAX_TOKEN", KIB),
    ("security 1.2", "protocols.multistream", "MAX_PROPOSALS", 16),
    ("security 1.5", "protocols.identify", "MAX_PARTS", 10),
    ("security 1.5", "protocols.identify", "MAX_TOTAL_BYTES", 64 * KIB),
    ("security 1.5", "protocols.identify", "MAX_ADDRESSES", 100),
    ("security 1.5", "protocols.identify", "MAX_PROTOCOLS", 256),
    ("security 1.5", "protocols.identify", "MAX_PROTOCOL_BYTES", 256),
    ("rust-libp2p reads no more", "protocols.identify", "MAX_SENT_BYTES", 4 * KIB),
    ("security 1.5", "protocols.envelope", "MAX_ADDRESSES", 100),
    ("security 1.5", "protocols.envelope", "MAX_ENVELOPE", 32 * KIB),
    ("security 1.6", "protocols.gossipsub.params", "MAX_RPC", MIB),
    ("security 1.6", "protocols.gossipsub.params", "MAX_SUBSCRIPTIONS", 100),
    ("security 1.6", "protocols.gossipsub.params", "MAX_TOPICS_PER_PEER", 100),
    ("security 1.6", "protocols.gossipsub.params", "MAX_TOPIC_BYTES", 256),
    ("security 1.6", "protocols.gossipsub.params", "MAX_CONTROL", 16 * KIB),
    ("security 1.6", "protocols.gossipsub.params", "MAX_BACKOFF", 3600),
    ("security 1.6", "protocols.gossipsub.params", "MAX_PX_PEERS", 16),
    ("security 1.6", "protocols.gossipsub.params", "MAX_PENDING_PER_PEER", 32),
    ("security 1.7", "protocols.kad.params", "MAX_KEY", 80),
    ("security 1.7", "protocols.kad.params", "MAX_VALUE", 10 * KIB),
    ("security 1.7", "protocols.kad.params", "MAX_PROVIDERS", 1024),
    ("security 1.7", "protocols.kad.params", "MAX_GROUP_IN_TABLE", 3),
    ("security 1.7", "protocols.kad.params", "MAX_GROUP_IN_BUCKET", 2),
    ("wire 13: rust reads no more", "protocols.kad.params", "MAX_REPLY", 16 * KIB),
    ("wire 13", "protocols.kad.params", "PROVIDER_S", 172_800.0),
    ("wire 13: rust's number", "services.dht.keeper", "ANNOUNCE_AGAIN_S", 43_200.0),
    ("wire 13", "protocols.kad.replication", "PUBLISH_AGAIN_S", 79_200.0),
    ("security 1.8", "protocols.ping", "MAX_INBOUND", 2),
    ("cluster, admission", "protocols.admission", "TIME_LIMIT", 10.0),
    ("cluster, admission", "services.p2p.gate", "ADMISSION_TIMEOUT", 10.0),
    ("cluster, admission: 128 bits", "protocols.admission", "MIN_SECRET", 16),
    ("cluster, admission: slowed per address", "protocols.admission", "SLOW_MAX", 4.0),
    ("cluster, admission: slowed per address", "protocols.admission", "SLOW_FIRST", 0.25),
    ("cluster, admission", "protocols.admission", "SLOW_AFTER", 3),
    ("cluster, admission", "protocols.admission", "MAX_HELLO", 8 * KIB),
    ("cluster, admission: 128 bits", "security.jointoken", "MIN_SECRET_BITS", 128),
    ("one line", "security.jointoken", "MAX_ADDRESSES", 8),
    ("one line", "security.jointoken", "MAX_ADDRESS_BYTES", 512),
    ("cluster, finding each other", "protocols.peers", "MAX_RECORDS", 32),
    ("cluster, finding each other", "protocols.peers", "MAX_ADDRESSES", 16),
    ("cluster, finding each other", "services.discovery.mdns", "MAX_ADDRESSES", 16),
    ("cluster, finding each other", "services.discovery.bootstrap", "MAX_ADDRESSES", 16),
    ("amendments 41", "protocols.starts", "LIVE_S", 120.0),
    ("tasks, blobs", "protocols.blobs", "CHUNK", 256 * KIB),
    ("ucxl, publishing", "ucxl.signed", "MAX_CIPHERTEXT", 8 * KIB),
    ("ucxl, publishing", "protocols.task_messages", "MAX_PUBLICATION", 4 * MIB),
    ("ucxl, publishing", "ucxl.signed", "MAX_ENCRYPTED", 2 * MIB + 64 * KIB),
    ("ucxl, publishing", "services.ucxl.publishing", "MAX_AT_ONCE", 4),
    ("amendments 27", "services.ucxl.publishing", "COPY_S", 5.0),
    ("ucxl, announcements", "services.ucxl.announced", "MAX_WAITING", 10_000),
    ("ucxl, announcements", "services.ucxl.announced", "PAUSE_S", 0.02),
    ("ucxl, announcements", "services.ucxl.announced", "TRIES", 3),
    ("ucxl, announcements", "services.ucxl.reading", "MAX_LEARNED", 256 * KIB),
    ("ucxl, reading: a stanza a role", "services.ucxl.opening", "MAX_READERS", 33),
    ("ucxl, reading", "services.ucxl.opening", "MAX_AT_ONCE", 2),
    ("ucxl, reading", "services.ucxl.opening", "MAX_CLOSED", 10_000),
    ("ucxl, chains", "services.ucxl.reading", "MAX_STEPS", 10_000),
    ("ucxl, cache", "services.ucxl.service", "CLEAN_S", 300.0),
    ("amendments 32", "services.ucxl.rotation", "REST_S", 3600.0),
    ("amendments 32", "services.ucxl.rotation", "MAX_LEFT", 10_000),
    ("tasks, lease", "tasks.leases", "LEASE_S", 30.0),
    ("tasks, lease", "tasks.leases", "RENEWALS_A_LEASE", 3),
    ("tasks, lease", "tasks.leases", "MAX_LEASE_S", 3600.0),
    ("tasks, lease", "tasks.leases", "MIN_LEASE_S", 3.0),
    ("tasks, specification", "tasks.spec", "MAX_COMMANDS", 64),
    ("tasks, specification", "tasks.spec", "MAX_COMMAND", 64 * KIB),
    ("tasks, specification", "tasks.spec", "MAX_COMMANDS_TOTAL", 256 * KIB),
    ("tasks, specification", "tasks.spec", "MAX_INLINE", 256 * KIB),
    ("tasks, specification", "tasks.spec", "MAX_ENV", 128),
    ("tasks, specification", "tasks.spec", "MAX_ENV_TOTAL", 128 * KIB),
    ("tasks, specification", "tasks.spec", "MAX_ARTIFACTS", 64),
    ("tasks, specification", "tasks.spec", "MAX_DEPENDS_ON", 64),
    ("tasks, specification", "tasks.spec", "MAX_RETRIES", 10),
    ("tasks, specification", "tasks.spec", "MAX_IDEMPOTENCY_KEY", 128),
    ("tasks, specification", "tasks.spec", "MAX_AI_ITERATIONS", 100),
    ("system 2, messages", "fields.members", "MAX_ADDRESSES", 8),
    ("system 2, messages", "fields.members", "MAX_NAMES", 64),
    ("system 2, messages", "messages.envelope", "MAX_MESSAGE", 32 * KIB),
    ("system 2, messages", "messages.rates", "MAX_AGE", 900),
    ("JSON bodies", "strictjson", "MAX_BYTES", MIB),
    ("secret files", "config.secret_files", "MAX_BYTES", 64 * KIB),
    ("the API's token", "http.auth", "MAX_TOKEN_FILE", 4096),
    ("the API's token: 256 bits", "http.auth", "TOKEN_BYTES", 32),
    ("HTTP", "http.limits", "MAX_URI", 2 * KIB),
    ("HTTP", "http.limits", "MAX_HEADERS", 64),
    ("HTTP", "http.limits", "MAX_HEADER_BYTES", 16 * KIB),
    ("HTTP", "http.limits", "MAX_JSON", MIB),
    ("HTTP", "http.limits", "MAX_IGNORED_BODY", 16 * KIB),
    ("HTTP", "http.limits", "MAX_CONNECTIONS", 256),
    ("HTTP", "http.limits", "MAX_NEWCOMERS", 128),
    ("HTTP", "http.limits", "BACKLOG", 64),
    ("HTTP", "http.limits", "HEADERS_S", 10.0),
    ("HTTP", "http.limits", "BODY_S", 60.0),
    ("HTTP", "http.limits", "IDLE_S", 60.0),
    ("HTTP", "http.limits", "MAX_STREAMS", 64),
    ("HTTP", "http.limits", "MAX_UPLOADS", 16),
    ("HTTP", "http.limits", "MAX_DOWNLOADS", 32),
    ("HTTP", "http.limits", "MAX_PAGE", 200),
    ("amendments 42", "services.p2p.listener", "BACKLOG", 48),
    ("the store", "store.database", "MAX_WAITING_WRITES", 10_000),
    ("the store", "store.database", "MAX_WAITING_READS", 10_000),
    ("the store", "store.database", "MAX_GROUP", 512),
    ("the store", "store.database", "LOOK_S", 1.0),
    ("the store", "store.ballast", "SIZE", 6 * MIB),
    ("the store", "store.connection", "WAL_SIZE_LIMIT", 64 * MIB),
    ("blobs", "services.blobs.quarantine", "QUARANTINE_S", 2_592_000.0),
    ("blobs", "services.blobs.files", "MAX_PARTIALS", 16),
    ("the disk", "services.execution.headroom", "DISK_RESERVE", 64 * MIB),
    ("presence", "services.presence", "AVAILABILITY_S", 30.0),
    ("presence", "services.presence", "CAPABILITY_S", 300.0),
    ("presence", "services.presence", "MAX_NODES", 4096),
)

FIELDS = (
    # specification, values, and the fields with what they are
    (
        "security 1.3, 1.8; amendments 42",
        HostLimits(),
        {
            "max_inbound_connections": 128,
            "max_outbound_connections": 192,
            "max_connections_per_peer": 8,
            "max_connections_per_ip": 8,
            "max_connections_per_ip6_site": 64,
            "max_handshakes": 64,
            "max_handshakes_per_ip": 8,
            "max_handshakes_per_private_ip": 48,
            "max_dials": 64,
            "max_dials_per_peer": 8,
            "max_streams": 4096,
            "max_inbound_streams_per_peer": 256,
            "max_buffered": 128 * MIB,
        },
    ),
    (
        "security 1.2 to 1.4",
        ConnectionLimits(),
        {
            "handshake_s": 10.0,
            "negotiation_s": 10.0,
            "keepalive_idle_s": 30.0,
            "keepalive_reply_s": 10.0,
            "linger_s": 30.0,
            "read_stall_s": 30.0,
            "close_s": 5.0,
            "max_pings": 16,
            "ping_s": 10.0,
        },
    ),
    ("security 1.4", YamuxLimits(), {"max_unaccepted": 256, "max_streams": 1024, "max_resets": 200, "period_s": 10}),
    (
        "security 1.6",
        GossipParams(),
        {"max_ihave_length": 5000, "max_ihave_messages": 10, "retransmissions": 3, "idontwant_per_heartbeat": 1000},
    ),
    (
        "wire 13; amendments 26; security 1.7",
        KadParams(),
        {"k": 20, "far": 160, "alpha": 10, "beta": 3, "paths": 3, "quorum": 3, "refresh_s": 600.0, "walk_s": 10.0},
    ),
    (
        "tasks, specification",
        WIDEST_LIMITS,
        {"cpu": 64.0, "memory_mb": 65536, "pids": 4096, "disk_mb": 65536, "timeout_s": 86400.0, "output_mb": 256},
    ),
    (
        "tasks, specification",
        MINIMUM_LIMITS,
        {"cpu": 0.01, "memory_mb": 16, "pids": 4, "disk_mb": 1, "timeout_s": 0.1, "output_mb": 1},
    ),
)


class Values(PureTestCase):
    def test_constants(self) -> None:
        for source, module, name, value in CONSTANTS:
            found = getattr(importlib.import_module(f"chorus.{module}"), name)
            self.assertEqual(found, value, f"{source}: {module}.{name}")

    def test_fields(self) -> None:
        for source, values, expected in FIELDS:
            found = {name: getattr(values, name) for name in expected}
            self.assertEqual(found, expected, source)

    def test_every_limit_of_a_host_and_of_a_connection_is_here(self) -> None:
        for cls, without in ((HostLimits, set()), (ConnectionLimits, {"yamux"})):
            (expected,) = (fields for _, values, fields in FIELDS if type(values) is cls)
            self.assertEqual({field.name for field in attrs.fields(cls)} - without, set(expected))

    def test_defaults_that_stand_twice(self) -> None:
        self.assertEqual(Settings.model_fields["lease_s"].default, 30.0)
        self.assertEqual(Settings.model_fields["max_connections"].default, 192)
