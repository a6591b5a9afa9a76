"""The demand of a task: everything that decides an agent's answer to its offer, apart from the agent's load (pure).

Two tasks of one demand are taken, or declined for good, by the same agents: what is learnt of one holds for the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from chorus.tasks import languages

if TYPE_CHECKING:
    from chorus.tasks.spec import Required, TaskSpec
    from chorus.tasks.terms import Limits


@attrs.frozen
class Demand:
    """Stands for a specification in `scoring`, of which it has the fields that count there."""

    required: Required
    language: str | None
    image: str | None
    guessed: str | None
    """The language that an agent will guess before it has the input; None where the task names one, or an image."""
    limits: Limits
    has_input: bool
    commands: tuple[str, ...]
    """Not the commands, but whether there are any: `("",)` or nothing."""

    @classmethod
    def of(cls, spec: TaskSpec) -> Demand:
        guessed = None
        if spec.language is None and spec.image is None:
            metadata = [word for word in (spec.repository, spec.project, *spec.required.expertise) if word]
            text = f"{spec.title}\n{spec.description}"
            guessed = languages.detect(metadata=metadata, description=text).language
        commands = ("",) if spec.commands else ()
        return cls(spec.required, spec.language, spec.image, guessed, spec.limits, spec.input is not None, commands)
