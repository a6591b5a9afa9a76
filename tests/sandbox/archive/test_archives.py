"""Archives that users send, good ones and hostile ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
import zlib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.sandbox.archive.archives import BadArchive, Bounds, Interrupted, listing, unpack
from tests.sandbox.archive_kit import Base, link, member, tar


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

    def test_no_end_blocks_and_root_entry(self) -> None:
        data = tar(member("./", type=tarfile.DIRTYPE), member("./a/b", b"1"), form=tarfile.USTAR_FORMAT)
        path = self.archive(data[: 512 * 3])
        self.assertEqual([entry.path for entry in listing(path)], ["a/b"])
        unpack(path, self.tree)
        self.assertEqual((self.tree / "a/b").read_bytes(), b"1")


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

    def test_limit_of_bytes(self) -> None:
        data = tar(member("a", b"x" * 600), member("b", b"x" * 600))
        self.refused(data, "holds more than 1000 bytes", Bounds(max_bytes=1000))

    def test_limit_of_members(self) -> None:
        self.refused(tar(*(member(f"f{i}") for i in range(11))), "more than 10 members", Bounds(max_members=10))

    def test_rubbish(self) -> None:
        self.refused(b"x" * 2000, "no tar archive")
        self.refused(b"\x1f\x8b" + b"x" * 2000, "does not decompress")
        self.refused(gzip.compress(tar(member("x", os.urandom(9000))))[:-4000], "cut short")
        self.refused(tar(member("x", b"1"))[:300], "middle of a header")

    def test_stop(self) -> None:
        path = self.archive(gzip.compress(tar(member("x", b"1"))))
        self.assertRaises(Interrupted, unpack, path, self.tree, stop=lambda: True)

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
