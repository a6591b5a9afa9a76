"""The system calls a sandbox may not make, compiled to a BPF program for bubblewrap (pure). `docker/seccomp.py` makes
the profile of a container from the same tables.

Denied is what Docker's default profile denies to a container without capabilities, plus io_uring, keyrings and terminal
injection; numbers above the last one reviewed answer ENOSYS, so a newer kernel opens nothing by itself. A foreign ABI
(i386, x32) kills the process: its numbers mean other calls. Numbers: the kernel's own unistd tables.

Where no control group holds memory, what can be held there without a process having it mapped is denied too:
memfd_create and memfd_secret answer ENOSYS (programs fall back to files), and System V segments may have a page, as a
database wants of them to find its kin: the kernel has at most 4096 of them in a namespace.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping

import attrs

LAST_REVIEWED = 450
"""set_mempolicy_home_node; the tables of both architectures are one from 424 on."""

X86_64 = 0xC000003E
AARCH64 = 0xC00000B7
"""AUDIT_ARCH_* of the kernel."""

ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000

_X32_BIT = 0x40000000
NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""

REFUSED_IOCTLS = (0x5412, 0x541C)
"""TIOCSTI, TIOCLINUX: put bytes into a terminal's input as if typed."""

PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26 and both, query: Docker's list. Others switch off protections of memory."""

CLONE_FILES, CLONE_THREAD = 0x00000400, 0x00010000
"""A thread with open files of its own would hold them where nobody looks (`processes.unlinked`)."""

_SEGMENT_BYTES = 4096

REFUSED_FAMILIES = (38, 40)
"""AF_ALG, AF_VSOCK: the kernel's crypto API and the hypervisor's socket, neither behind the network namespace."""

# fmt: off
DENIED: Mapping[int, Mapping[str, int]] = {
    X86_64: {
        "syslog": 103, "uselib": 134, "ustat": 136, "sysfs": 139, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155,
        "_sysctl": 156, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167,
        "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
        "create_module": 174, "init_module": 175, "delete_module": 176, "get_kernel_syms": 177, "query_module": 178,
        "quotactl": 179, "nfsservctl": 180, "lookup_dcookie": 212, "clock_settime": 227, "vserver": 236, "mbind": 237,
        "set_mempolicy": 238, "get_mempolicy": 239, "kexec_load": 246, "add_key": 248, "request_key": 249,
        "keyctl": 250, "migrate_pages": 256, "unshare": 272, "move_pages": 279, "perf_event_open": 298,
        "fanotify_init": 300, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "kcmp": 312,
        "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
        "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
        "mount_setattr": 442, "quotactl_fd": 443, "set_mempolicy_home_node": 450,
    },
    AARCH64: {
        "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "chroot": 51,
        "vhangup": 58, "quotactl": 60, "acct": 89, "unshare": 97, "kexec_load": 104, "init_module": 105,
        "delete_module": 106,
        "clock_settime": 112, "syslog": 116, "reboot": 142, "sethostname": 161, "setdomainname": 162,
        "settimeofday": 170, "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "swapoff": 225,
        "mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237, "migrate_pages": 238, "move_pages": 239,
        "perf_event_open": 241, "fanotify_init": 262, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268,
        "kcmp": 272, "finit_module": 273, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
        "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
        "mount_setattr": 442, "quotactl_fd": 443, "set_mempolicy_home_node": 450,
    },
}

UNCOUNTED: Mapping[int, Mapping[str, int]] = {
    X86_64: {"memfd_create": 319, "memfd_secret": 447},
    AARCH64: {"memfd_create": 279, "memfd_secret": 447},
}
"""Memory that no process need have resident."""

CHECKED: Mapping[int, Mapping[str, int]] = {
    X86_64: {"ioctl": 16, "socket": 41, "clone": 56, "personality": 135, "clone3": 435, "shmget": 29},
    AARCH64: {"ioctl": 29, "socket": 198, "clone": 220, "personality": 92, "clone3": 435, "shmget": 194},
}
"""Calls whose arguments decide."""
# fmt: on

_MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}

_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCH = 0, 4


def _argument(index: int) -> int:
    """Offset of the low 32 bits of an argument (both architectures are little-endian); the high ones follow."""
    return 16 + 8 * index


@attrs.define
class _Program:
    """A list of instructions with named jump targets. Jumps go forward by at most 255, as BPF has it."""

    _code: list[tuple[int, str | None, str | None, int]] = attrs.field(factory=list)
    _labels: dict[str, int] = attrs.field(factory=dict)

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def load(self, offset: int) -> None:
        self._code.append((_LOAD, None, None, offset))

    def jump(self, test: int, value: int, then: str | None = None, otherwise: str | None = None) -> None:
        """None goes on with the next instruction."""
        self._code.append((test, then, otherwise, value))

    def end(self, verdict: int) -> None:
        self._code.append((_RETURN, None, None, verdict))

    def assemble(self) -> bytes:
        out = bytearray()
        for at, (code, then, otherwise, value) in enumerate(self._code):
            jumps = [0 if name is None else self._labels[name] - at - 1 for name in (then, otherwise)]
            if not all(0 <= jump <= 255 for jump in jumps):
                raise ValueError(f"jump out of reach at {at}")
            out += struct.pack("<HBBI", code, *jumps, value)
        return bytes(out)


def architecture(machine: str | None = None) -> int | None:
    """AUDIT_ARCH of this machine, or None where there is no table."""
    return _MACHINES.get(machine or platform.machine())


def compile_filter(arch: int, *, memory_held: bool = True) -> bytes:
    """The program as an array of `struct sock_filter`, for `bwrap --seccomp`. `memory_held`: a control group does."""
    checked = CHECKED[arch]
    program = _Program()
    program.load(_ARCH)
    program.jump(_JUMP_EQUAL, arch, otherwise="kill")
    program.load(_NUMBER)
    if arch == X86_64:
        program.jump(_JUMP_ANY_BIT, _X32_BIT, then="kill")
    program.jump(_JUMP_ABOVE, LAST_REVIEWED, then="unknown")
    program.jump(_JUMP_EQUAL, checked["clone3"], then="unknown")  # Its flags lie in memory, where a filter cannot look.
    for name in ("clone", "ioctl", "socket", "personality"):
        program.jump(_JUMP_EQUAL, checked[name], then=name)
    if not memory_held:
        for number in sorted(UNCOUNTED[arch].values()):
            program.jump(_JUMP_EQUAL, number, then="unknown")
        program.jump(_JUMP_EQUAL, checked["shmget"], then="shmget")
    for number in sorted(DENIED[arch].values()):
        program.jump(_JUMP_EQUAL, number, then="deny")
    program.end(ALLOW)
    program.label("clone")
    program.load(_argument(0))
    program.jump(_JUMP_ANY_BIT, NEW_NAMESPACES, then="deny")
    program.jump(_JUMP_ANY_BIT, CLONE_THREAD, otherwise="allow")
    program.jump(_JUMP_ANY_BIT, CLONE_FILES, then="allow", otherwise="deny")
    program.label("shmget")
    program.load(_argument(1) + 4)
    program.jump(_JUMP_EQUAL, 0, otherwise="deny")
    program.load(_argument(1))
    program.jump(_JUMP_ABOVE, _SEGMENT_BYTES, then="deny", otherwise="allow")
    program.label("ioctl")
    program.load(_argument(1))
    for value in REFUSED_IOCTLS:
        program.jump(_JUMP_EQUAL, value, then="deny")
    program.end(ALLOW)
    program.label("socket")
    program.load(_argument(0))
    for value in REFUSED_FAMILIES:
        program.jump(_JUMP_EQUAL, value, then="deny")
    program.end(ALLOW)
    program.label("personality")
    program.load(_argument(0))
    for value in PERSONALITIES:
        program.jump(_JUMP_EQUAL, value, then="allow")
    program.label("deny")
    program.end(ERRNO | errno.EPERM)
    program.label("allow")
    program.end(ALLOW)
    program.label("unknown")
    program.end(ERRNO | errno.ENOSYS)
    program.label("kill")
    program.end(KILL)
    return program.assemble()
