"""Headers of tar archives, one by one."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile

from chorus.sandbox.archive import limits as archive_limits
from chorus.sandbox.archive import tar_reader
from chorus.sandbox.archive.archives import Bounds, listing, unpack
from chorus.sandbox.archive.member import LATEST
from chorus.sandbox.archive.tar_fields import loose
from tests.sandbox.archive_kit import Base, header, member, patched, tar

NEGATIVE = (-315_619_200 & (1 << 96) - 1).to_bytes(12, "big")
"""1960-01-01 in base-256."""


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

    def test_limits_met_exactly(self) -> None:
        path = self.archive(tar(member("a", b"x" * 600), member("b", b"y" * 400)))
        self.assertEqual(len(listing(path, Bounds(max_bytes=1000, max_members=2))), 2)
        self.refused(path.read_bytes(), "holds more than 999 bytes", Bounds(max_bytes=999))
        self.refused(path.read_bytes(), "more than 1 members", Bounds(max_members=1))

    def test_times_and_modes_never_refuse_an_archive(self) -> None:
        """Nothing depends on them: what is out of range, or no number, is brought into it."""
        for field, mtime in [
            (NEGATIVE, 0), (b"\xff" * 12, 0), (b"\x80" + b"\xff" * 11, LATEST), (b"\xc0" + b"\0" * 11, 0),
            (b"77777777777\0", LATEST - 1), (b"-1".ljust(12), 0), (b"rubbish".ljust(12), 0),
            (b" 17\0".ljust(12, b"\0"), 15),
            (b"\0" * 12, 0), (b"\x80" + b"\0" * 10 + b"\x07", 7),
        ]:  # fmt: skip
            (found,) = listing(self.archive(patched(header(b"x", b"0"), 136, field)))
            self.assertEqual(found.mtime, mtime, field)
        for field, mode in [(b"\xff" * 8, 0o777), (b"rubbish\0", 0o644), (b"0104755\0", 0o755), (b"\0" * 8, 0)]:
            (found,) = listing(self.archive(patched(header(b"x", b"0"), 100, field)))
            self.assertEqual(found.mode, mode, field)
        (folder,) = listing(self.archive(patched(header(b"d", b"0", b"5"), 100, b"rubbish\0")))
        self.assertEqual(folder.mode, 0o755)

    def test_numbers_in_base_256(self) -> None:
        for value in (0, 1, -1, 1 << 40, -(1 << 40), (1 << 94) - 1, -(1 << 94)):
            # The first bit marks the base, the second is the sign.
            field = bytearray((value & (1 << 96) - 1).to_bytes(12, "big"))
            field[0] |= 0x80
            self.assertEqual(loose(bytes(field)), value)

    def test_labels_of_volumes_are_passed_over(self) -> None:
        label = header(b"label", b"0", b"V")
        self.assertEqual([each.path for each in listing(self.archive(label + tar(member("x", b"1"))))], ["x"])
        with_body = header(b"label", b"5", b"V") + b"12345".ljust(512, b"\0")
        self.assertEqual([each.path for each in listing(self.archive(with_body + tar(member("x", b"1"))))], ["x"])
        self.refused(label * tar_reader.MAX_GLOBAL_HEADERS + tar(member("x")), "too many extended headers")
        self.refused(header(b"label", b"77777777777", b"V") + b"x" * 512, "middle of a file")
        # A long name before it is the label's.
        long = header(b"././@LongLink", b"3", b"L") + b"abc".ljust(512, b"\0")
        self.assertEqual([each.path for each in listing(self.archive(long + label + tar(member("x"))))], ["x"])

    def test_folders_of_incremental_archives(self) -> None:
        names = b"Ya\0Nb\0\0"
        dump = header(b"d/", b"%o" % len(names), b"D") + names.ljust(512, b"\0")
        path = self.archive(dump + tar(member("d/a", b"1")))
        folder, _ = listing(path)
        self.assertEqual((folder.path, folder.kind, folder.size), ("d", "directory", 0))
        unpack(path, self.tree)
        self.assertEqual(os.listdir(self.tree / "d"), ["a"])

    def test_archives_of_several_volumes(self) -> None:
        self.refused(header(b"x", b"1", b"M") + b"x" * 512, "began in another volume; pack it into one volume")
        records = {"GNU.volume.filename": "x", "GNU.volume.size": "9", "GNU.volume.offset": "4"}
        self.refused(tarfile.TarInfo.create_pax_global_header(records) + tar(member("x", b"12345")), "another volume")

    def test_further_forms_of_headers(self) -> None:
        # Solaris has its own letter for pax headers, and writers pad them with zeros.
        record = b"14 path=a/long\n".replace(b"14", b"15")
        for kind in (b"x", b"X"):
            data = header(b"p", b"%o" % 512, kind) + record.ljust(512, b"\0") + tar(member("short"))
            self.assertEqual([each.path for each in listing(self.archive(data))], ["a/long"], kind)
        # star's prefix is shorter, and times follow it at once.
        star = patched(header(b"name", b"0"), 345, b"p" * 131 + b"00000000017 00000000017 ".ljust(32, b"\0") + b"tar\0")
        self.assertEqual([each.path for each in listing(self.archive(star))], ["p" * 131 + "/name"])
        self.refused(patched(star, 508, b"\0" * 4), "a name of more than 100", Bounds(max_component=100))

    def test_what_gnu_tar_writes(self) -> None:
        """Every option whose archive is an ordinary tree."""
        source = self.root / "source"
        (source / "d/empty").mkdir(parents=True)
        (source / "d/a").write_bytes(b"x" * 700)
        (source / ("n" * 200)).write_bytes(b"long")
        os.utime(source / "d/a", (-315_619_200, -315_619_200))
        forms = [
            ["--format=gnu"],
            ["--format=posix"],
            ["--format=oldgnu"],
            ["-V", "label"],
            ["-V", "l", "--format=posix"],
        ]
        forms += [
            [f"--listed-incremental={self.root / name}", *more] for name, more in [("s", []), ("p", ["--format=pax"])]
        ]
        for number, options in enumerate(forms):
            path, tree = self.root / f"{number}.tar", self.root / f"tree{number}"
            tree.mkdir()
            subprocess.run(["tar", *options, "-cf", path, "-C", source, "."], check=True, capture_output=True)
            unpack(path, tree)
            self.assertEqual(sorted(os.listdir(tree)), sorted(os.listdir(source)), options)
            self.assertEqual((tree / "d/a").read_bytes(), b"x" * 700)
            self.assertEqual((tree / "d/a").stat().st_mtime, 0, options)
            self.assertTrue((tree / "d/empty").is_dir())
