"""Limits and times by their values.

Other tests read a constant by its name, so that they hold whatever it is: a nonce that ends elsewhere or a token of any
length would pass them all. Here the numbers of the specifications stand a second time. Whoever changes one on purpose
changes it here too, and looks at what the specification and the pages say of it. Those that a specification gives in so
many words stand in `test_limits_by_value`, with its place.
"""

from __future__ import annotations

from importlib import import_module

from tests.support import PureTestCase

VALUES: dict[str, dict[str, float]] = {
    "client.ucxl.commands": {
        "PAGE": 200,
        "MAX_PAGES": 1000,
        "EXIT_FALSE": 1,
    },
    "http.limits": {
        "MAX_LENGTH_DIGITS": 18,
        "MAX_INLINE_DRAIN": 65536,
        "LINGER_S": 2.0,
        "LINGER_BYTES": 4_194_304,
        "UPLOAD_WINDOW_S": 30.0,
        "UPLOAD_WINDOW_BYTES": 16384,
        "DOWNLOAD_CHUNK": 262_144,
        "HEARTBEAT_S": 15.0,
        "STALL_S": 60.0,
        "MAX_STREAM_BACKLOG": 4_194_304,
        "DEFAULT_PAGE": 50,
    },
    "http.ucxi": {
        "MAX_TEXT": 512,
        "MAX_AFTER": 128,
    },
    "identity": {
        "MAX_RSA_SPKI": 1120,
        "MAX_ECDSA_SPKI": 256,
        "MAX_RSA_EXPONENT": 2**32,
        "MAX_SIGNATURE": 1024,
        "MAX_INLINE_KEY": 42,
        "MAX_PEER_ID_TEXT": 256,
        "LIBP2P_KEY": 114,
    },
    "security.age.files": {
        "MAX_TRIALS": 200,
    },
    "security.age.header": {
        "MAX_HEADER": 65536,
        "MAX_STANZAS": 64,
        "MAX_WORK_FACTOR": 22,
    },
    "security.roles": {
        "MAX_ROLES": 32,
        "MAX_MEMBERS": 1000,
        "MAX_FILE": 1_048_576,
        "MAX_PAST": 64,
        "MAX_SEALED": 8192,
        "MAX_GENESIS": 1024,
        "MAX_DEPTH": 5,
    },
    "security.shamir": {
        "SECRET_BYTES": 32,
        "MAX_SHARES": 16,
        "MAX_CHARACTERS": 1024,
        "MAX_EXPONENT": 6,
    },
    "protocols.keys": {
        "MAX_SHOW": 1024,
    },
    "protocols.ballot.codec": {
        "MAX_FRAME": 16_384,
        "MAX_SHOWN_ROSTERS": 2,
        "MAX_SIGNATURE": 64,
        "MAX_NUMBER": 2**62,
    },
    "protocols.ballot.campaign": {
        "MAX_DELAY_S": 1.0,
    },
    "protocols.ballot.context": {
        "MAX_KNOWN_ROSTERS": 16,
        "MAX_EVIDENCE": 64,
    },
    "protocols.ballot.roster": {
        "MAX_VOTERS": 7,
        "MAX_ROSTER": 4096,
        "REMEMBERED": 64,
        "MIN_LEASE_MS": 200,
        "MAX_LEASE_MS": 60_000,
    },
    "protocols.ballot.score": {
        "MAX_SCORE": 1000,
        "STEP": 50,
        "MAX_WEIGHT": 1000.0,
    },
    "protocols.ballot.tenure": {
        "NONCE_BITS": 62,
    },
    "protocols.ballot.profiles": {
        "RHO": 0.1,
        "EPSILON": 0.05,
        "ROUNDS_A_LEASE": 3,
        "MAX_RANK": 6,
        "REJOIN_RANKS": 3,
        "REJOIN_S": 30.0,
        "WAIT_SLOTS": 3,
        "BETTER_BY": 100,
    },
    "protocols.replication.limits": {
        "MAX_ENTRY": 1_114_112,
        "MAX_BATCH": 131_072,
        "MAX_BATCH_ENTRIES": 512,
        "MAX_FRAME": 1_310_720,
        "MAX_INDEX": 2**53 - 1,
    },
    "protocols.replication.leading": {
        "EMPTY_AFTER": 2,
        "LEFT_AFTER": 5,
    },
    "services.keys.exchange": {
        "ASK_EVERY": 60.0,
        "ASK_TIMEOUT": 30.0,
        "MAX_ASKING": 4,
        "LIAR_S": 60.0,
    },
    "services.keys.files": {
        "MAX_KEY": 256,
        "MAX_KEYRING": 8192,
        "MAX_BACKUP": 4_194_304,
        "FORMER_ROLES": 3,
        "EXIT_CONFIG": 78,
    },
    "services.keys.service": {
        "RESEAL_S": 60.0,
    },
    "messages.clocks": {
        "MAX_CLOCKS": 64,
        "NOTED_S": 600.0,
        "NAMED": 3,
    },
    "messages.decisions": {
        "MAX_LEVELS": 16,
    },
    "messages.envelope": {
        "MAX_DEPTH": 8,
        "MAX_CONTAINERS": 256,
    },
    "fields.members": {
        "MAX_NAME": 128,
        "MAX_ADDRESS": 1024,
        "MAX_TITLE": 256,
        "MAX_TEXT": 2048,
        "MAX_TIME": 2**40,
        "MAX_COUNT": 1_000_000,
        "MAX_SERIAL": 2**53 - 1,
        "MAX_SCORE": 1000,
        "MAX_HOPS": 8,
    },
    "messages.hearing": {
        "MAX_AUTHORS": 16384,
    },
    "messages.rates": {
        "MAX_PEERS": 16384,
        "UNIT": 1024,
        "SHARE_MEMORY": 10.0,
    },
    "messages.topics": {
        "MAX_VARIABLE": 160,
        "MAX_ISSUE": 64,
        "MAX_PROFILE_TOPICS": 32,
        "MAX_JOINED_TOPICS": 32,
    },
    "multiformats.base58": {
        "MAX_TEXT": 1024,
    },
    "multiformats.multiaddr": {
        "MAX_TEXT": 4096,
        "MAX_PARTS": 12,
    },
    "multiformats.multibase": {
        "MAX_TEXT": 1024,
    },
    "multiformats.multihash": {
        "IDENTITY": 0,
        "SHA2_256": 18,
        "MAX_DIGEST": 64,
    },
    "multiformats.varint": {
        "MAX_VALUE": 2**63 - 1,
    },
    "protocols.admission": {
        "PROOF": 32,
        "CLUSTER_ID": 32,
        "FAILURES_FORGOTTEN": 600.0,
        "FAILURES_KEPT": 4096,
    },
    "protocols.blobs": {
        "MAX_REQUEST": 512,
        "MAX_ANSWER": 256,
        "MAX_CHUNKS_A_REQUEST": 64,
        "MAX_CHUNKS": 65536,
        "KEEP_S": 60.0,
        "KEEP_RATE": 262_144,
    },
    "services.blobs.fetch": {
        "MAX_HOLDERS": 8,
        "MAX_ASKED": 16,
    },
    "services.blobs.keeping": {
        "MAX_KEEPS": 4,
        "MAX_KEEPS_PER_PEER": 1,
        "MAX_PINS_PER_PEER": 100_000,
        "KEPT_SHARE": 0.5,
        "DROPPED_S": 86_400.0,
    },
    "services.blobs.looks": {
        "LOOK_S": 3600.0,
        "FIRST_S": 60.0,
        "LEFT_S": 30.0,
    },
    "services.blobs.plaintexts": {
        "PLAIN_S": 86_400.0,
        "PLAIN_SHARE": 0.25,
        "SWEEP_S": 600.0,
    },
    "services.blobs.pushing": {
        "ASK_S": 5.0,
        "MAX_PUSHES": 8,
        "WAIT_S": 30.0,
        "ANSWER_S": 10.0,
    },
    "services.blobs.replicas": {
        "TURN_S": 2.0,
        "MAX_LOOKS": 8,
        "MAX_TRIED": 16,
        "SPARE": 3,
        "SWEEP_S": 3600.0,
    },
    "services.blobs.sealing": {
        "MAX_CHILDREN": 2,
        "DIRECT": 262_144,
        "MAX_KEY": 128,
        "OVERHEAD": 1024,
    },
    "services.blobs.service": {
        "NEARLY_FULL": 0.9,
        "ROOM_AGE_S": 604_800.0,
    },
    "protocols.connection.shell": {
        "READ_SIZE": 131_072,
    },
    "protocols.connection.core": {
        "MAX_KNOWN_OFFERS": 64,
    },
    "protocols.dialing": {
        "DIAL_TIMEOUT": 15.0,
        "PRIVATE_DIAL_TIMEOUT": 5.0,
        "STAGGER": 0.25,
        "MAX_ADDRESSES_PER_DIAL": 32,
        "BACKOFF_BASE": 0.5,
        "BACKOFF_MAX": 30.0,
        "BACKOFF_KEPT": 2048,
        "SIMULTANEOUS_WINDOW": 30.0,
    },
    "protocols.gossipsub.history": {
        "MAX_PUBLISHERS": 65536,
    },
    "protocols.gossipsub.lazy": {
        "USELESS_PER_MISBEHAVIOUR": 100,
    },
    "protocols.gossipsub.meshes": {
        "BACKOFF_SWEEP": 15,
    },
    "protocols.gossipsub.params": {
        "MAX_SENT_RPC": 65536,
        "MAX_MESSAGES": 512,
        "MAX_ID_BYTES": 128,
        "MAX_BACKOFFS": 16384,
        "MAX_PX_RECORD": 2048,
        "MAX_PX_BYTES": 8192,
        "MAX_PENDING": 1024,
        "MAX_PEERS": 4096,
        "MAX_MESH_CONTROL": 200,
        "MAX_PX_GIVEN": 16,
        "MAX_PX_TAKEN": 16,
    },
    "protocols.gossipsub.promises": {
        "MAX_PROMISES": 16384,
    },
    "protocols.gossipsub.queue": {
        "MAX_QUEUE": 4_194_304,
        "MAX_QUEUED_FRAMES": 16384,
    },
    "protocols.gossipsub.decode": {
        "MAX_FIELDS": 2048,
        "MAX_MESSAGE_FIELDS": 32,
        "MAX_PRUNE_FIELDS": 64,
        "MAX_PEER_ID": 64,
    },
    "protocols.gossipsub.rpc": {
        "IDENTITY_MULTIHASH": 0,
    },
    "protocols.gossipsub.score": {
        "REPLAY": 0.1,
        "WITNESSES": 3,
        "SMALL_MESH": 4,
        "GOSSIP_LEFT": 0.9,
        "CHANCE": 1.0,
        "MAX_RETAINED": 4096,
        "UNJUDGED": 120.0,
    },
    "protocols.gossipsub.score_params": {
        "MAX_WINDOW": 60.0,
    },
    "protocols.gossipsub.score_stats": {
        "MAX_RECORDS": 65536,
        "RECORD_TTL": 120.0,
    },
    "protocols.gossipsub.sign": {
        "MAX_SIGNATURE": 1024,
        "KEY_CACHE": 1024,
    },
    "protocols.gossipsub.verified": {
        "MAX_VERIFIED": 8192,
    },
    "protocols.handover": {
        "MAX_FRAME": 2_097_152,
        "MAX_EVENT": 131_072,
        "MAX_PROGRESS": 8192,
        "MAX_DOCUMENT": 1_572_864,
    },
    "protocols.identify": {
        "TIMEOUT": 5.0,
        "MAX_PART_BYTES": 8192,
        "MAX_VERSION_BYTES": 256,
        "MAX_RECORD_BYTES": 8192,
    },
    "protocols.kad.params": {
        "MAX_MESSAGE": 65536,
        "MAX_CONTACTS": 20,
        "MAX_ANNOUNCED": 1,
        "MAX_ADDRESSES": 16,
        "MAX_ADDRESS": 256,
        "MAX_FIELDS": 2048,
        "MAX_REQUEST_FIELDS": 64,
        "MAX_PEER_FIELDS": 128,
        "MAX_TIME_TEXT": 64,
        "LEAST_TELLERS": 3,
        "PROVIDER_ADDRESSES_S": 1800.0,
        "STREAM_IDLE_S": 60.0,
        "MAX_REQUESTS_A_STREAM": 4096,
        "REQUESTS_A_SECOND": 1000.0,
        "REQUESTS_AT_ONCE": 2000,
        "PUT_COST": 5,
        "ANNOUNCE_COST": 2,
        "MAX_FAILURES": 3,
        "MAX_REFRESH_BITS": 12,
        "MAX_TABLE": 4096,
        "MAX_WALK": 400,
        "MAX_SEEN": 2000,
        "MAX_REGION": 160,
        "REGION_CELLS": 8,
        "MAX_REGION_HASHES": 200_000,
        "DENSE": 4.0,
    },
    "protocols.kad.replication": {
        "SWEEP_S": 300.0,
        "REPLICATE_S": 3600.0,
        "SPREAD_S": 600.0,
        "SENDERS": 3,
    },
    "protocols.noise.handshake": {
        "MAX_MUXER_NAME": 256,
    },
    "protocols.noise.xx": {
        "KEY": 32,
        "TAG": 16,
    },
    "protocols.peers": {
        "MAX_RECORD": 2048,
        "MAX_REQUEST": 64,
    },
    "protocols.peerstore": {
        "MAX_PEERS": 4096,
        "ADDRESS_TTL": 900.0,
        "PROVEN_TTL": 86400.0,
    },
    "protocols.perf": {
        "CHUNK": 65536,
        "MAX_INBOUND": 16,
        "TIMEOUT": 60.0,
    },
    "protocols.ping": {
        "SIZE": 32,
        "TIMEOUT": 10.0,
    },
    "protocols.streamio": {
        "DEFAULT_TIMEOUT": 10.0,
        "READ_HIGH_WATER": 65536,
    },
    "protocols.task_messages": {
        "MAX_FRAME": 1_048_576,
        "MAX_OUTPUT": 65536,
        "MAX_ARTIFACTS": 1000,
        "MAX_NOTES": 100,
        "MAX_WORD": 64,
        "MAX_TEXT": 2048,
        "MAX_PROGRESS": 4096,
        "MAX_NUMBER": 2**53 - 1,
        "MAX_PUBLICATION": 4_194_304,
        "MAX_LEASE_S": 3600.0,
    },
    "protocols.tasks": {
        "MAX_PENDING_RENEWALS": 8,
    },
    "protocols.yamux.frames": {
        "DATA": 0,
        "WINDOW_UPDATE": 1,
        "PING": 2,
        "GO_AWAY": 3,
        "SYN": 1,
        "ACK": 2,
        "FIN": 4,
        "RST": 8,
        "GO_AWAY_NORMAL": 0,
        "GO_AWAY_PROTOCOL_ERROR": 1,
        "GO_AWAY_INTERNAL_ERROR": 2,
        "HEADER_SIZE": 12,
        "INITIAL_WINDOW": 262_144,
        "MAX_WINDOW": 2**32 - 1,
        "MAX_STREAM_ID": 2**32 - 1,
    },
    "protocols.yamux.ids": {
        "MAX_GAPS": 256,
    },
    "sanitise": {
        "MAX_SGR": 32,
        "MAX_STRING": 4096,
        "MAX_MARKS": 8,
        "MAX_LINE": 65536,
        "MAX_NAME": 4096,
        "MAX_STYLE": 8,
    },
    "security.jointoken": {
        "CLUSTER_ID": 32,
        "MAX_SECRET": 128,
    },
    "services.dht.held": {
        "CACHE_BYTES": 16_777_216,
        "ENTRY_BYTES": 400,
    },
    "services.dht.keeper": {
        "LOOK_S": 2.0,
        "TIDY_S": 60.0,
        "REFRESH_S": 600.0,
        "REPLICATE_EVERY_S": 10.0,
        "ANNOUNCE_AGAIN_S": 43_200.0,
        "MAX_SWEPT": 500,
        "MAX_PUBLISHED": 100,
        "LEAST_PAGE": 20,
    },
    "services.dht.rpc": {
        "REQUEST_TIMEOUT_S": 2.0,
        "DIAL_TIMEOUT_S": 2.0,
        "IDLE_S": 45.0,
        "MAX_STREAMS": 8,
        "MAX_WAITING": 256,
    },
    "services.dht.servers": {
        "MAX_PROBES": 16,
    },
    "services.dht.service": {
        "FIRST_SERVER_S": 10.0,
        "MAX_CORRECTIONS": 100,
    },
    "services.dht.serving": {
        "MAX_INBOUND": 16,
        "IDLE_LOOK_S": 10.0,
    },
    "services.dht.settings": {
        "QUORUM": 3,
        "REPLICATION": 3,
    },
    "services.dht.walks": {
        "LEAST_WAIT_S": 0.001,
        "WHOLE_S": 600.0,
    },
    "store.dht": {
        "MAX_PROVIDERS_A_PEER": 100_000,
        "MAX_PROVIDERS": 1_000_000,
        "OUTDATED_S": 86_400.0,
    },
    "store.database": {
        "READERS": 2,
    },
    "strictjson": {
        "MAX_DEPTH": 32,
        "MAX_INTEGER": 2**53 - 1,
        "MAX_NUMBER_CHARACTERS": 64,
    },
    "tasks.entries": {
        "IDEMPOTENCY_DAYS": 7.0,
    },
    "tasks.leases": {
        "MAX_DRIFT": 0.01,
        "KILL_S": 2.0,
    },
    "tasks.outcomes": {
        "MAX_ATTEMPTS": 3,
        "MAX_ASSIGNMENTS": 32,
        "BACKOFF_S": 2.0,
        "BACKOFF_LIMIT_S": 60.0,
    },
    "tasks.scoring": {
        "UNKNOWN_SUCCESS": 0.8,
    },
    "tasks.spec": {
        "MAX_TITLE": 256,
        "MAX_DESCRIPTION": 65536,
        "MAX_PROJECT": 128,
        "MAX_REPOSITORY": 2048,
        "MAX_IMAGE": 512,
        "MAX_ARGUMENTS": 1024,
        "MAX_ENV_NAME": 128,
        "MAX_ENV_VALUE": 32768,
        "MAX_ARTIFACT": 512,
        "MAX_ARTIFACT_WILDCARDS": 16,
        "MAX_REQUIRED": 32,
        "MAX_WORD": 64,
        "MAX_AI_NAME": 128,
    },
    "store.decision_texts": {
        "SWEPT": 200,
    },
    "store.decisions": {
        "MAX_INDEXED": 500_000,
        "COUNTED_EVERY": 1024,
        "RARE": 1000,
        "SCANNED": 5000,
    },
    "services.ucxl.reading": {
        "HASH": 64,
    },
    "store.publications": {
        "MAX_DROPPED": 100_000,
    },
    "ucxl.address": {
        "MAX_STEPS": 999_999_999,
        "VERSION_ROOM": 66,
    },
    "ucxl.chain": {
        "MAX_FAULTS": 100,
    },
    "ucxl.documents": {
        "MAX_CONTAINERS": 1,
        "MAX_DEPTH": 5,
        "REMEMBERED": 1024,
    },
    "ucxl.namespaces": {
        "FORKS_KEPT": 2,
    },
    "ucxl.provenance": {
        "MAX_ENVELOPE": 8_388_608,
        "MAX_SIGNATURES": 16,
    },
    "ucxl.query": {
        "MAX_QUERY_WORDS": 8,
    },
    "ucxl.words": {
        "MAX_WORDS": 128,
        "MAX_WORD": 64,
        "MAX_SCANNED": 16384,
    },
    "ucxl.record": {
        "MAX_RECORD": 2_097_152,
        "MAX_SUMMARY": 2048,
        "MAX_RATIONALE": 65536,
        "MAX_ITEMS": 64,
        "MAX_FILES": 1024,
        "MAX_ROWS": 1104,
        "MAX_PATH": 8192,
        "MAX_COMMANDS": 64,
        "MAX_COMMAND": 65536,
    },
    "ucxl.signed": {
        "MAX_SIGNED": 2048,
    },
}


class Values(PureTestCase):
    def test_each_is_what_it_was_decided_to_be(self) -> None:
        for module, values in VALUES.items():
            code = import_module(f"chorus.{module}")
            self.assertEqual({name: getattr(code, name) for name in values}, values, module)
