"""The same bombs through every decoder of bytes from outside (spec/security.md 2.6).

A decoder that is added belongs into these tables: `test_no_other_decoder` finds those that are not.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import chorus
from chorus import messages, strictjson
from chorus.client import api, task_commands, watch
from chorus.client.errors import ClientError
from chorus.errors import ChorusError
from chorus.identity import Identity, PublicKey
from chorus.multiformats import varint
from chorus.protocols import blobs, handover, identify, peers, task_messages
from chorus.protocols.admission import Exchange
from chorus.protocols.envelope import PeerRecord
from chorus.protocols.gossipsub.decode import decode_message, decode_rpc
from chorus.protocols.gossipsub.sign import Verifier
        "protocols/kad/messages.py",
