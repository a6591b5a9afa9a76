"""The inside of every sandbox: folders, users, file systems in memory, and the script of the commands (pure).

The environment of a task is in the script, not in that of the process which runs it: each command's own subshell puts
it in place, after every helper (setpriv, timeout, this shell) has done its work under a fixed one. So no variable that
a task sets has a say in what those look up, load or do.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from chorus.tasks.terms import Limits

INPUT, DATA, OUTPUT, HOME = "/workspace/input", "/workspace/data", "/workspace/output", "/workspace/home"

SCRIPT = "/run/chorus/commands"
"""Where the script lies inside."""

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where helpers are looked up: folders that no task can write."""

HELPER_ENVIRONMENT: Mapping[str, str] = {"PATH": SYSTEM_PATH}
"""The whole environment of every helper, outside and inside."""

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

SHELL_NAMES = frozenset({
    "BASHOPTS", "BASH_VERSINFO", "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "HISTCMD", "LINENO", "OPTIND", "PPID",
    "RANDOM", "SECONDS", "SHELLOPTS", "SRANDOM", "UID",
})  # fmt: skip
"""Variables that one or another shell counts with, or lets nobody set."""

MEMORY_FOLDERS = ("/tmp", "/dev/shm")
"""File systems in memory that a task may fill."""

TMP_MB, SHM_MB = 256, 64
"""Sizes of /tmp and /dev/shm, at most a quarter of the memory limit: they are memory."""

HIDDEN = tuple(
    f"/proc/{name}"
    for name in (
        "asound", "acpi", "bootconfig", "cmdline", "config.gz", "diskstats", "interrupts", "iomem", "ioports",
        "kallsyms", "kcore", "key-users", "keys", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "mdstat",
        "modules", "partitions", "sched_debug", "scsi", "slabinfo", "swaps", "timer_list", "timer_stats",
        "vmallocinfo",
    )
)  # fmt: skip
"""The machine's own affairs: how it was started and built, its disks and drivers. Both backends hide them."""

READ_ONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))
"""The machine's own controls, in both backends. bwrap covers some of them, but not where it runs as root."""

FULL_MARK = ".chorus-full"
"""In the task's home: names the file system in memory that was full when a command failed. It dies with the sandbox,
so only the script can look. A task that forges the mark changes the reason of its own failure, and nothing else."""

# The trap: a shell that cannot make another process, since the task has used them up, ends with a code of its own.
# The fields of `df -P`: seven words of a header, then device, blocks, used, available. Less than a hundredth is full:
# whoever writes in large pieces meets the end a little before it.
ENDED = f"""\
_chorus_ended() {{
    trap "exit $1" EXIT
    (
        for at in {" ".join(MEMORY_FOLDERS)}; do
            set -- $(LC_ALL=C df -Pk "$at")
            [ "$((${{11:-1}} * 100))" -ge "${{9:-0}}" ] || echo "$at" >{HOME}/{FULL_MARK}
        done
    ) 2>/dev/null
    exit "$1"
}}
"""


def tmpfs_mb(limits: Limits, tmp_mb: int | None = None) -> dict[str, int]:
    """File systems in memory that the task may write: MB of each. `tmp_mb` is what the agent's owner wants /tmp to
    have: it may be all of the task's memory, not more."""
    sizes = {path: max(8, min(most, limits.memory_mb // 4)) for path, most in (("/dev/shm", SHM_MB), ("/tmp", TMP_MB))}
    assert sizes.keys() == set(MEMORY_FOLDERS)
    return sizes if tmp_mb is None else {**sizes, "/tmp": min(tmp_mb, max(8, limits.memory_mb))}


def users_files(uid: int) -> dict[str, str]:
    """`passwd` and `group` of a sandbox whose task is `uid` inside."""
    return {
        "passwd": "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
        f"chorus:x:{uid}:{uid}:chorus:{HOME}:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": f"root:x:0:\nchorus:x:{uid}:\nnogroup:x:65534:\n",
    }


def environment(env: Mapping[str, str]) -> dict[str, str]:
    return {**BASE_ENVIRONMENT, **env}


def script(commands: Sequence[Sequence[str]], env: Mapping[str, str] | None = None) -> str:
    """A POSIX shell script that runs each argv in turn, under `env` alone, until one fails, and ends with its exit
    code."""
    lines = [f"cd {DATA} || exit 125", "_chorus_environment() {"]
    lines += [_export(name, value) for name, value in environment(env or {}).items()]
    lines += ["}", ENDED.rstrip()]
    # In a shell of its own, a command that is `exit` or `exec` cannot end the script early.
    lines += [f"( _chorus_environment; {shlex.join(argv)} ) || _chorus_ended $?" for argv in commands if argv]
    return "\n".join(lines) + "\n"


def _export(name: str, value: str) -> str:
    export = f"command export {name}={shlex.quote(value)}"
    # Tried first: what the shell does not take costs that variable, not the shell.
    return f"    ( {export} ) 2>/dev/null && {export}" if name in SHELL_NAMES else f"    {export}"
