"""The filter of `bubblewrap/seccomp.py` as a container engine takes it: a profile in JSON, by name (pure).

An engine puts the rules of a profile in no order of its own, so no two of them may answer one call differently. It has
no rule for "any value but these": such a rule is written as masked comparisons that together cover all other values.
Only the low half of an argument is compared, as the kernel does.
"""

from __future__ import annotations

import errno
import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from chorus.sandbox.bubblewrap import seccomp

_NAMES = """
    accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
    epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group
    faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchown fchownat fcntl fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_waitv futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid
    getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioprio_get ioprio_set kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
    llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create memfd_secret mincore mkdir mkdirat
    mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend
    mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect
    poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
    ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg
    remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
    semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid
    setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt
    setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate
    umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
"""

ALLOWED = frozenset(_NAMES.split())
"""Every reviewed call (`seccomp.LAST_REVIEWED`) of the two architectures that no rule of `seccomp.py` names. Here they
have to be listed: a profile by name cannot say "numbers up to"."""

_WORD = 0xFFFFFFFF


@functools.cache
def profile() -> str:
    """For `SecurityOpt`, behind `seccomp=`. What no rule names answers ENOSYS; a foreign ABI kills the process."""
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": errno.ENOSYS,
            # Without their 32-bit ABIs, which an engine adds to its own profile.
            "archMap": [{"architecture": name} for name in ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")],
            "syscalls": list(rules()),
        },
        separators=(",", ":"),
    )


def rules() -> Iterator[dict[str, Any]]:
    """In no order: no two match one call."""
    denied = sorted({name for calls in seccomp.DENIED.values() for name in calls})
    yield _rule(sorted(ALLOWED), allowed=True)
    yield _rule(denied, allowed=False)
    # Its flags lie in memory, where a filter cannot look. Named, since engines may have a default error of their own.
    yield {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    yield from _clone()
    yield from _one_of("ioctl", 1, seccomp.REFUSED_IOCTLS, allowed=False)
    yield from _one_of("socket", 0, seccomp.REFUSED_FAMILIES, allowed=False)
    yield from _one_of("personality", 0, seccomp.PERSONALITIES, allowed=True)


def _clone() -> Iterator[dict[str, Any]]:
    """No namespace; and a thread only with the open files of its process."""
    spaces, thread, files = seccomp.NEW_NAMESPACES, seccomp.CLONE_THREAD, seccomp.CLONE_FILES
    yield _rule(["clone"], 0, spaces | thread, 0, allowed=True)
    yield _rule(["clone"], 0, spaces | thread | files, thread | files, allowed=True)
    yield _rule(["clone"], 0, spaces | thread | files, thread, allowed=False)
    for bit in (1 << place for place in range(32)):
        if bit & spaces:
            # With those below it clear: no two rules match one call.
            yield _rule(["clone"], 0, spaces & (bit - 1) | bit, bit, allowed=False)


def _one_of(name: str, index: int, values: Iterable[int], *, allowed: bool) -> Iterator[dict[str, Any]]:
    """These values of an argument get one answer, all others the other."""
    values = sorted(set(values))
    for value in values:
        yield _rule([name], index, _WORD, value, allowed=allowed)
    for mask, value in others(values):
        yield _rule([name], index, mask, value, allowed=not allowed)


def others(values: Iterable[int], bit: int = 1 << 31, mask: int = 0, value: int = 0) -> Iterator[tuple[int, int]]:
    """Masks and values, no two of which match one word, that together match each 32-bit word but these."""
    inside = [one for one in values if one & mask == value]
    if not inside:
        yield mask, value
    elif bit:
        for half in (0, bit):
            yield from others(inside, bit >> 1, mask | bit, value | half)


def _rule(names: list[str], index: int = 0, mask: int = 0, value: int = 0, *, allowed: bool) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if not allowed:
        rule.update(action="SCMP_ACT_ERRNO", errnoRet=errno.EPERM)
    if mask:
        rule["args"] = [{"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}]
    return rule
