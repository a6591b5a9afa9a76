"""The command line of one bubblewrap sandbox (pure but for looking at which system folders exist)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs

from chorus.sandbox.commands import DATA, HOME, INPUT, OUTPUT, SCRIPT, environment
from chorus.sandbox.contract import Job, Limits
from chorus.sandbox.verdict import GRACE_S

HOST_UID = 64200
"""Who a task is on the host when the agent is root: a number outside of what Debian gives to users, services or
containers (policy 9.2.2 leaves 60000-64999 to allocated packages; this one is not allocated)."""

INSIDE_ID = 1000

TMP_MB, SHM_MB = 256, 64
"""Sizes of /tmp and /dev/shm, at most a quarter of the memory limit: they are memory."""

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

ETC = (
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "mime.types", "magic",
    "protocols", "services", "perl", "python3*", "java-*", "ssl/certs", "ssl/openssl.cnf",
    "ca-certificates", "debian_version", "os-release", "cmake", "fonts",
)  # fmt: skip
"""What tools need of /etc; nothing else of it is there, above all no file where people keep tokens (npmrc, settings of
maven)."""

HIDDEN = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats", "/proc/kallsyms")

MASKED = ("/usr/local/etc",)

ETC_FILES = {
    "passwd": "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
    f"chorus:x:{INSIDE_ID}:{INSIDE_ID}:chorus:{HOME}:/bin/sh\n"
    f"chorus-task:x:{HOST_UID}:{HOST_UID}:chorus:{HOME}:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nchorus:x:{INSIDE_ID}:\nchorus-task:x:{HOST_UID}:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "resolv.conf": "",
}
"""Made for the sandbox: the host's own name its users, its network and its resolvers."""


@attrs.frozen
class Descriptors:
    """Open files that bwrap inherits: its options, where it reports to, and the filter."""

    options: int
    status: int
    filter: int | None


@attrs.frozen
class Folders:
    """Where the parts of a box are, as bwrap will see them."""

    input: Path
    fs: Path
    control: Path


def tmpfs_mb(limits: Limits) -> dict[str, int]:
    """File systems in memory that the task may write: MB of each."""
    return {path: max(8, min(most, limits.memory_mb // 4)) for path, most in (("/dev/shm", SHM_MB), ("/tmp", TMP_MB))}


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


def sandbox_arguments(mode: Mode, job: Job, folders: Folders, etc: Sequence[str] = tuple(ETC_FILES)) -> list[str]:
    """Options of bwrap, for `--args`; the command itself is `command_arguments`."""
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
    for key, value in environment(job.env).items():
        arguments += ["--setenv", key, value]
    arguments += system_binds()
    for name in etc:
        arguments += ["--ro-bind", str(folders.control / "etc" / name), f"/etc/{name}"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for path in HIDDEN:
        if os.path.exists(path):
            arguments += ["--ro-bind-try", "/dev/null", path]
    for path, megabytes in tmpfs_mb(job.limits).items():
        arguments += ["--perms", "1777", "--size", str(megabytes << 20), "--tmpfs", path]
    arguments += [
        "--ro-bind", str(folders.input), INPUT,
        "--bind", str(folders.fs / "data"), DATA,
        "--bind", str(folders.fs / "output"), OUTPUT,
        "--bind", str(folders.fs / "home"), HOME,
        "--ro-bind", str(folders.control / "commands"), SCRIPT,
        # bwrap's own root and /dev are memory that the task could fill.
        "--remount-ro", "/dev", "--remount-ro", "/",
        "--chdir", DATA,
    ]  # fmt: skip
    return arguments


# Inside, where the user namespace has a count of its own: outside, the user's other processes count too. `-p` is dash's
# name of the limit, `-u` bash's.
PROCESS_LIMIT = 'ulimit -p "$1" 2>/dev/null || ulimit -u "$1" 2>/dev/null; shift; exec "$@"'


def command_arguments(mode: Mode, limits: Limits, *, count_pids: bool) -> list[str]:
    """What runs inside: the script under its time limit. `count_pids`: no control group does."""
    command = ["timeout", "-k", f"{GRACE_S:g}", f"{limits.timeout_s:.3f}", "/bin/sh", SCRIPT]
    if count_pids:
        most = limits.pids * BACKSTOP_FACTOR + BACKSTOP_PIDS
        command = ["/bin/sh", "-c", PROCESS_LIMIT, "sh", str(most), *command]
    if mode in AS_ROOT:
        identity = ["--reuid", str(HOST_UID), "--regid", str(HOST_UID), "--clear-groups"]
        return ["setpriv", *identity, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--", *command]
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


# In a mount namespace of its own, makes its root a mount: bwrap could not leave it otherwise.
REROOT = 'mount --rbind / "$0" && mount --make-rprivate "$0" && exec chroot "$0" "$@"'


def rlimits(limits: Limits, *, memory: bool) -> list[tuple[str, int]]:
    """`ulimit` options and values: files, cores and file size; memory where no control group holds it. RLIMIT_DATA
    rather than RLIMIT_AS: several runtimes reserve far more addresses than they use."""
    found = [("-c", 0), ("-n", 4096), ("-f", limits.disk_mb * 2048)]
    if memory:
        found.append(("-d", limits.memory_mb * 1024 * BACKSTOP_FACTOR))
    return found


def launch_arguments(
    mode: Mode,
    bwrap: str,
    joins: Sequence[Path],
    lower: Sequence[tuple[str, int]],
    limits: Limits,
    fds: Descriptors,
    *,
    reroot: Path | None = None,
    count_pids: bool = False,
) -> list[str]:
    """The whole argv, from the launcher to the task's commands. `reroot`: an empty folder, for the mode `chroot`."""
    arguments = ["/bin/sh", "-c", LAUNCH, "chorus-sandbox", str(len(joins)), *map(str, joins), str(len(lower))]
    for option, value in lower:
        arguments += [option, str(value)]
    if mode == "drop":
        arguments += ["setpriv", "--reuid", str(HOST_UID), "--regid", str(HOST_UID), "--clear-groups", "--"]
    if mode == "chroot":
        arguments += ["unshare", "--mount", "--propagation", "unchanged", "--", "/bin/sh", "-c", REROOT, str(reroot)]
    arguments += [bwrap, "--args", str(fds.options), "--json-status-fd", str(fds.status)]
    if fds.filter is not None:
        arguments += ["--seccomp", str(fds.filter)]
    return [*arguments, "--", *command_arguments(mode, limits, count_pids=count_pids)]
