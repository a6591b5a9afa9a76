"""A user for each task: none is given twice, whoever asks, and one comes back however its holder ends."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chorus.sandbox.contract import SandboxUnavailable
from chorus.sandbox.docker.spec import FIRST_UID
from chorus.sandbox.uids import PUMP_UID, TASK_UIDS, Uid, Uids, is_known
from tests.sandbox.support import import_path
from tests.support import PureTestCase

HOLD = """
import sys, time
from pathlib import Path
from chorus.sandbox.uids import Uids
held = Uids(Path(sys.argv[1]), range(5, 8), lambda number: False).take()
print(held.number, flush=True)
time.sleep(600)
"""


class Taking(PureTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()) / "run" / "uids"

    def uids(self, *numbers: int, known: tuple[int, ...] = ()) -> Uids:
        return Uids(self.folder, numbers or (5, 6, 7), lambda number: number in known)

    def test_the_lowest_that_is_free(self) -> None:
        uids = self.uids()
        first, second = uids.take(), uids.take()
        self.assertEqual((first.number, second.number, first.owner), (5, 6, (5, 5)))
        first.release()
        first.release()
        self.assertEqual(uids.take().number, 5)

    def test_two_agents_on_one_machine(self) -> None:
        held = [self.uids().take() for _ in range(3)]
        self.assertEqual([one.number for one in held], [5, 6, 7])
        with self.assertRaisesRegex(SandboxUnavailable, "all 3 users for tasks are in use"):
            self.uids().take()

    def test_users_that_the_machine_knows_are_passed_over(self) -> None:
        uids = self.uids(known=(5, 7))
        held = uids.take()
        self.assertEqual(held.number, 6)
        self.assertRaises(SandboxUnavailable, uids.take)
        self.assertTrue(is_known(0))

    def test_threads(self) -> None:
        uids = self.uids(*range(100, 140))
        with ThreadPoolExecutor(8) as pool:
            held = list(pool.map(lambda _: uids.take(), range(40)))
        self.assertEqual({one.number for one in held}, set(range(100, 140)))

    def test_one_that_is_forgotten_comes_back(self) -> None:
        self.uids().take()
        gc.collect()
        self.assertEqual(self.uids().take().number, 5)

    def test_one_of_a_killed_agent_comes_back(self) -> None:
        argv = [sys.executable, "-c", HOLD, str(self.folder.absolute())]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": import_path()}) as agent:
            assert agent.stdout is not None
            self.assertEqual(agent.stdout.readline(), b"5\n")
            other = self.uids().take()
            self.assertEqual(other.number, 6)
            agent.send_signal(signal.SIGKILL)
        self.assertEqual(self.uids().take().number, 5)

    def test_taken_over(self) -> None:
        uids = self.uids()
        kept = uids.hold(6)
        held = [uids.take(), uids.take()]
        self.assertEqual((kept.number, [one.number for one in held]), (6, [5, 7]))
        # What another task has by now is shared, and one from outside of the range is nobody's.
        self.assertEqual((uids.hold(held[0].number).number, uids.hold(FIRST_UID).number), (5, FIRST_UID))
        Uid(1234).release()

    def test_a_place_that_cannot_be_made(self) -> None:
        self.folder.parent.parent.mkdir(parents=True, exist_ok=True)
        self.folder.parent.write_text("")
        with self.assertRaisesRegex(SandboxUnavailable, "cannot be made"):
            self.uids().take()

    def test_locks_are_nobody_elses(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        held = self.uids().take()
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (self.folder, self.folder / str(held.number))]
        self.assertEqual(modes, [0o700, 0o600])

    def test_the_range(self) -> None:
        """More than a machine runs tasks at once; below 65536; the pump is none of them."""
        self.assertEqual((TASK_UIDS.start, len(TASK_UIDS)), (64200, 512))
        self.assertLess(TASK_UIDS.stop, 65000)
        self.assertNotIn(PUMP_UID, TASK_UIDS)
