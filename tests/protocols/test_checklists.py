"""Lines of the checklists (spec/security.md 1) that no protocol's own tests hold."""

from __future__ import annotations

from chorus.identity import MAX_KEY_PROTOBUF
from chorus.protocols import identify, multistream, ping
from chorus.protocols.connection.limits import ConnectionLimits
from chorus.protocols.gossipsub import params as gossip_params
from chorus.protocols.limits import HostLimits
from chorus.protocols.multistream import MultistreamListener, TooManyProposals
from chorus.protocols.noise import handshake as noise
from chorus.protocols.noise.session import MAX_FRAME
from tests.support import PureTestCase

MIB = 1024 * 1024


class Numbers(PureTestCase):
    def test_defaults_are_within_the_checklists(self) -> None:
        """The named defaults are those of the checklists, or stricter, and not so strict that nothing works."""
        host, connection = HostLimits(), ConnectionLimits()
        muxer, gossip = connection.yamux, gossip_params.GossipParams()
        for name, value, most in (
            ("1.2 token", multistream.MAX_TOKEN, 1024),
            ("1.2 proposals", multistream.MAX_PROPOSALS, 16),
            ("1.2 seconds", connection.negotiation_s, 10),
            ("1.3 seconds", connection.handshake_s, 10),
            ("1.3 frame", MAX_FRAME, 65535),
            ("1.3 frame of the handshake", noise.MAX_HANDSHAKE_FRAME, 65535),
            ("1.3 key", MAX_KEY_PROTOBUF, 4096),
            ("1.3 handshakes", host.max_handshakes, 64),
            ("1.3 handshakes of an address", host.max_handshakes_per_ip, 8),
            ("1.4 unaccepted streams", muxer.max_unaccepted, 256),
            ("1.4 streams of a connection", muxer.max_streams, 1024),
            ("1.4 opened and reset", muxer.max_resets, 200),
            ("1.4 their period", muxer.period_s, 10),
            ("1.5 parts", identify.MAX_PARTS, 10),
            ("1.5 bytes", identify.MAX_TOTAL_BYTES, 64 * 1024),
            ("1.5 addresses", identify.MAX_ADDRESSES, 100),
            ("1.5 protocols", identify.MAX_PROTOCOLS, 256),
            ("1.5 length of a protocol", identify.MAX_PROTOCOL_BYTES, 256),
            ("1.6 RPC", gossip_params.MAX_RPC, MIB),
            ("1.6 subscriptions of an RPC", gossip_params.MAX_SUBSCRIPTIONS, 100),
            ("1.6 topics of a peer", gossip_params.MAX_TOPICS_PER_PEER, 100),
            ("1.6 topic", gossip_params.MAX_TOPIC_BYTES, 256),
            ("1.6 control of an RPC", gossip_params.MAX_CONTROL, 16 * 1024),
            ("1.6 IHAVE ids of a heartbeat", gossip.max_ihave_length, 5000),
            ("1.6 IHAVE messages of a heartbeat", gossip.max_ihave_messages, 10),
            ("1.6 answers to IWANT", gossip.retransmissions, 3),
            ("1.6 IDONTWANT", gossip.idontwant_per_heartbeat, 1000),
            ("1.6 backoff", gossip_params.MAX_BACKOFF, 3600),
            ("1.6 peers of a PRUNE", gossip_params.MAX_PX_PEERS, 16),
            ("1.6 validation queue of a peer", gossip_params.MAX_PENDING_PER_PEER, 32),
            ("1.8 inbound connections", host.max_inbound_connections, 64 + 128),
            ("1.8 connections of a peer", host.max_connections_per_peer, 8),
            ("1.8 connections of an address", host.max_connections_per_ip, 8),
            ("1.8 connections of a /48", host.max_connections_per_ip6_site, 64),
            ("1.8 streams of a peer", host.max_inbound_streams_per_peer, 256),
            ("1.8 streams", host.max_streams, 1024 + 4 * 1024),
            ("1.8 memory", host.max_buffered, 128 * MIB),
            ("1.8 memory of a connection", muxer.receive_budget + muxer.send_budget, 32 * MIB),
            ("1.8 pings of a peer", ping.MAX_INBOUND, 2),
        ):
            self.assertLessEqual(value, most, name)
            # A figure that has shrunk to a hundredth is a mistake, and no stricter limit.
            self.assertGreaterEqual(value, most / 100, name)


class Refusals(PureTestCase):
    def test_a_refusal_costs_no_more_than_the_offer(self) -> None:
        """But for names of a single byte: `na` has two."""
        for name in ("/a", "ls", "/" + "x" * 1000):
            listener = MultistreamListener(lambda protocol: False)
            came = went = 0
            try:
                for _ in range(multistream.MAX_PROPOSALS + 1):
                    offer = multistream.encode_message(name)
                    if not came:
                        offer = multistream.HEADER + offer
                    listener.receive_data(offer)
                    came += len(offer)
                    went += len(listener.data_to_send())
            except TooManyProposals:
                pass
            else:
                self.fail("proposals without end")
            self.assertLessEqual(went, came)
