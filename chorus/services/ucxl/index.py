"""The index of decisions, over the tables of `chorus/store/decisions.py`."""

from __future__ import annotations

from typing import Protocol


class DecisionIndex(Protocol):
    async def newest(self, address: str) -> tuple[int, str] | None: ...
