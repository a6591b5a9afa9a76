"""Shared by the command lines of the simulator."""

from __future__ import annotations

import argparse
from typing import Final, NoReturn

MANY: Final = 50
"""Seeds in which a kind of fault that never occurs, or a rare branch that none goes through, is a failure of the test
(spec/simulation.md 6)."""


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage above it."""
        self.exit(2, f"{self.prog}: {message}\n")
