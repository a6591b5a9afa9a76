"""Paths in variables. A `~` reaches us where no shell has expanded it: in unit files, Compose files, `KEY="~/x"`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from chorus.config.secret_files import ConfigError


def path_in(variable: str, text: str, environ: Mapping[str, str]) -> Path:
    """The path that `variable` names, `~` and `~NAME` at its beginning as a shell reads them. Raises `ConfigError`
    where that is nobody's home directory."""
    first, _, rest = text.partition("/")
    if not first.startswith("~"):
        return Path(text)
    home = environ.get("HOME", "") if first == "~" else ""
    if not os.path.isabs(home):
        home = os.path.expanduser(first)
    if not os.path.isabs(home):
        raise ConfigError(f"{variable}: {first[:64]!r} is nobody's home directory; write the whole path (./~… for a ~)")
    return Path(home) / rest
