"""The BPF program, run by an interpreter of the kernel's rules, and by the kernel."""

from __future__ import annotations

import errno
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.sandbox.bubblewrap import seccomp
from chorus.sandbox.bubblewrap.seccomp import (
    AARCH64,
    ALLOW,
    CHECKED,
    DENIED,
    ERRNO,
    KILL,
    LAST_REVIEWED,
    UNCOUNTED,
    X86_64,
    compile_filter,
)
from tests.support import PureTestCase

EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
HARMLESS = {X86_64: {"read": 0, "execve": 59, "ptrace": 101}, AARCH64: {"read": 63, "execve": 221, "ptrace": 117}}


def run(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """What the kernel would do: classic BPF over `struct seccomp_data`."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, *padded)
    at = accumulator = 0
    while True:
        code, then, otherwise, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            test = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}[code]
            at += then if test else otherwise


class Filter(PureTestCase):
    def test_every_denied_call(self) -> None:
        for arch, calls in DENIED.items():
            program = compile_filter(arch)
            for name, number in calls.items():
                self.assertEqual(run(program, arch, number), EPERM, name)
            for name, number in HARMLESS[arch].items():
                self.assertEqual(run(program, arch, number), ALLOW, name)

    def test_new_namespaces(self) -> None:
        for arch in DENIED:
            program, clone = compile_filter(arch), CHECKED[arch]["clone"]
            for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
                self.assertEqual(run(program, arch, clone, flag | 17), EPERM, hex(flag))
            # What fork and pthread_create ask for.
            self.assertEqual(run(program, arch, clone, 0x01200011), ALLOW)
            self.assertEqual(run(program, arch, clone, 0x003D0F00), ALLOW)
            self.assertEqual(run(program, arch, CHECKED[arch]["clone3"]), ENOSYS)

    def test_arguments(self) -> None:
        for arch in DENIED:
            program, checked = compile_filter(arch), CHECKED[arch]
            self.assertEqual(run(program, arch, checked["ioctl"], 0, 0x5412), EPERM)
            # Only the low half is looked at by the kernel, so only that may decide here.
            self.assertEqual(run(program, arch, checked["ioctl"], 0, 0x1_0000_5412), EPERM)
            self.assertEqual(run(program, arch, checked["ioctl"], 0, 0x541C), EPERM)
            self.assertEqual(run(program, arch, checked["ioctl"], 0, 0x5401), ALLOW)
            self.assertEqual(run(program, arch, checked["socket"], 38), EPERM)
            self.assertEqual(run(program, arch, checked["socket"], 40), EPERM)
            self.assertEqual(run(program, arch, checked["socket"], 2), ALLOW)
            self.assertEqual(run(program, arch, checked["personality"], 0x0040000), EPERM)
            self.assertEqual(run(program, arch, checked["personality"], 0xFFFFFFFF), ALLOW)

    def test_memory_that_nobody_counts(self) -> None:
        for arch, calls in UNCOUNTED.items():
            counted, polled = compile_filter(arch), compile_filter(arch, memory_held=False)
            for name, number in calls.items():
                self.assertEqual((run(counted, arch, number), run(polled, arch, number)), (ALLOW, ENOSYS), name)
            shmget = CHECKED[arch]["shmget"]
            self.assertEqual(run(counted, arch, shmget, 0, 1 << 40), ALLOW)
            for size, verdict in [(0, ALLOW), (56, ALLOW), (4096, ALLOW), (4097, EPERM), (1 << 32, EPERM)]:
                self.assertEqual(run(polled, arch, shmget, 0, size, 0o1600), verdict, size)
            for name, number in DENIED[arch].items():
                self.assertEqual(run(polled, arch, number), EPERM, name)

    def test_threads_share_their_open_files(self) -> None:
        for arch in DENIED:
            program, clone = compile_filter(arch), CHECKED[arch]["clone"]
            self.assertEqual(run(program, arch, clone, 0x003D0F00 & ~0x400), EPERM)
            # vfork, and a child that shares nothing.
            self.assertEqual(run(program, arch, clone, 0x4111), ALLOW)
            self.assertEqual(run(program, arch, clone, 17), ALLOW)

    def test_foreign_abi(self) -> None:
        program = compile_filter(X86_64)
        self.assertEqual(run(program, 0x40000003, 4), KILL)
        self.assertEqual(run(program, X86_64, 0x40000000 | 1), KILL)
        self.assertEqual(run(compile_filter(AARCH64), X86_64, 0), KILL)

    def test_unknown_future_calls(self) -> None:
        for arch in DENIED:
            for number in (LAST_REVIEWED + 1, 500, 5000):
                self.assertEqual(run(compile_filter(arch), arch, number), ENOSYS)

    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from([X86_64, AARCH64]), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
    def test_always_a_verdict(self, arch: int, number: int, argument: int) -> None:
        verdict = run(compile_filter(arch), arch, number, argument, argument)
        self.assertIn(verdict, (ALLOW, EPERM, ENOSYS, KILL))
        if number in DENIED[arch].values():
            self.assertEqual(verdict, EPERM)

    def test_machines(self) -> None:
        self.assertEqual(seccomp.architecture("x86_64"), X86_64)
        self.assertEqual(seccomp.architecture("aarch64"), AARCH64)
        self.assertIsNone(seccomp.architecture("riscv64"))
