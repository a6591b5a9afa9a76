"""Where the script `chorus` begins: who interrupts it while it is still being imported gets no traceback."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from chorus.client.main import main as command

        return command()
    except KeyboardInterrupt:
        print("chorus: interrupted", file=sys.stderr)
        return 130
