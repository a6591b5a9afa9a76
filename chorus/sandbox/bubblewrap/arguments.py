"""The command line of one bubblewrap sandbox (pure but for looking at which system folders exist)."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from chorus.sandbox.commands import (
    DATA,
    HELPER_ENVIRONMENT,
    HIDDEN,
    HOME,
    INPUT,
    OUTPUT,
    READ_ONLY,
    SCRIPT,
    SYSTEM_PATH,
    script,
    tmpfs_mb,
    users_files,
)
from chorus.sandbox.contract import Job
from chorus.sandbox.verdict import GRACE_S
from chorus.tasks.terms import Limits

INSIDE_ID = 1000
"""The task's user in its own user namespace, whatever it is on the host."""

Mode = Literal["user", "drop", "root", "chroot"]
"""`user`: an ordinary user's agent, in a user namespace. `drop`: a root agent, which becomes another user, then that.
`root`: where no user namespace may be made, bwrap itself runs as root and the task drops to the other user inside.
`chroot`: the same in a chroot, whose root has to be made a mount first."""

AS_ROOT = frozenset({"root", "chroot"})
"""Modes without a user namespace."""

BACKSTOP_FACTOR, BACKSTOP_PIDS = 2, 256
"""Where memory and processes are polled, the kernel's limits lie this far above, so that the poll, which can say what
was wrong, comes first; they hold what is faster than the poll."""

SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

SHARED = ("/usr", *SYSTEM_FOLDERS)
"""Folders of the machine that a task sees as they are."""

ETC = (
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "mime.types", "magic",
    "protocols", "services", "perl", "python3*", "java-*", "ssl/certs", "ssl/openssl.cnf",
    "ca-certificates", "debian_version", "os-release", "cmake", "fonts",
)  # fmt: skip
"""Files of /etc that tools need; nothing else of it is there, above all no file where people keep tokens (npmrc,
settings of maven)."""

MASKED = ("/usr/local/etc",)

ETC_FILES = {
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "resolv.conf": "",
}
"""Made for the sandbox: the host's own name its users (`users_files`), its network and its resolvers."""


@attrs.frozen
class Descriptors:
    """Open files that bwrap inherits: its options, where it reports to, and the filter."""

    options: int
    status: int
    filter: int | None


@attrs.frozen
class Folders:
    """The parts of a box, at the paths where bwrap sees them."""

    input: Path
    fs: Path


def made_files(mode: Mode, job: Job, uid: int | None) -> dict[str, str]:
    """Files that are made for one sandbox: path inside to content. bwrap copies them into memory of the sandbox, so
    they lie nowhere on the host. `uid`: the task's own on the host, None for the agent's."""
    inside = uid if mode in AS_ROOT and uid is not None else INSIDE_ID
    etc = {**ETC_FILES, **users_files(inside)}
    return {**{f"/etc/{name}": text for name, text in etc.items()}, SCRIPT: script(job.commands, job.env)}


@functools.cache
def helper(name: str) -> str:
    """The absolute path of a program of this machine, outside and inside."""
    return shutil.which(name, path=SYSTEM_PATH) or f"/usr/bin/{name}"


def system_binds() -> list[str]:
    """The host's programs and libraries, read-only."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    # Folders that bwrap makes on its way would be its own user's alone.
    for made in ("/etc", "/etc/ssl", "/run", "/run/chorus", "/workspace"):
        arguments += ["--perms", "0755", "--dir", made]
    for folder in SYSTEM_FOLDERS:
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            arguments += ["--ro-bind", folder, folder]
    for masked in MASKED:
        if os.path.isdir(masked):
            arguments += ["--tmpfs", masked, "--remount-ro", masked]
    etc = Path("/etc")
    for pattern in ETC:
        for path in sorted(etc.glob(pattern)):
            # A link (alternatives, localtime) is bound as what it leads to, since its target may not be inside.
            arguments += ["--ro-bind-try", os.path.realpath(path), str(path)]
    return arguments


def sandbox_arguments(
    mode: Mode, job: Job, folders: Folders, files: Mapping[str, int], tmp_mb: int | None = None
) -> list[str]:
    """Options of bwrap, for `--args`; the command itself is `command_arguments`. `files`: paths inside, and the open
    files that hold what comes there (`made_files`)."""
    arguments = [
        "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv",
    ]  # fmt: skip
    if mode in AS_ROOT:
        # What setpriv needs to become the other user; it gives up the rest itself.
        arguments += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            arguments += ["--cap-add", capability]
    else:
        arguments += ["--unshare-user", "--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID), "--cap-drop", "ALL"]
    # The task's own variables come with its script, when its user and its rights are set.
    for key, value in HELPER_ENVIRONMENT.items():
        arguments += ["--setenv", key, value]
    arguments += system_binds()
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for path in READ_ONLY:
        arguments += ["--ro-bind-try", path, path]
    for path in filter(os.path.exists, HIDDEN):
        # A file that is closed for good, or an empty folder.
        cover = ["--perms", "0555", "--tmpfs"] if os.path.isdir(path) else ["--ro-bind-try", "/dev/null"]
        arguments += [*cover, path, *(["--remount-ro", path] if os.path.isdir(path) else [])]
    for path, megabytes in tmpfs_mb(job.limits, tmp_mb).items():
        arguments += ["--perms", "1777", "--size", str(megabytes << 20), "--tmpfs", path]
    for path, fd in files.items():
        arguments += ["--perms", "0444", "--file", str(fd), path]
    arguments += [
        "--ro-bind", str(folders.input), INPUT,
        "--bind", str(folders.fs / "data"), DATA,
        "--bind", str(folders.fs / "output"), OUTPUT,
        "--bind", str(folders.fs / "home"), HOME,
        # bwrap's own root and /dev are memory that the task could fill.
        "--remount-ro", "/dev", "--remount-ro", "/",
        # No folder of the task: the script enters that itself.
        "--chdir", "/",
    ]  # fmt: skip
    return arguments


# Inside, where the user namespace has a count of its own: outside, the user's other processes count too. `-p` is dash's
# name of the limit, `-u` bash's.
PROCESS_LIMIT = 'ulimit -p "$1" 2>/dev/null || ulimit -u "$1" 2>/dev/null; shift; exec "$@"'


def become(uid: int) -> list[str]:
    """Options of setpriv."""
    return ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]


def command_arguments(mode: Mode, limits: Limits, uid: int | None, *, count_pids: bool) -> list[str]:
    """The command that runs inside: the script under its time limit. `count_pids`: no control group does."""
    command = [helper("timeout"), "-k", f"{GRACE_S:g}", f"{limits.timeout_s:.3f}", "/bin/sh", SCRIPT]
    if count_pids:
        most = limits.pids * BACKSTOP_FACTOR + BACKSTOP_PIDS
        command = ["/bin/sh", "-c", PROCESS_LIMIT, "sh", str(most), *command]
    if mode in AS_ROOT:
        assert uid is not None
        drop = [*become(uid), "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        return [helper("setpriv"), *drop, "--", *command]
    return command


# Joins the control groups and lowers the resource limits, then becomes what follows; so nothing of the sandbox runs
# outside of them for an instant. An rlimit is lowered if it can be: it may be lower already. The umask is that of a
# container, whatever the agent's own. A machine that runs out of memory shall take the task first, not the agent.
LAUNCH = """\
umask 022
{ echo 1000 > /proc/self/oom_score_adj; } 2>/dev/null || :
groups=$1; shift
while [ "$groups" -gt 0 ]; do echo $$ > "$1" || exit 125; shift; groups=$((groups - 1)); done
limits=$1; shift
while [ "$limits" -gt 0 ]; do ulimit "$1" "$2" 2>/dev/null || :; shift 2; limits=$((limits - 1)); done
exec "$@"
"""

# Behind `setpriv --pdeathsig`: an agent that was killed before that took effect is this process's parent no more.
GUARD = '[ "$PPID" = "$0" ] && exec "$@"'

# In a mount namespace of its own, makes its root a mount: bwrap could not leave it otherwise.
REROOT = 'mount --rbind / "$0" && mount --make-rprivate "$0" && exec chroot "$0" "$@"'


def rlimits(limits: Limits, *, memory: bool) -> list[tuple[str, int]]:
    """`ulimit` options and values: files, cores and file size; memory where no control group holds it. RLIMIT_DATA
    rather than RLIMIT_AS: several runtimes reserve far more addresses than they use."""
    found = [("-c", 0), ("-n", 4096), ("-f", limits.disk_mb * 2048)]
    if memory:
        found.append(("-d", limits.memory_mb * 1024 * BACKSTOP_FACTOR))
    return found


@attrs.frozen
class Launch:
    """The way in which bwrap is started on this machine."""

    mode: Mode
    bwrap: str
    uid: int | None = None
    """The task's on the host, where that is not the agent's."""
    reroot: Path | None = None
    """An empty folder, for the mode `chroot`."""


def launch_arguments(
    launch: Launch,
    joins: Sequence[Path],
    lower: Sequence[tuple[str, int]],
    limits: Limits,
    fds: Descriptors,
    *,
    count_pids: bool = False,
) -> list[str]:
    """The whole argv, from the launcher to the task's commands: each helper by its absolute path."""
    arguments = ["/bin/sh", "-c", LAUNCH, "chorus-sandbox", str(len(joins)), *map(str, joins), str(len(lower))]
    for option, value in lower:
        arguments += [option, str(value)]
    drop = become(launch.uid) if launch.mode == "drop" and launch.uid is not None else []
    # After the change of user, which would undo it.
    arguments += [helper("setpriv"), *drop, "--pdeathsig", "KILL", "--", "/bin/sh", "-c", GUARD, str(os.getpid())]
    if launch.mode == "chroot":
        arguments += [helper("unshare"), "--mount", "--propagation", "unchanged", "--"]
        arguments += ["/bin/sh", "-c", REROOT, str(launch.reroot)]
    arguments += [launch.bwrap, "--args", str(fds.options), "--json-status-fd", str(fds.status)]
    if fds.filter is not None:
        arguments += ["--seccomp", str(fds.filter)]
    return [*arguments, "--", *command_arguments(launch.mode, limits, launch.uid, count_pids=count_pids)]
