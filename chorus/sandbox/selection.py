"""The choice of a job's sandbox (spec/tasks.md, "Sandbox"). Never a bare process."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from chorus.sandbox.contract import Backend, Choice, ImageMissing, Job, SandboxUnavailable
from chorus.sandbox.images import ImageMap
from chorus.sandbox.settings import Mode

ORDER: Mapping[Mode, tuple[str, ...]] = {
    "auto": ("docker", "bubblewrap"),
    "docker": ("docker",),
    "bubblewrap": ("bubblewrap",),
}


@attrs.frozen
class Selection:
    """The backends that a mode may use, and the images that they would need."""

    mode: Mode
    backends: Mapping[str, Backend]
    images: ImageMap

    async def choose(self, job: Job) -> tuple[Backend, Choice]:
        """The first backend that is usable and has what the job needs.

        Raises `ImageMissing` when only the image lacks, else `SandboxUnavailable` with what to install.
        """
        image = self.images.image_for(job.language, job.image)
        problems: list[str] = []
        missing: ImageMissing | None = None
        for name in ORDER[self.mode]:
            backend = self.backends[name]
            problem = await backend.probe()
            if problem is not None:
                problems.append(problem)
            elif not await backend.has_image(job):
                # Without images, an engine is what lacks; the engine's own word on it is better if there is one.
                hint = "bubblewrap has none, it takes a container engine"
                if name == "docker":
                    hint = self.images.how_to_get(image)
                missing = missing or ImageMissing(image, hint)
            else:
                return backend, Choice(name, image if name == "docker" else None)
        raise missing or SandboxUnavailable("no sandbox: " + "; or ".join(problems))
