"""Archives that users send, good ones and hostile ones."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import tempfile
import zlib
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.sandbox import archives
from chorus.sandbox.archives import BadArchive, Bounds, Interrupted, listing, unpack
from tests.support import PureTestCase


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """One raw header, for what tarfile refuses to write."""
    block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"00000000000\0"
    block += b" " * 8 + kind + b"\0" * 100 + b"ustar\x0000"
    block = block.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


class Base(PureTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.root.mkdir(parents=True)
        self.tree = self.root / "tree"
        self.tree.mkdir()

    def archive(self, data: bytes) -> Path:
        path = self.root / "archive"
        path.write_bytes(data)
        return path

    def refused(self, data: bytes, text: str, bounds: Bounds | None = None) -> None:
        path = self.archive(data)
        for read in (lambda: listing(path, bounds), lambda: unpack(path, self.tree, bounds)):
            error = self.assertRaises(BadArchive, read)
            self.assertIn(text, str(error))
            self.assertEqual(error.code, "bad_archive")
        self.assertEqual(os.listdir(self.tree), [], "a refused archive leaves nothing behind")


class Good(Base):
    def test_every_compression_and_format(self) -> None:
        long = "d" * 90 + "/" + "e" * 90 + "/" + "f" * 90
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            name = long if form != tarfile.USTAR_FORMAT else "d" * 90 + "/" + "e" * 60
            plain = tar(member("a.txt", b"hello"), member(name, b"deep"), link("l", "a.txt"), form=form)
            for compress in (bytes, gzip.compress, bz2.compress, lzma.compress):
                path = self.archive(compress(plain))
                into = Path(tempfile.mkdtemp(dir=self.root))
                got = unpack(path, into)
                self.assertEqual((got.members, got.size), (3, 9))
                self.assertEqual((into / "a.txt").read_bytes(), b"hello")
                self.assertEqual((into / name).read_bytes(), b"deep")
                self.assertEqual(os.readlink(into / "l"), "a.txt")
                self.assertEqual([entry.path for entry in listing(path)], ["a.txt", name, "l"])

    def test_what_gnu_tar_and_git_write(self) -> None:
        # A global header with a comment, as `git archive` writes it.
        comment = tarfile.TarInfo.create_pax_global_header({"comment": "0" * 40})
        path = self.archive(comment + tar(member("x", b"1")))
        self.assertEqual([entry.path for entry in listing(path)], ["x"])

    def test_no_end_blocks_and_root_entry(self) -> None:
        data = tar(member("./", type=tarfile.DIRTYPE), member("./a/b", b"1"), form=tarfile.USTAR_FORMAT)
        path = self.archive(data[: 512 * 3])
        self.assertEqual([entry.path for entry in listing(path)], ["a/b"])
        unpack(path, self.tree)
        self.assertEqual((self.tree / "a/b").read_bytes(), b"1")

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

    def test_links_that_stay_inside(self) -> None:
        data = tar(member("a/b/c", b""), link("a/up", "../a/b/c"), link("loop", "loop"), link("gone", "nowhere/x"))
        self.assertEqual(len(listing(self.archive(data))), 4)

    def test_concatenated_streams(self) -> None:
        data = tar(member("a", b"x" * 5000))
        for compress in (gzip.compress, bz2.compress, lzma.compress):
            path = self.archive(compress(data[:700]) + compress(b"") + compress(data[700:]))
            self.assertEqual([entry.size for entry in listing(path)], [5000])

    def test_gzip_that_fills_the_buffer_exactly(self) -> None:
        for size in (archives.CHUNK - 2048, archives.CHUNK, archives.CHUNK * 2 + 7):
            path = self.archive(gzip.compress(tar(member("a", os.urandom(size)))))
            self.assertEqual([entry.size for entry in listing(path)], [size])


class Hostile(Base):
    def test_paths_that_leave(self) -> None:
        self.refused(tar(member("/etc/passwd", b"")), "absolute")
        self.refused(tar(member("../x", b"")), "'..'")
        self.refused(tar(member("a/../../x", b"")), "'..'")
        self.refused(tar(member("a/..", type=tarfile.DIRTYPE)), "'..'")
        self.refused(tar(member("", b"x")), "without a name")

    def test_links_that_leave(self) -> None:
        self.refused(tar(link("l", "/etc/passwd")), "relative")
        self.refused(tar(link("l", "..")), "leaves")
        self.refused(tar(member("a/x", b""), link("a/l", "../../etc")), "leaves")
        self.refused(tar(link("l", "")), "relative")

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

    def test_special_files(self) -> None:
        for kind, word in [(tarfile.CHRTYPE, "character"), (tarfile.BLKTYPE, "block"), (tarfile.FIFOTYPE, "fifo")]:
            self.refused(tar(member("x", type=kind)), word)
        self.refused(header(b"x", b"0", b"Z"), "unknown kind")

    def test_sparse_tricks(self) -> None:
        self.refused(header(b"x", b"0", b"S"), "sparse")
        self.refused(tar(member("x", b"", pax_headers={"GNU.sparse.realsize": str(1 << 50)})), "sparse")

    def test_global_header_that_renames(self) -> None:
        evil = tarfile.TarInfo.create_pax_global_header({"path": "../../x"})
        self.refused(evil + tar(member("a", b"")), "global header")

    def test_sizes_that_lie(self) -> None:
        self.refused(header(b"x", b"\xff" * 12), "negative")
        self.refused(header(b"x", b"-1"), "no number")
        self.refused(header(b"x", b"77777777777"), "holds more than")
        self.refused(header(b"x", b"\x80" + b"\xff" * 11), "holds more than")
        self.refused(header(b"x", b"1000") + b"y" * 200, "middle of a file")
        self.refused(tar(member("x", b"", pax_headers={"size": "-5"})), "valid size")

    def test_limit_of_bytes(self) -> None:
        data = tar(member("a", b"x" * 600), member("b", b"x" * 600))
        self.refused(data, "holds more than 1000 bytes", Bounds(max_bytes=1000))

    def test_limit_of_members(self) -> None:
        self.refused(tar(*(member(f"f{i}") for i in range(11))), "more than 10 members", Bounds(max_members=10))

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

    def test_limit_of_path_component_and_depth(self) -> None:
        self.refused(tar(member("x/" * 30 + "y")), "a path of more than 50", Bounds(max_path=50))
        self.refused(tar(member("z" * 256)), "a name of more than 255")
        self.refused(tar(member("x/" * 48 + "y")), "more than 48 levels")

    def test_limit_of_extended_headers(self) -> None:
        self.refused(tar(member("x", pax_headers={"comment": "c" * archives.MAX_HEADER})), "extended header of")
        self.refused(header(b"L", b"77777777777", b"L"), "extended header of")
        chain = tarfile.TarInfo.create_pax_global_header({"comment": "x"}) * archives.MAX_GLOBAL_HEADERS
        self.refused(chain + tar(member("x")), "too many extended headers")

    def test_broken_pax_records(self) -> None:
        for record in (b"99 path=x\n", b"abc\n", b"0 a=b\n", b"9 pathxy\n", b"7 path=x", b"12345678901 a=b\n"):
            self.refused(header(b"p", b"%o" % len(record), b"x") + record.ljust(512, b"\0"), "broken extended header")

    def test_compression_bomb_is_stopped_while_it_streams(self) -> None:
        for compress in (lambda d: gzip.compress(d, 9), bz2.compress, lzma.compress):
            bomb = compress(tar(member("zeros", bytes(archives.RATIO_FLOOR + (8 << 20)))))
            taken = []
            real = archives._Source._more

            def count(source: archives._Source, real=real, taken=taken) -> bytes:
                data = real(source)
                taken.append(len(data))
                return data

            with mock.patch.object(archives._Source, "_more", count):
                error = self.assertRaises(BadArchive, listing, self.archive(bomb))
            self.assertIn("times when unpacked", str(error))
            self.assertLessEqual(sum(taken), archives.RATIO_FLOOR + archives.CHUNK)
            self.assertLessEqual(max(taken), archives.CHUNK)

    def test_bomb_of_headers(self) -> None:
        data = gzip.compress(b"".join(header(b"f%d" % i, b"0") for i in range(3000)))
        self.refused(data, "more than 1000 members", Bounds(max_members=1000))

    def test_bomb_of_empty_streams(self) -> None:
        with mock.patch.object(archives, "MAX_STREAMS", 50):
            self.refused(gzip.compress(b"") * 60, "compressed streams in a row")

    def test_xz_with_an_absurd_dictionary(self) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}]
        data = lzma.compress(tar(member("x", b"1")), format=lzma.FORMAT_XZ, filters=filters)
        self.refused(data, "does not decompress")

    def test_rubbish(self) -> None:
        self.refused(b"x" * 2000, "no tar archive")
        self.refused(b"\x1f\x8b" + b"x" * 2000, "does not decompress")
        self.refused(gzip.compress(tar(member("x", os.urandom(9000))))[:-4000], "cut short")
        self.refused(tar(member("x", b"1"))[:300], "middle of a header")

    def test_stop(self) -> None:
        path = self.archive(gzip.compress(tar(member("x", b"1"))))
        self.assertRaises(Interrupted, unpack, path, self.tree, stop=lambda: True)

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
            steps = archives.LINK_STEPS + 201 * archives.LINK_STEPS_PER_MEMBER
            self.assertLessEqual(len(asked), steps // archives.STEPS_PER_STOP + 10)
        self.assertEqual(os.listdir(self.tree), [])

    def test_each_member_pays_for_its_own_links(self) -> None:
        # 10 components each: "d" to the root and back, and a name.
        data = tar(*(link(f"l{i}", "d/../" * 4 + "d/x") for i in range(50)))
        with mock.patch.object(archives, "LINK_STEPS", 0):
            self.assertEqual(len(listing(self.archive(data))), 50)
            with mock.patch.object(archives, "LINK_STEPS_PER_MEMBER", 9):
                self.refused(data, "too long to follow")

    def test_stop_while_links_are_followed(self) -> None:
        data = self.long_links(60)
        path = self.archive(data)
        for read in (lambda stop: listing(path, stop=stop), lambda stop: unpack(path, self.tree, stop=stop)):
            following = []
            real = archives._Tree.check_links

            def check(tree: archives._Tree, stop, real=real, following=following) -> None:
                following.append(1)
                real(tree, stop)

            with mock.patch.object(archives._Tree, "check_links", check):
                self.assertRaises(Interrupted, read, lambda following=following: bool(following))
            self.assertEqual(following, [1])
        self.assertEqual(os.listdir(self.tree), [])

    def long_links(self, count: int) -> bytes:
        deep = "d/" * 200 + "../" * 200
        return tar(*(link(f"l{i}", f"{deep}l{(i + 1) % count}") for i in range(count)), form=tarfile.GNU_FORMAT)

    def test_destination_that_is_a_link(self) -> None:
        (self.root / "other").mkdir()
        (self.root / "link").symlink_to("other")
        self.assertRaises(OSError, unpack, self.archive(tar(member("x"))), self.root / "link")

    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_fuzz(self, data: st.DataObject) -> None:
        good = tar(
            member("a/b", b"x" * 700), link("l", "a"), link("h", "a/b", tarfile.LNKTYPE), member("c" * 150, b"y")
        )
        blob = bytearray(good)
        for _ in range(data.draw(st.integers(1, 6))):
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
        blob = blob[: data.draw(st.integers(0, len(blob)))]
        # Checksums are put right again, or every example would end there.
        for at in range(0, len(blob) - 511, 512):
            if blob[at + 257 : at + 262] == b"ustar":
                block = bytes(blob[at : at + 148]) + b" " * 8 + bytes(blob[at + 156 : at + 512])
                blob[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        packed = zlib.compress(bytes(blob), wbits=31) if data.draw(st.booleans()) else bytes(blob)
        with tempfile.TemporaryDirectory() as name:
            path, tree = Path(name) / "archive", Path(name) / "tree"
            tree.mkdir()
            path.write_bytes(packed)
            try:
                unpack(path, tree)
            except BadArchive:
                self.assertEqual(os.listdir(tree), [])
            for found in tree.rglob("*"):
                if not found.is_symlink():
                    self.assertTrue(found.resolve().is_relative_to(tree.resolve()))
            self.assertEqual(sorted(os.listdir(name)), ["archive", "tree"])
