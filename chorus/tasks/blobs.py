"""Blobs that a task names: its input, artifacts, whole outputs and publication (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chorus.seams import JSON


def result_blobs(result: Mapping[str, JSON] | None) -> list[tuple[str, int]]:
    """(sha256, size) of everything a result names: artifacts, whole outputs, and the publication of its decision."""
    result = result or {}
    artifacts, output = result.get("artifacts"), result.get("output")
    rows: list[JSON] = list(artifacts) if isinstance(artifacts, list) else []
    if isinstance(output, dict):
        rows += [{**row, "size": row.get("bytes")} for row in output.values() if isinstance(row, dict)]
    rows.append(result.get("publication"))
    found: list[tuple[str, int]] = []
    for row in rows:
        if isinstance(row, dict):
            sha256, size = row.get("sha256"), row.get("size")
            if isinstance(sha256, str) and isinstance(size, int):
                found.append((sha256, size))
    return found


def input_blob(spec: Mapping[str, JSON]) -> str | None:
    """The SHA-256 of the input archive a specification names."""
    given = spec.get("input")
    sha256 = given.get("sha256") if isinstance(given, dict) else None
    return sha256 if isinstance(sha256, str) else None
