"""An agent's settings of its sandboxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from chorus.sandbox.images import ImageMap
from chorus.tasks.terms import Limits

Mode = Literal["auto", "docker", "bubblewrap"]


@attrs.frozen
class SandboxSettings:
    mode: Mode = "auto"
    docker_host: str | None = None
    """Address of the engine; None for the usual socket."""
    images: ImageMap = attrs.field(factory=ImageMap)
    warm: Mapping[str, int] = attrs.field(factory=dict)
    """Containers kept ready, by image."""
    defaults: Limits = attrs.field(factory=Limits)
    """Of a task that names none: warm containers are made with them."""
    tmp_mb: int | None = None
    """Size of /tmp; None for the usual one."""
