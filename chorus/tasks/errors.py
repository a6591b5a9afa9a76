"""Why the task machine refuses an entry. The ones a user can cause are `UserError`s with their HTTP status."""

from __future__ import annotations

from chorus.errors import ChorusError, UserError


class IllegalEntry(ChorusError):
    """An entry that may not be appended now; in a journal it changes nothing, on every replica alike."""

    code = "illegal_entry"


class IllegalTransition(IllegalEntry):
    """The task is not in a state from which this may happen."""

    code = "illegal_transition"


class StaleFence(IllegalTransition):
    """The entry speaks for an owner that the task no longer has."""

    code = "stale_fence"


class UnknownTask(IllegalEntry, UserError):
    code = "unknown_task"
    http_status = 404

    def __init__(self, task_id: str) -> None:
        super().__init__(f"there is no task {task_id}")


class TaskFinished(IllegalTransition, UserError):
    """Terminal states never change."""

    code = "task_finished"
    http_status = 409

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(f"task {task_id} is already {state}")


class UnknownDependency(IllegalEntry, UserError):
    code = "unknown_dependency"
    http_status = 422

    def __init__(self, task_id: str, dependency: str) -> None:
        super().__init__(f"depends_on names {dependency}, and there is no such task")


class DependencyCycle(IllegalEntry, UserError):
    code = "dependency_cycle"
    http_status = 409

    def __init__(self, cycle: tuple[str, ...]) -> None:
        super().__init__(f"depends_on would close a circle: {' -> '.join(cycle)}")
        self.cycle = cycle


class IdempotencyConflict(IllegalEntry, UserError):
    """The idempotency key was used for another body."""

    code = "idempotency_conflict"
    http_status = 409

    def __init__(self, key: str, task_id: str) -> None:
        super().__init__(f"idempotency key {key} was used for task {task_id} with another body")
        self.task_id = task_id


class AlreadySubmitted(IllegalEntry):
    """The idempotency key was used for the same body: the answer is that task."""

    code = "already_submitted"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"the same submission is task {task_id}")
        self.task_id = task_id
