"""The specification of a container, and of what runs in it (pure). Defaults: spec/tasks.md, "Sandbox"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from chorus.sandbox.commands import (
    DATA,
    HIDDEN,
    HOME,
    INPUT,
    OUTPUT,
    READ_ONLY,
    SCRIPT,
    SYSTEM_PATH,
    environment,
    tmpfs_mb,
    users_files,
)
from chorus.sandbox.contract import Job
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.uids import PUMP_UID
from chorus.sandbox.verdict import FLOOD_FACTOR, GRACE_S
from chorus.tasks.terms import Limits

FIRST_UID = 1000
"""Of every task of a root agent of an earlier version; a container of its may still be there to be taken over."""

IO = "/run/chorus-io"
"""The pipes between the task and the pump: memory of the container."""

CONTROL = "/run/chorus"

LABEL_TASK, LABEL_FENCE, LABEL_AGENT, LABEL_IMAGE = "chorus.task", "chorus.fence", "chorus.agent", "chorus.image"
LABEL_BOX = "chorus.box"
"""Where the container's folder lies on the host."""
LABEL_WARM = "chorus.warm"
"""A container of the warm pool; what it was given to afterwards is written in its box, since labels cannot change."""

LOG_BYTES = "1m"
"""Cap of the container's own log; the task's output does not go there."""

NOFILE = 4096

MASKED = (
    *HIDDEN,
    # Where the engine's disks are, and the files behind the tasks' own.
    *("/sys/block", "/sys/class/block", "/sys/dev/block", "/sys/devices/virtual/block"),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
"""In place of the engine's own list, which it holds. What is not there is passed over."""

# The container's first process, as the pump's user: one pump a stream. `dd` writes each read at once; the file size
# limit ends it exactly at the cap; what comes after is counted and thrown away. Units of `ulimit -f` are 512 bytes.
PUMP = f"""\
umask 022
cd {IO} && mkfifo -m 622 stdout stderr || exit 1
pump() {{
    exec 3<"$1"
    read -r blocks flood <{CONTROL}/cap
    ( ulimit -f "$blocks"; exec dd bs=65536 "of={CONTROL}/out/$1" status=none <&3 ) && return
    : >"{CONTROL}/out/$1.cut"
    [ "$(head -c "$flood" <&3 | wc -c)" -lt "$flood" ] || : >"{CONTROL}/out/$1.flood"
}}
pump stdout & pump stderr &
: >{CONTROL}/out/ready
wait
: >{CONTROL}/out/drained
exec sleep 2147483647
"""


@attrs.frozen
class Users:
    """uid:gid of the task's commands and of the pump."""

    task: tuple[int, int]
    pump: tuple[int, int]
    owner: tuple[int, int] | None
    """The owner to give the task's files on the host to; None when they already have it."""

    @classmethod
    def of_agent(cls, uid: int, gid: int, task: int = FIRST_UID) -> Users:
        """A root agent gives each its own user, and each task another. Another agent cannot change owners: both are
        itself."""
        if uid == 0:
            return cls((task, task), (PUMP_UID, PUMP_UID), (task, task))
        return cls((uid, gid), (uid, gid), None)

    @property
    def files(self) -> dict[str, str]:
        """`passwd` and `group` of the container: an image knows none of a root agent's users."""
        return users_files(self.task[0]) if self.owner else {}


def _name(user: tuple[int, int]) -> str:
    return f"{user[0]}:{user[1]}"


def cap_file(limits: Limits) -> str:
    """The file that the pump reads: blocks to keep and bytes to throw away before it calls it a flood."""
    return f"{limits.output_mb * 2048} {FLOOD_FACTOR * limits.output_mb << 20}\n"


def labels(agent_id: str, image: str, box: Box, job: Job | None) -> dict[str, str]:
    found = {LABEL_AGENT: agent_id, LABEL_IMAGE: image, LABEL_BOX: str(box.root)}
    if job is None:
        return {**found, LABEL_WARM: "1"}
    return {**found, LABEL_TASK: job.task_id, LABEL_FENCE: job.fence}


def resources(limits: Limits) -> dict[str, int]:
    """The part of the limits that an engine can change while a container runs."""
    memory = limits.memory_mb << 20
    return {
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": round(limits.cpu * 1e9),
        "PidsLimit": limits.pids,
    }


def _bind(source: object, target: str, *, read_only: bool) -> dict[str, Any]:
    # A mount (not a `Binds` entry): a source that the engine does not see is an error, not an empty folder made by it.
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def container(
    image: str,
    box: Box,
    limits: Limits,
    users: Users,
    label: Mapping[str, str],
    runtime: str | None,
    *,
    seccomp: str | None = None,
    tmp_mb: int | None = None,
) -> dict[str, Any]:
    """The body of `POST /containers/create`. `seccomp`: a profile (`docker/seccomp.py`); None where the engine has no
    filters."""
    tmpfs = tmpfs_mb(limits, tmp_mb)
    io_options = f"rw,nosuid,nodev,noexec,size=64k,mode=0755,uid={users.pump[0]},gid={users.pump[1]}"
    file_size = max(limits.disk_mb, limits.output_mb) << 20
    host: dict[str, Any] = {
        **resources(limits),
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", *([f"seccomp={seccomp}"] if seccomp is not None else [])],
        "MaskedPaths": list(MASKED),
        "ReadonlyPaths": list(READ_ONLY),
        "ReadonlyRootfs": True,
        "NetworkMode": "none",
        "IpcMode": "private",
        "Init": True,
        "Privileged": False,
        "ShmSize": tmpfs["/dev/shm"] << 20,
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,size={tmpfs['/tmp']}m,mode=1777", IO: io_options},
        "Ulimits": [
            {"Name": "nofile", "Soft": NOFILE, "Hard": NOFILE},
            {"Name": "fsize", "Soft": file_size, "Hard": file_size},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_BYTES, "max-file": "1"}},
        "RestartPolicy": {"Name": "no"},
        "Mounts": [
            _bind(box.input, INPUT, read_only=True),
            _bind(box.data, DATA, read_only=False),
            _bind(box.output, OUTPUT, read_only=False),
            _bind(box.home, HOME, read_only=False),
            _bind(box.control, CONTROL, read_only=False),
            *(_bind(box.control / "etc" / name, f"/etc/{name}", read_only=True) for name in users.files),
        ],
    }
    if runtime is not None:
        host["Runtime"] = runtime
    return {
        "Image": image,
        "Hostname": "sandbox",
        "User": _name(users.pump),
        "WorkingDir": "/",
        "Entrypoint": ["/bin/sh", "-c", PUMP],
        "Cmd": [],
        "Env": [f"{key}={value}" for key, value in environment({}).items()],
        "Labels": dict(label),
        "NetworkDisabled": True,
        "StopTimeout": 1,
        "HostConfig": host,
    }


# Output goes to the pump from the first byte; the time limit is inside, so it holds while no agent watches. The
# environment is the container's own until the script gives each command the task's, and helpers are looked up in
# folders that no task can write.
# A broken engine (one in a chroot) runs executions outside of the container: there the pipes are not.
RUN = f"""\
PATH={SYSTEM_PATH}
[ -p {IO}/stdout ] || exit 125
exec </dev/null >{IO}/stdout 2>{IO}/stderr
exec timeout -k {GRACE_S:g} "$1" /bin/sh {SCRIPT}
"""


def execution(job: Job, users: Users) -> dict[str, Any]:
    """The body of `POST /containers/{id}/exec`."""
    command: Sequence[str] = ("/bin/sh", "-c", RUN, "sh", f"{job.limits.timeout_s:.3f}")
    return {
        "User": _name(users.task),
        "WorkingDir": "/",
        "Cmd": list(command),
        "Env": [],
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "Privileged": False,
    }
