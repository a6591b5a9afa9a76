"""The profile of a container, by an interpreter of an engine's rules, against the program for bubblewrap."""

from __future__ import annotations

import errno
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.sandbox.bubblewrap import seccomp
from chorus.sandbox.bubblewrap.seccomp import AARCH64, ALLOW, CHECKED, DENIED, ERRNO, X86_64, compile_filter
from chorus.sandbox.docker.seccomp import ALLOWED, others, profile
from tests.sandbox.bubblewrap.test_seccomp import HARMLESS, run
from tests.support import PureTestCase

ARGUMENTS = st.one_of(
    st.integers(0, 64),
    st.integers(0, 2**64 - 1),
    st.sampled_from([*seccomp.REFUSED_IOCTLS, *seccomp.PERSONALITIES, 0x003D0F00, 0x01200011, 0x1_0000_5412]),
    st.lists(st.integers(0, 31), max_size=4).map(lambda bits: sum({1 << bit for bit in bits})),
)


class Profile(PureTestCase):
    def setUp(self) -> None:
        self.document = json.loads(profile())

    def answers(self, name: str, *arguments: int) -> list[int]:
        """Of each rule that matches; the order in which an engine asks them is its own affair."""
        return [
            ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else ERRNO | rule["errnoRet"]
            for rule in self.document["syscalls"]
            if name in rule["names"] and all(self.matches(test, arguments) for test in rule.get("args", []))
        ]

    def matches(self, test: dict[str, Any], arguments: tuple[int, ...]) -> bool:
        self.assertEqual(test["op"], "SCMP_CMP_MASKED_EQ")
        given = arguments[test["index"]] if test["index"] < len(arguments) else 0
        return bool(given & test["value"] == test["valueTwo"])

    def verdict(self, name: str, *arguments: int) -> int:
        found = self.answers(name, *arguments)
        self.assertLessEqual(len(found), 1, (name, arguments))
        default = ERRNO | self.document["defaultErrnoRet"]
        self.assertEqual(default, ERRNO | errno.ENOSYS)
        return found[0] if found else default

    def test_every_call_without_arguments_that_decide(self) -> None:
        for arch in (X86_64, AARCH64):
            for name in DENIED[arch]:
                self.assertEqual(self.verdict(name), ERRNO | errno.EPERM, name)
            for name in HARMLESS[arch]:
                self.assertEqual(self.verdict(name), ALLOW, name)
        self.assertEqual(self.verdict("a_call_of_next_year"), ERRNO | errno.ENOSYS)
        self.assertEqual({self.verdict(name) for name in ALLOWED}, {ALLOW})

    @settings(deadline=None, max_examples=300)
    @given(st.sampled_from([X86_64, AARCH64]), st.data(), ARGUMENTS, ARGUMENTS)
    def test_as_in_bubblewrap(self, arch: int, data: st.DataObject, first: int, second: int) -> None:
        name = data.draw(st.sampled_from(sorted(CHECKED[arch])))
        number = CHECKED[arch][name]
        self.assertEqual(
            self.verdict(name, first, second), run(compile_filter(arch), arch, number, first, second), name
        )

    def test_only_the_machines_own_abi(self) -> None:
        """An entry without sub-architectures: an engine adds no 32-bit one, whose numbers mean other calls."""
        self.assertNotIn("architectures", self.document)
        self.assertTrue(all("subArchitectures" not in entry for entry in self.document["archMap"]))

    def test_all_values_but_these(self) -> None:
        cubes = list(others([38, 40]))
        for value in [*range(70), 0xFFFFFFFF, 0x80000026, 1 << 31]:
            matching = [1 for mask, wanted in cubes if value & mask == wanted]
            self.assertEqual(len(matching), int(value not in (38, 40)), value)
        self.assertEqual(list(others([])), [(0, 0)])
