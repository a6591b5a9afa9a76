from __future__ import annotations

import errno
from pathlib import Path

from chorus.files import DataDirectoryError
from chorus.services.datadir import FILES
from chorus.services.pubsub import seqno as pubsub_seqno
from chorus.services.pubsub.seqno import FILE, RESERVED, begin, first_seqno
from tests.support import PureTestCase

NOW = 1_790_000_000_000_000_000
HOUR = 3600 * 1_000_000_000


class FirstSeqno(PureTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(mode=0o700)

    def test_the_clock_decides_when_it_goes_forward(self) -> None:
        self.assertEqual(first_seqno(self.folder, NOW), NOW)
        self.assertEqual(first_seqno(self.folder, NOW + HOUR), NOW + HOUR)

    def test_a_clock_that_was_set_back_does_not_lead_back(self) -> None:
        first_seqno(self.folder, NOW)
        for start in range(1, 4):
            self.assertEqual(first_seqno(self.folder, NOW - HOUR), NOW + start * RESERVED)

    def test_it_is_reserved_on_disk_before_it_is_used(self) -> None:
        first_seqno(self.folder, NOW)
        path = self.folder / FILE
        self.assertEqual(int(path.read_text()), NOW + RESERVED)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertIn(FILE, FILES)

    def test_what_is_no_number_of_ours_is_passed_over(self) -> None:
        for text in ("", "x", "-1", "1e9", str((1 << 64) - 1)):
            (self.folder / FILE).write_text(text)
            (self.folder / FILE).chmod(0o600)
            self.assertEqual(first_seqno(self.folder, NOW), NOW, text)

    def test_a_file_that_others_may_change_is_refused(self) -> None:
        (self.folder / FILE).write_text("1")
        (self.folder / FILE).chmod(0o644)
        self.assertRaises(DataDirectoryError, first_seqno, self.folder, NOW)

    def test_a_full_disk_does_not_keep_a_node_from_starting(self) -> None:
        first_seqno(self.folder, NOW)

        def refuse(path: Path, content: bytes) -> None:
            raise OSError(self.number, "no")

        self.patch(pubsub_seqno, "write_private", refuse)
        self.number = errno.ENOSPC
        self.assertEqual(first_seqno(self.folder, NOW - HOUR), NOW + RESERVED)
        self.number = errno.EROFS
        self.assertRaises(DataDirectoryError, first_seqno, self.folder, NOW)

    def test_all_numbers_fit(self) -> None:
        first, after = begin(0, (1 << 63) - 1)
        self.assertTrue(first < after < 1 << 64)
