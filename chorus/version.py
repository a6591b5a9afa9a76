"""The version of this build."""

from __future__ import annotations

import os
from collections.abc import Mapping

from chorus import __version__


def version_line(environ: Mapping[str, str] = os.environ) -> str:
    """`CHORUS-agent 0.5.0 (build: abc123, 2026-11-21)`.

    Images and packages set CHORUS_BUILD_COMMIT and CHORUS_BUILD_DATE; `unknown` where they did not.
    """
    commit = environ.get("CHORUS_BUILD_COMMIT") or "unknown"
    date = environ.get("CHORUS_BUILD_DATE") or "unknown"
    return f"CHORUS-agent {__version__} (build: {commit}, {date})"
