"""What is written of an archive, with whose rights and where."""

from __future__ import annotations

import os
import stat
import tarfile

from chorus.sandbox.archives import unpack
from tests.sandbox.archive_kit import Base, link, member, tar


class Extraction(Base):
    def test_hard_link_inside(self) -> None:
        unpack(self.archive(tar(member("a", b"1"), link("d/b", "./a", tarfile.LNKTYPE))), self.tree)
        self.assertTrue((self.tree / "d/b").samefile(self.tree / "a"))

    def test_modes_and_times(self) -> None:
        data = tar(
            member("d", type=tarfile.DIRTYPE, mode=0o7555, mtime=5),
            member("d/run", b"#!", mode=0o6755, mtime=1_000_000),
            member("secret", b"", mode=0o000),
        )
        unpack(self.archive(data), self.tree)
        self.assertEqual(stat.S_IMODE((self.tree / "d/run").stat().st_mode), 0o755)
        self.assertEqual(stat.S_IMODE((self.tree / "d").stat().st_mode), 0o755)
        self.assertEqual(stat.S_IMODE((self.tree / "secret").stat().st_mode), 0o600)
        self.assertEqual((self.tree / "d/run").stat().st_mtime, 1_000_000)
        self.assertEqual((self.tree / "d").stat().st_mtime, 5)

    def test_ownership(self) -> None:
        if os.getuid():
            raise self.skipTest("changing owners needs root")
        data = tar(member("d/f", b"", uid=0), link("d/l", "f"))
        unpack(self.archive(data), self.tree, owner=(1234, 1235))
        for name in ("d", "d/f", "d/l"):
            found = (self.tree / name).lstat()
            self.assertEqual((found.st_uid, found.st_gid), (1234, 1235), name)

    def test_destination_that_is_a_link(self) -> None:
        (self.root / "other").mkdir()
        (self.root / "link").symlink_to("other")
        self.assertRaises(OSError, unpack, self.archive(tar(member("x"))), self.root / "link")
