"""The profile of an agent, and the tasks that it can take (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from chorus.tasks.terms import Limits

if TYPE_CHECKING:
    from chorus.protocols.task_messages import InputBlob
    from chorus.tasks.spec import TaskSpec


@attrs.frozen
class AgentProfile:
    """An agent as it presents itself to others, and as offers to it are judged."""

    agent_id: str
    max_tasks: int = 3
    role: str | None = None
    expertise: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    specialization: str = "general"
    maximum: Limits | None = None
    """The largest limits it runs; None takes whatever was admitted."""
    max_input: int | None = None
    """Bytes of the largest input that it fetches; None for any."""


class OfferDeclined(Exception):
    """The typed refusal of an offer: `reason` is a word for the scheduler, `detail` a line for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def suits(profile: AgentProfile, spec: TaskSpec, given: InputBlob | None = None) -> None:
    """Raises `OfferDeclined` for a task, with the input `given`, that this agent could not run, whatever else it has to
    do."""
    if not spec.commands:
        raise OfferDeclined("no_model", f"{profile.agent_id} has no AI provider to plan the commands")
    required = spec.required
    if required.role is not None and required.role != profile.role:
        raise OfferDeclined("wrong_role", f"{profile.agent_id} is not {required.role}")
    for name in ("expertise", "capabilities"):
        known = {each.lower() for each in getattr(profile, name)}
        missing = [each for each in getattr(required, name) if each.lower() not in known]
        if missing:
            raise OfferDeclined(f"missing_{name}", f"{profile.agent_id} lacks {', '.join(missing)}")
    if given is not None and profile.max_input is not None and given.size > profile.max_input:
        raise OfferDeclined(
            "input_too_large",
            f"{profile.agent_id} takes inputs of at most {profile.max_input >> 20} MiB (CHORUS_MAX_BLOB_MB)",
        )
    if profile.maximum is not None:
        for field in attrs.fields(Limits):
            asked, most = getattr(spec.limits, field.name), getattr(profile.maximum, field.name)
            if asked > most:
                raise OfferDeclined("over_limits", f"{profile.agent_id} gives at most {field.name} {most}, not {asked}")
