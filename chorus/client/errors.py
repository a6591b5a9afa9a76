"""Errors of the client command: one line each, and an exit status.

0 done (and the task completed, where one was watched); 1 the task failed or was cancelled, some of what it made is
missing, or the node refused for a reason of its own; 2 the command was used wrongly, or what it names is not there; 3
no node answers; 4 the token is missing or wrong; 130 interrupted; 143 ended by SIGTERM (`chorus simulate`).
"""

from __future__ import annotations

from chorus.errors import UserError

EXIT_TASK_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_NODE = 3
EXIT_UNAUTHORIZED = 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class ClientError(UserError):
    """One line for a person; `exit_status` of the command."""

    code = "client_error"

    def __init__(self, text: str, exit_status: int = EXIT_USAGE) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class NoNode(ClientError):
    """Nothing answers there."""

    code = "no_node"

    def __init__(self, text: str) -> None:
        super().__init__(text, EXIT_NO_NODE)


class Refused(ClientError):
    """The node answered with a problem document."""

    code = "refused"

    def __init__(self, status: int, problem_code: str, text: str, exit_status: int, field: str = "") -> None:
        """`field` is the path of what is wrong in the body, empty where none is at fault."""
        super().__init__(text, exit_status)
        self.status = status
        self.problem_code = problem_code
        self.field = field
