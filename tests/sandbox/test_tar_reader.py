"""Headers of tar archives, one by one."""

from __future__ import annotations

import gzip
import tarfile

from chorus.sandbox import archive_limits, tar_reader
from chorus.sandbox.archives import Bounds, listing
from tests.sandbox.archive_kit import Base, header, member, tar


class Headers(Base):
    def test_what_gnu_tar_and_git_write(self) -> None:
        # A global header with a comment, as `git archive` writes it.
        comment = tarfile.TarInfo.create_pax_global_header({"comment": "0" * 40})
        path = self.archive(comment + tar(member("x", b"1")))
        self.assertEqual([entry.path for entry in listing(path)], ["x"])

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

    def test_limit_of_path_component_and_depth(self) -> None:
        self.refused(tar(member("x/" * 30 + "y")), "a path of more than 50", Bounds(max_path=50))
        self.refused(tar(member("z" * 256)), "a name of more than 255")
        self.refused(tar(member("x/" * 48 + "y")), "more than 48 levels")

    def test_limit_of_extended_headers(self) -> None:
        self.refused(tar(member("x", pax_headers={"comment": "c" * archive_limits.MAX_HEADER})), "extended header of")
        self.refused(header(b"L", b"77777777777", b"L"), "extended header of")
        chain = tarfile.TarInfo.create_pax_global_header({"comment": "x"}) * tar_reader.MAX_GLOBAL_HEADERS
        self.refused(chain + tar(member("x")), "too many extended headers")

    def test_broken_pax_records(self) -> None:
        for record in (b"99 path=x\n", b"abc\n", b"0 a=b\n", b"9 pathxy\n", b"7 path=x", b"12345678901 a=b\n"):
            self.refused(header(b"p", b"%o" % len(record), b"x") + record.ljust(512, b"\0"), "broken extended header")

    def test_bomb_of_headers(self) -> None:
        data = gzip.compress(b"".join(header(b"f%d" % i, b"0") for i in range(3000)))
        self.refused(data, "more than 1000 members", Bounds(max_members=1000))
