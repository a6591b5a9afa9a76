"""What is written of an archive, with whose rights and where."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator

from chorus.sandbox.archive import extraction
from chorus.sandbox.archive.archives import unpack
from chorus.sandbox.archive.limits import BadArchive, Bounds
from chorus.sandbox.archive.member import ArchiveMember
from chorus.sandbox.archive.tree import ArchiveTree
from tests.sandbox.archive_kit import Base, link, member, tar


class Swapping:
    """A reader whose second member comes when a folder of the first has become a link."""

    def __init__(self, *members: ArchiveMember, between: object) -> None:
        self.members = members
        self.between = between

    def __iter__(self) -> Iterator[ArchiveMember]:
        for number, each in enumerate(self.members):
            if number == 1:
                self.between()  # type: ignore[operator]
            yield each

    def body(self) -> Iterator[bytes]:
        return iter([b"x"])


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

    def test_no_descriptor_is_left_open(self) -> None:
        good = tar(*(member(f"d{n}/e/f{n}", b"x") for n in range(5)), link("d0/l", "e"))
        bad = tar(member("a/b/c", b"x"), link("a/b/l", "../../.."))
        before = len(os.listdir("/proc/self/fd"))
        for number in range(3):
            (self.root / str(number)).mkdir()
            unpack(self.archive(good), self.root / str(number))
            self.assertRaises(BadArchive, unpack, self.archive(bad), self.tree)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_no_descriptor_is_left_open_where_a_folder_cannot_be_opened(self) -> None:
        def swap() -> None:
            (self.tree / "a/b").rename(self.root / "away")

        before = len(os.listdir("/proc/self/fd"))
        self.assertRaises(FileNotFoundError, self.swapped, swap, "a/b/c", "x", "a/b/d")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_no_component_may_become_a_link(self) -> None:
        """Somebody on this machine puts a link in the place of a folder that was written before."""
        outside = self.root / "outside"
        (outside / "b").mkdir(parents=True)
        for swapped, target in (("a", "../outside"), ("a/b", "../../outside/b")):
            with self.subTest(swapped):
                tree = self.tree / swapped.replace("/", "")
                tree.mkdir()

                def swap(tree=tree, swapped=swapped, target=target) -> None:  # type: ignore[no-untyped-def]
                    (tree / swapped).rename(tree / "away")
                    (tree / swapped).symlink_to(f"../{target}")

                # The folder in between makes it be opened anew.
                self.assertRaises(OSError, self.swapped, swap, "a/b/c", "x/y", "a/b/d", tree=tree)
                self.assertEqual(os.listdir(outside), ["b"])
                self.assertEqual(os.listdir(outside / "b"), [])

    def swapped(self, swap, *paths, tree=None) -> None:  # type: ignore[no-untyped-def]
        root = os.open(tree or self.tree, os.O_RDONLY)
        try:
            reader = Swapping(*(ArchiveMember(path, "file", 1) for path in paths), between=swap)
            extraction.Extraction(root, None, ArchiveTree(Bounds())).write(reader, lambda: False)
        finally:
            os.close(root)
