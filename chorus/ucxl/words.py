"""Words of decisions, for the search by text. Pure.

A word is a run of letters and digits, in one case and one Unicode form (NFKC).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from chorus.ucxl.record import Decision

MAX_WORDS: Final = 128
"""Words of one decision that it is found by, the first in the order of `searched`: each costs the index 20 bytes."""
MAX_WORD: Final = 64
"""Characters of a word; what follows does not count."""
MAX_SCANNED: Final = 16 * 1024
"""Characters of one member that are looked at."""

_WORD: Final = re.compile(r"[^\W_]+")


def words(texts: Iterable[str], maximum: int) -> tuple[str, ...]:
    """The first distinct words, at most `maximum`."""
    found: dict[str, None] = {}
    for text in texts:
        for match in _WORD.finditer(unicodedata.normalize("NFKC", text[:MAX_SCANNED]).casefold()):
            found[match[0][:MAX_WORD]] = None
            if len(found) == maximum:
                return tuple(found)
    return tuple(found)


def searched(decision: Decision) -> tuple[str, ...]:
    """Words that a decision is found by: of its summary first, then of the names and reasons in it."""
    texts = (
        decision.summary,
        decision.kind,
        *(each.name for each in decision.artifacts),
        *decision.modified_files,
        *(each.name for each in decision.inputs),
        decision.rationale,
        *decision.alternatives,
        *(() if decision.run is None else decision.run.commands),
    )
    # Whoever has the plain content of an artifact finds the decision on it.
    return (*words(texts, MAX_WORDS), *dict.fromkeys(each.sha256 for each in decision.artifacts))
