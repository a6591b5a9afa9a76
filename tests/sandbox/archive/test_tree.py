"""What the members of an archive make together, before anything is written."""

from __future__ import annotations

import os
import tarfile
from unittest import mock

from chorus.sandbox.archive import links
from chorus.sandbox.archive import tree as archive_tree
from chorus.sandbox.archive.archives import BadArchive, Bounds, Interrupted, listing, unpack
from tests.sandbox.archive_kit import Base, link, member, tar


class Tree(Base):
    def test_links_that_stay_inside(self) -> None:
        data = tar(member("a/b/c", b""), link("a/up", "../a/b/c"), link("loop", "loop"), link("gone", "nowhere/x"))
        self.assertEqual(len(listing(self.archive(data))), 4)

    def test_links_that_leave_together(self) -> None:
        # Each looks harmless by its text: s is the root, s/.. is not.
        self.refused(tar(member("d/e/f", b""), link("d/e/s", "../.."), link("t", "d/e/s/..")), "leaves")

    def test_writing_through_a_link(self) -> None:
        self.refused(tar(link("d", "."), member("d/x", b"")), "lies below")
        self.refused(tar(member("d/", type=tarfile.DIRTYPE), link("d", ".")), "comes twice")
        self.refused(tar(link("f", "g"), member("f", b"x")), "comes twice")
        self.refused(tar(member("f", b"x"), member("f/g", b"")), "lies below")

    def test_duplicates(self) -> None:
        self.refused(tar(member("f", b"1"), member("./f", b"2")), "comes twice")

    def test_hard_links_out(self) -> None:
        self.refused(tar(link("h", "/etc/shadow", tarfile.LNKTYPE)), "absolute")
        self.refused(tar(link("h", "../x", tarfile.LNKTYPE)), "'..'")
        self.refused(tar(link("h", "later", tarfile.LNKTYPE), member("later", b"")), "no earlier file")
        self.refused(tar(link("s", "x"), link("h", "s", tarfile.LNKTYPE)), "no earlier file")
        self.refused(tar(member("d", type=tarfile.DIRTYPE), link("h", "d", tarfile.LNKTYPE)), "no earlier file")

    def test_implied_directories_count_as_members(self) -> None:
        data = tar(*(member(f"{i}/a/b/f") for i in range(3)))
        self.refused(data, "more than 11 members and directories", Bounds(max_members=11))
        path = self.archive(data)
        self.assertEqual(len(listing(path, Bounds(max_members=12))), 3)
        self.assertEqual(unpack(path, self.tree, Bounds(max_members=12)).members, 3)

    def test_limit_of_all_names_together(self) -> None:
        # "aa", "aa/f" and "l" with its "aa": 9 characters.
        data = tar(member("aa/f"), link("l", "aa"))
        self.refused(data, "longer than 8 characters together", Bounds(max_names=8))
        self.assertEqual(len(listing(self.archive(data), Bounds(max_names=9))), 2)
        # A target that nothing uses is held as well.
        idle = tar(member("f", pax_headers={"linkpath": "x" * 60_000}))
        self.refused(idle, "longer than 50000 characters together", Bounds(max_names=50_000))

    def test_links_that_take_ages_to_follow(self) -> None:
        # Each walks 400 components and goes on to the next: 40 of them per link.
        path = self.archive(self.long_links(200))
        asked = []

        def count() -> bool:
            asked.append(1)
            return False

        for read in (lambda: listing(path, stop=count), lambda: unpack(path, self.tree, stop=count)):
            asked.clear()
            error = self.assertRaises(BadArchive, read)
            self.assertIn("too long to follow", str(error))
            steps = archive_tree.LINK_STEPS + 201 * archive_tree.LINK_STEPS_PER_MEMBER
            self.assertLessEqual(len(asked), steps // links.STEPS_PER_STOP + 10)
        self.assertEqual(os.listdir(self.tree), [])

    def test_each_member_pays_for_its_own_links(self) -> None:
        # 10 components each: "d" to the root and back, and a name.
        data = tar(*(link(f"l{i}", "d/../" * 4 + "d/x") for i in range(50)))
        with mock.patch.object(archive_tree, "LINK_STEPS", 0):
            self.assertEqual(len(listing(self.archive(data))), 50)
            with mock.patch.object(archive_tree, "LINK_STEPS_PER_MEMBER", 9):
                self.refused(data, "too long to follow")

    def test_stop_while_links_are_followed(self) -> None:
        data = self.long_links(60)
        path = self.archive(data)
        for read in (lambda stop: listing(path, stop=stop), lambda stop: unpack(path, self.tree, stop=stop)):
            following = []
            real = archive_tree.ArchiveTree.check_links

            def check(tree: archive_tree.ArchiveTree, stop, real=real, following=following) -> None:
                following.append(1)
                real(tree, stop)

            with mock.patch.object(archive_tree.ArchiveTree, "check_links", check):
                self.assertRaises(Interrupted, read, lambda following=following: bool(following))
            self.assertEqual(following, [1])
        self.assertEqual(os.listdir(self.tree), [])

    def long_links(self, count: int) -> bytes:
        deep = "d/" * 200 + "../" * 200
        return tar(*(link(f"l{i}", f"{deep}l{(i + 1) % count}") for i in range(count)), form=tarfile.GNU_FORMAT)
