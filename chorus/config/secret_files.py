"""Secrets from files: `CHORUS_X_FILE` and `CHORUS_SECRETS_DIR`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from chorus.errors import UserError

MAX_BYTES = 64 * 1024
"""A secret is a line; anything longer is the wrong file."""
ENGINE_MOUNTS = (Path("/run/secrets"), Path("/var/run/secrets"))
"""Where container engines mount secrets. They are readable by all there, but `all` is this container alone."""


class ConfigError(UserError):
    """A variable is wrong; the text names it."""

    code = "config_error"


def from_file(variable: str, path: Path, *, mounted: bool = False) -> str:
    """The secret in `path`, which `variable` named. Raises `ConfigError` when the file is missing, empty, oversized or
    open to others; `mounted` (implied under `ENGINE_MOUNTS`) allows others to read it, never to write it."""
    try:
        with path.open("rb") as file:
            status = stat.S_IMODE(path.stat().st_mode)
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{variable}: cannot read {path}: {error.strerror}") from None
    mounted = mounted or any(path.absolute().is_relative_to(mount) for mount in ENGINE_MOUNTS)
    forbidden = 0o022 if mounted else 0o077
    if status & forbidden:
        may = "change" if status & 0o022 else "read"
        raise ConfigError(f"{variable}: others may {may} {path} (mode {status:04o}); chmod 600 {path}")
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{variable}: {path} is longer than {MAX_BYTES} bytes; it is not a secret's file")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}: {path} is not text in UTF-8") from None
    if not text:
        raise ConfigError(f"{variable}: {path} is empty; write the secret into it")
    return text


def from_directory(variable: str, directory: Path, name: str) -> str | None:
    """The secret in the file of `directory` that is named like the variable `name`, in capitals or small letters;
    None when there is none. Raises `ConfigError`."""
    if not directory.is_dir():
        raise ConfigError(f"{variable}: {directory} is not a directory; for example {variable}=/run/secrets")
    if not os.access(directory, os.X_OK):
        raise ConfigError(f"{variable}: this user may not look into {directory}")
    for candidate in (directory / name, directory / name.lower()):
        if candidate.exists():
            return from_file(variable, candidate, mounted=True)
    return None
