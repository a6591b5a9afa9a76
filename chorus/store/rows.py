"""JSON columns: written compactly, read back as they were."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from chorus.store.errors import StoreDamaged

if TYPE_CHECKING:
    from chorus.seams import JSON, Document


def dump(value: JSON) -> str:
    """Raises ValueError for NaN and the infinities, TypeError for what is no JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def load(text: str) -> Document:
    """The object of a column. Raises `StoreDamaged` for what `dump` did not write."""
    try:
        return cast("Document", json.loads(text))
    except (ValueError, TypeError, RecursionError) as problem:
        raise StoreDamaged(f"the store is damaged: a row holds no JSON ({problem})") from None
