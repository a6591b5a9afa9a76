"""The script that runs a job's commands inside, and the environment it runs in (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

INPUT, DATA, OUTPUT, HOME = "/workspace/input", "/workspace/data", "/workspace/output", "/workspace/home"

SCRIPT = "/run/chorus/commands"
"""Where the script lies inside."""

BASE_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": HOME,
    "USER": "chorus",
    "LOGNAME": "chorus",
    "SHELL": "/bin/sh",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "TMPDIR": "/tmp",
    "CHORUS_INPUT": INPUT,
    "CHORUS_OUTPUT": OUTPUT,
    # Output that waits in a buffer is no live output.
    "PYTHONUNBUFFERED": "1",
}
"""All that is set unless the task sets it: nothing of the agent's own environment goes in."""


def environment(env: Mapping[str, str]) -> dict[str, str]:
    return {**BASE_ENVIRONMENT, **env}


def script(commands: Sequence[Sequence[str]]) -> str:
    """A POSIX shell script that runs each argv in turn until one fails, and ends with its exit code."""
    lines = [f"cd {DATA} || exit 125"]
    # In a shell of its own, a command that is `exit` or `exec` cannot end the script early.
    lines += [f"( {shlex.join(argv)} ) || exit" for argv in commands if argv]
    return "\n".join(lines) + "\n"
