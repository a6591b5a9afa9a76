"""The one source of secret randomness: keys and nonces come from here, or from a stand-in that was passed in."""

from __future__ import annotations

import os
from collections.abc import Callable

RandomBytes = Callable[[int], bytes]

system_random: RandomBytes = os.urandom
"""So many bytes of the operating system's randomness."""
