"""The codec of the network: the functions of `decode` and `encode` together. (A module, whose functions Python finds
quicker than those of an object.)"""

from __future__ import annotations

from chorus.protocols.gossipsub.decode import decode_message, decode_rpc, lone_message
from chorus.protocols.gossipsub.encode import (
    check_sendable,
    entry_frames,
    forward_frame,
    idontwant_frames,
    ihave_entries,
    ihave_frames,
    iwant_frames,
    mesh_frames,
    message_frame,
    subscription_frames,
)

__all__ = [
    "check_sendable",
    "decode_message",
    "decode_rpc",
    "entry_frames",
    "forward_frame",
    "idontwant_frames",
    "ihave_entries",
    "ihave_frames",
    "iwant_frames",
    "lone_message",
    "mesh_frames",
    "message_frame",
    "subscription_frames",
]
