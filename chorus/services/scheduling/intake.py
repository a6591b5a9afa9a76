"""Intake of tasks: checks submissions and makes them durable tasks of this node; cancels tasks.

Whoever is answered with an id can rely on it: the input is a blob here, and the entry is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import attrs
from twisted.logger import Logger

from chorus.errors import LocalError, UserError
from chorus.protocols.task_messages import MAX_FRAME
from chorus.services.scheduling.results import MIB
from chorus.tasks import entries, ids
from chorus.tasks.errors import AlreadySubmitted
from chorus.tasks.spec import SpecError, TaskSpec, body_digest
from chorus.tasks.state import State
from chorus.ucxl.address import project_problem

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from chorus.identity import PeerId
    from chorus.seams import JSON, Redactor, Roles
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.services.scheduling.views import Elsewhere
    from chorus.tasks.journal import Entry

MAX_SPEC = MAX_FRAME - 16 * 1024
"""Bytes of a specification in canonical JSON: it must fit in one offer."""
NOT_CLONED = "the repository is not cloned yet: its name only tells the language; give the sources as input"
"""The note in the history of a task that names a repository."""

SUBMIT = "task.submit"
CANCEL = "task.cancel"
"""Actions that `Roles` is asked about; reading needs membership alone (spec/cluster.md, "Authorisation")."""


class Forbidden(UserError):
    """The submitter's role does not allow it."""

    code = "forbidden"
    http_status = 403


class NoRoom(LocalError):
    """This node lacks something that a task needs, such as disk space (`services/execution/headroom.py`)."""

    code = "no_room"
    http_status = 507


@attrs.frozen
class Submissions:
    """The rules and the judges of submissions."""

    redactor: Redactor
    roles: Roles
    random: Callable[[int], bytes]
    """Bytes of a new task's id."""
    blocked_by: Callable[[], tuple[str, str] | None] = lambda: None
    """Why this node takes nothing new, as (reason, one line)."""


@attrs.frozen
class Intake:
    """`elsewhere` has the tasks that other members schedule."""

    _context: SchedulerContext
    _rules: Submissions
    _elsewhere: Elsewhere
    _log = Logger()

    async def submit(self, body: object, submitter: str) -> str:
        """The id of the task that `body` specifies: a new one, or the one submitted before under the same key. Raises
        `Forbidden`, `SpecError`, `NoRoom`, what the machine has against the entry, and what the journal and the blobs
        raise."""
        if not self._rules.roles.may(submitter, SUBMIT):
            raise Forbidden(f"{submitter} may not submit tasks")
        spec = self._parse(body)
        idempotency: tuple[str, str] | None = None
        if spec.idempotency_key is not None:
            idempotency = spec.idempotency_key, body_digest(cast("JSON", body))
            known = self._context.ledger.machine.submitted_before(submitter, *idempotency, self._context.wall())
            if known is not None:
                return known
        # Named before it is looked for, until the task that names it is committed: it cannot be removed in between.
        with self._claimed(spec):
            return await self._accept(await self._with_input(spec), submitter, idempotency)

    def _parse(self, body: object) -> TaskSpec:
        """Raises `SpecError`."""
        spec = without_secrets(TaskSpec.parse(body, self._context.settings.policy), self._rules.redactor)
        if (problem := project_problem(spec.project)) is not None:
            raise SpecError("project", problem)
        return spec

    async def _accept(self, spec: TaskSpec, submitter: str, idempotency: tuple[str, str] | None) -> str:
        size = len(spec.canonical())
        if size > MAX_SPEC:
            raise SpecError("", f"the specification has {size} bytes, at most {MAX_SPEC} fit in an offer")
        task_id = ids.make(self._context.wall(), self._rules.random)
        try:
            await self._context.ledger.append(self._entry(task_id, spec, submitter, idempotency=idempotency))
        except AlreadySubmitted as same:
            return same.task_id
        self._context.counters.submitted += 1
        self._log.info("task {task} accepted", event="task.submitted", task=task_id, submitter=submitter)
        if spec.repository is not None:
            self._context.events.append(task_id, "note", {"text": NOT_CLONED})
        return task_id

    async def take_over(self, task_id: str, body: object, submitter: str, handed_by: PeerId, most: int) -> int:
        """Make a task of another member this node's, under its id and with its input, of at most `most` bytes and no
        more than the task's disk holds. The bytes that were fetched. Raises what `submit` raises, and what keeps the
        input from being fetched from `handed_by`."""
        if not self._rules.roles.may(str(handed_by), SUBMIT):
            raise Forbidden(f"{handed_by} may not submit tasks")
        spec = self._parse(body)
        with self._claimed(spec):
            fetched = 0
            if spec.input is not None and await self._context.blobs.stat(spec.input.digest) is None:
                most = max(0, min(most, spec.limits.disk_mb * MIB))
                await self._context.blobs.fetch(spec.input.digest, most, [handed_by])
                size = ((await self._context.blobs.stat(spec.input.digest)) or {}).get("size")
                fetched = size if isinstance(size, int) else 0
            await self._context.ledger.append(self._entry(task_id, spec, submitter, handed_by=str(handed_by)))
        self._context.counters.submitted += 1
        self._log.info("{task} is taken over from {peer}", event="task.taken_over", task=task_id, peer=handed_by)
        return fetched

    async def cancel(self, task_id: str, by: str, reason: str) -> None:
        """Raises `Forbidden`, `UnknownTask`, `TaskFinished`, and what the member raises that has the task."""
        if not self._rules.roles.may(by, CANCEL):
            raise Forbidden(f"{by} may not cancel tasks")
        task = self._context.ledger.machine.get(task_id)
        reason = self._rules.redactor.redact(reason, context="task.cancel.reason").value
        if task.state is State.MOVED:
            await self._elsewhere.cancel(task, by, reason)
        else:
            await self._context.ledger.append(entries.cancelled(self._context.wall(), task_id, by, reason))

    def _claimed(self, spec: TaskSpec) -> AbstractContextManager[None]:
        """Names its input while this lasts. Raises `NoRoom`."""
        if (blocked := self._rules.blocked_by()) is not None:
            raise NoRoom(f"this node takes no new tasks: {blocked[1]}")
        return self._context.named.claim(() if spec.input is None else (spec.input.digest,))

    def _entry(
        self,
        task_id: str,
        spec: TaskSpec,
        submitter: str,
        *,
        idempotency: tuple[str, str] | None = None,
        handed_by: str | None = None,
    ) -> Entry:
        settings = self._context.settings
        return entries.submitted(
            self._context.wall(),
            task_id,
            spec.to_json(),
            submitter,
            max_attempts=settings.max_attempts,
            idempotency=idempotency,
            idempotency_days=settings.idempotency_days,
            handed_by=handed_by,
        )

    async def _with_input(self, spec: TaskSpec) -> TaskSpec:
        """The specification with its input as a blob that is here, durable."""
        if spec.input is None:
            return spec
        if spec.input.inline is not None:
            await self._context.blobs.put_bytes(spec.input.inline)
            return spec.with_input_blob()
        if await self._context.blobs.stat(spec.input.digest) is None:
            raise SpecError("input.sha256", "names no blob of this node; upload it first with PUT /v1/blobs")
        return spec


def without_secrets(spec: TaskSpec, redactor: Redactor) -> TaskSpec:
    """Take a secret out of what is only read. Raises `SpecError` for one in what runs."""

    def refuse(text: str, field: str) -> None:
        if findings := redactor.redact(text, context=f"task.{field}").findings:
            rules = ", ".join(sorted({finding.rule for finding in findings}))
            raise SpecError(field, f"holds what looks like a secret ({rules}); keep secrets out of tasks")

    for index, item in enumerate(spec.commands):
        refuse(item if isinstance(item, str) else " ".join(item), f"commands[{index}]")
    for name, value in spec.env.items():
        refuse(f"{name}={value}", f"env.{name}")
    for index, path in enumerate(spec.artifacts):
        refuse(path, f"artifacts[{index}]")
    for name in ("repository", "project", "image"):
        refuse(getattr(spec, name) or "", name)
    title = redactor.redact(spec.title, context="task.title")
    description = redactor.redact(spec.description, context="task.description")
    return attrs.evolve(spec, title=title.value, description=description.value)
