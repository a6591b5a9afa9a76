"""Namespaces of open mode, for interoperability tests."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.frozen
class Unvalidated:
    """Takes any value; the smallest is the best, and the newest replaces what is held."""

    lifetime_s: float | None = 48 * 3600.0
    variants: int = 1

    def validate(self, key: bytes, value: bytes, now: float) -> None:
        pass

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return min(range(len(values)), key=lambda index: values[index])

    def replaces(self, key: bytes, held: bytes, new: bytes) -> bool:
        return True

    def author(self, key: bytes, value: bytes) -> str | None:
        return None
