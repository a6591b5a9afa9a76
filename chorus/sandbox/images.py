"""The image that serves a language (pure; spec/system.md 10.2)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from chorus.tasks.languages import BASE, LANGUAGES


@attrs.frozen
class ImageMap:
    """Language to image. `overrides` come from the configuration (`lang=image`); `registry` is put before the names of
    the default map only, since an override already says where it comes from."""

    overrides: Mapping[str, str] = attrs.field(factory=dict)
    registry: str = ""

    def image_for(self, language: str, asked: str | None = None) -> str:
        """The one that the task asked for, else the override, else `chorus-{language}-dev`."""
        if asked:
            return asked
        if override := self.overrides.get(language):
            return override
        known = language if language in LANGUAGES else BASE
        prefix = f"{self.registry.rstrip('/')}/" if self.registry else ""
        return f"{prefix}chorus-{known}-dev"

    def how_to_get(self, image: str) -> str:
        """Says in one phrase how to get a missing image."""
        leaf = image.rsplit("/", 1)[-1].partition("@")[0].partition(":")[0]
        for language in LANGUAGES:
            if leaf == f"chorus-{language}-dev" and not self.registry:
                return f"build it with deploy/images/build {language}"
        return f"load it into the engine (docker pull {image}, or docker load)"
