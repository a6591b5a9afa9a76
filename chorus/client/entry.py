"""The entry point of the script `chorus`: an interrupt during its imports prints no traceback."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from chorus.client.main import main as command

        return command()
    except KeyboardInterrupt:
        print("chorus: interrupted", file=sys.stderr)
        return 130
