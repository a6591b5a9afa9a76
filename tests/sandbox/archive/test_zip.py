"""Zip archives: what people's tools write, and what two readers could read differently."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.sandbox.archive import zip_directory, zip_reader
from chorus.sandbox.archive.archives import BadArchive, Bounds, Interrupted, listing, unpack
from chorus.sandbox.archive.links import MAX_LINKS_FOLLOWED
from tests.sandbox.archive_kit import Base

UNIX = 3 << 8


def info(name: str, mode: int = stat.S_IFREG | 0o644, **fields: object) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name)
    found.create_system = 3
    found.external_attr = mode << 16
    found.compress_type = zipfile.ZIP_DEFLATED
    for key, value in fields.items():
        setattr(found, key, value)
    return found


def packed(*members: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def raw(
    name: bytes,
    data: bytes = b"",
    /,
    *,
    flags: int = 0,
    method: int = 0,
    made_by: int = UNIX,
    attributes: int = 0,
    extra: bytes = b"",
    date: int = 0x21,
    central: dict[str, object] | None = None,
) -> bytes:
    """An archive of one entry, byte by byte; `central` has what its directory says otherwise."""
    said = {"name": name, "crc": zlib.crc32(data), "packed": len(data), "size": len(data), "offset": 0, "flags": flags}
    said |= {"method": method, "disk": 0, "count": 1, **(central or {})}
    local = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, date, zlib.crc32(data), len(data), len(data), len(name), 0
    )
    body = local + name + data
    row = struct.pack(
        *("<4s6H3L5H2L", b"PK\1\2", made_by, 20, said["flags"], said["method"], 0, date, said["crc"], said["packed"]),
        *(said["size"], len(said["name"]), len(extra), 0, said["disk"], 0, attributes, said["offset"]),  # type: ignore[arg-type]
    )
    directory = row + said["name"] + extra  # type: ignore[operator]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, said["count"], said["count"], len(directory), len(body), 0)
    return body + directory + end


class Good(Base):
    def test_files_folders_links_modes_and_times(self) -> None:
        data = packed(
            (info("d/", stat.S_IFDIR | 0o750), b""),
            (info("d/run", stat.S_IFREG | 0o6755, date_time=(2001, 2, 3, 4, 5, 6)), b"#!" * 5000),
            (info("stored", compress_type=zipfile.ZIP_STORED), b"s"),
            (info("lib.so", stat.S_IFLNK | 0o777), b"d/run"),
            (info("empty/", stat.S_IFDIR | 0o755), b""),
        )
        path = self.archive(data)
        self.assertEqual([each.path for each in listing(path)], ["d", "d/run", "stored", "lib.so", "empty"])
        got = unpack(path, self.tree)
        self.assertEqual((got.members, got.size), (5, 10001))
        self.assertEqual((self.tree / "d/run").read_bytes(), b"#!" * 5000)
        self.assertEqual(stat.S_IMODE((self.tree / "d/run").stat().st_mode), 0o755)
        self.assertEqual(stat.S_IMODE((self.tree / "d").stat().st_mode), 0o750)
        self.assertEqual((self.tree / "d/run").stat().st_mtime, 981_173_106)
        self.assertEqual(os.readlink(self.tree / "lib.so"), "d/run")
        self.assertEqual(os.listdir(self.tree / "empty"), [])

    def test_what_zip_writes(self) -> None:
        """By its own options: folders, links, through a pipe (sizes after the data), zip64, nothing compressed."""
        source = self.root / "source"
        (source / "d/empty").mkdir(parents=True)
        (source / "d/ünï").write_bytes(os.urandom(3000))
        (source / "run").write_bytes(b"#!/bin/sh\n" * 100)
        (source / "run").chmod(0o755)
        (source / "link").symlink_to("run")
        os.utime(source / "run", (1_000_000_000, 1_000_000_000))
        made: list[bytes] = []
        for options in ([], ["-0"], ["-fz"], ["-X"]):
            path = self.root.absolute() / f"{len(made)}.zip"
            try:
                subprocess.run(["zip", "-qry", *options, path, "."], cwd=source, check=True)
            except FileNotFoundError:
                raise self.skipTest("zip is not installed") from None
            made.append(path.read_bytes())
        for number, data in enumerate(made):
            tree = self.root / f"tree{number}"
            tree.mkdir()
            unpack(self.archive(data), tree)
            self.assertEqual((tree / "d/ünï").read_bytes(), (source / "d/ünï").read_bytes())
            self.assertEqual(stat.S_IMODE((tree / "run").stat().st_mode), 0o755)
            self.assertEqual(os.readlink(tree / "link"), "run")
            self.assertTrue((tree / "d/empty").is_dir())
            if number != 3:  # -X leaves out the times in UTC
                self.assertEqual((tree / "run").stat().st_mtime, 1_000_000_000)
        through_a_pipe = ["zip", "-q", "-", "run"]
        piped = subprocess.run(through_a_pipe, cwd=source, check=True, stdout=subprocess.PIPE).stdout
        self.assertEqual([(each.path, each.size) for each in listing(self.archive(piped))], [("run", 10 * 100)])

    def test_an_empty_one(self) -> None:
        self.assertEqual(listing(self.archive(packed())), ())

    def test_a_comment_that_looks_like_an_end(self) -> None:
        data = bytearray(packed(("a", b"1")))
        comment = b"PK\5\6" + b"x" * 40
        data[-2:] = struct.pack("<H", len(comment))
        self.assertEqual([each.path for each in listing(self.archive(bytes(data) + comment))], ["a"])

    def test_zip64(self) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive, archive.open(info("big"), "w", force_zip64=True) as file:
            file.write(b"x" * 1000)
        self.assertEqual([each.size for each in listing(self.archive(out.getvalue()))], [1000])
        with mock.patch.object(zipfile, "ZIP_FILECOUNT_LIMIT", 0), mock.patch.object(zipfile, "ZIP64_LIMIT", 10):
            data = packed((info("a"), b"x" * 100), (info("b"), b"y" * 100))
        self.assertIn(b"PK\6\6", data)
        self.assertEqual([each.size for each in listing(self.archive(data))], [100, 100])
        at = data.index(b"PK\6\6")
        self.refused(data[: at + 24] + b"\7" + data[at + 25 :], "contradict each other")
        self.refused(data[: at + 4] + b"\1" + data[at + 5 :], "zip64 end is not where it says")
        end = data.index(b"PK\5\6")
        contradicting = data[: end + 10] + struct.pack("<H", 7) + data[end + 12 :]
        self.refused(contradicting, "contradict each other")

    def test_names(self) -> None:
        unicode_path = b"\1" + struct.pack("<L", zlib.crc32(b"na?ve")) + "naïve".encode()
        stale = b"\1" + struct.pack("<L", 0) + b"other"
        for given_, name in [
            (raw("über".encode(), flags=1 << 11), "über"),
            (raw("über".encode()), "über"),
            (raw(b"\x81ber"), "über"),
            (raw(b"na?ve", extra=struct.pack("<2H", 0x7075, len(unicode_path)) + unicode_path), "naïve"),
            (raw(b"na?ve", extra=struct.pack("<2H", 0x7075, len(stale)) + stale), "na?ve"),
            (raw(b"d\\e\\f", made_by=20), "d/e/f"),
            (raw(b"d\\e", made_by=UNIX), "d\\e"),
            (raw(b"./a//b"), "a/b"),
        ]:
            self.assertEqual([(each.path, each.mode) for each in listing(self.archive(given_))], [(name, 0o644)])
        self.refused(raw(b"\xff\xfe", flags=1 << 11), "not the UTF-8 that it says")

    def test_times(self) -> None:
        def stamped(value: int) -> bytes:
            return raw(b"x", extra=struct.pack("<2HBl", 0x5455, 5, 1, value))

        for data, mtime in [
            (stamped(1_000_000_000), 1_000_000_000), (stamped(-5), 0), (raw(b"x"), 315_532_800), (raw(b"x", date=0), 0),
            (raw(b"x", date=0xFFFF), 0), (raw(b"x", extra=b"\x55\x54\xff\xff"), 315_532_800),
        ]:  # fmt: skip
            self.assertEqual([each.mtime for each in listing(self.archive(data))], [mtime])

    def test_extra_fields_are_read_up_to_a_limit(self) -> None:
        moment = struct.pack("<2HBl", 0x5455, 5, 1, 1_000_000_000)
        padding = struct.pack("<2H", 0xD935, 0)
        for before, mtime in ((zip_directory.MAX_FIELDS - 1, 1_000_000_000), (zip_directory.MAX_FIELDS, 315_532_800)):
            (found,) = listing(self.archive(raw(b"x", extra=padding * before + moment)))
            self.assertEqual(found.mtime, mtime)

    def test_folders_by_attribute_alone(self) -> None:
        for data in (raw(b"d", made_by=20, attributes=0x10), raw(b"d", attributes=(stat.S_IFDIR | 0o700) << 16)):
            self.assertEqual([each.kind for each in listing(self.archive(data))], ["directory"])


class Hostile(Base):
    def test_the_tree_s_rules(self) -> None:
        link = stat.S_IFLNK | 0o777
        self.refused(packed(("/etc/passwd", b"")), "absolute")
        self.refused(packed(("../x", b"")), "'..'")
        self.refused(raw(b"..\\x", made_by=20), "'..'")
        self.refused(raw(b"a\0b"), "NUL in it")
        self.refused(packed((info("l", link), b"/etc/passwd")), "relative")
        self.refused(packed((info("l", link), b"..")), "leaves")
        self.refused(packed((info("l", link), b"")), "relative")
        self.refused(packed((info("d", link), b"."), ("d/x", b"")), "lies below")
        self.refused(packed((info("a/s", link), b".."), (info("t", link), b"a/s/../..")), "leaves")
        self.refused(packed(("a", b""), ("a/b", b"")), "lies below")
        self.refused(packed((info("l", link), b"x" * 1025)), "a link with a target of 1025 bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twice = packed(("a", b"1"), ("a", b"2"))
        self.refused(twice, "comes twice")
        loop = packed(*((info(f"l{n}", link), b"l%d" % (n + 1)) for n in range(MAX_LINKS_FOLLOWED + 5)))
        self.assertEqual(len(listing(self.archive(loop))), MAX_LINKS_FOLLOWED + 5)

    def test_limits(self) -> None:
        self.refused(packed(("a", b"x" * 600), ("b", b"x" * 600)), "holds more than 1199 bytes", Bounds(max_bytes=1199))
        self.assertEqual(len(listing(self.archive(packed(("a", b"x" * 600), ("b", b"x" * 600))), Bounds(1200))), 2)
        many = packed(*((f"f{n}", b"") for n in range(11)))
        self.refused(many, "more than 10 members", Bounds(max_members=10))
        self.assertEqual(len(listing(self.archive(many), Bounds(max_members=11))), 11)
        self.refused(packed(("a" * 30, b""), ("b" * 30, b"")), "longer than 50 characters", Bounds(max_names=50))
        self.refused(packed(("x/" * 48 + "y", b"")), "more than 48 levels")

    def test_a_bomb(self) -> None:
        path = self.archive(packed(("zeros", bytes(3_000_000))))
        with mock.patch.object(zip_reader, "RATIO_FLOOR", 1 << 20):
            error = self.assertRaises(BadArchive, unpack, path, self.tree)
        self.assertIn("grows more than 250 times", str(error))
        self.assertEqual(os.listdir(self.tree), [])
        self.assertEqual(unpack(path, self.tree).size, 3_000_000)

    def test_entries_that_share_bytes(self) -> None:
        """Overlapping entries make the largest bombs, and are two archives for two readers."""
        data = packed(("a", b"1" * 50), ("b", b"2" * 50))
        first = data.index(b"PK\1\2")
        second = data.index(b"PK\1\2", first + 1)
        end = data.index(b"PK\5\6")
        offset = struct.unpack_from("<L", data, second + 42)[0]
        same_name = data[: offset + 30] + b"b" + data[offset + 31 :]
        both = same_name[: second + 42] + struct.pack("<L", 0) + same_name[second + 46 :]
        self.refused(both, "another in its directory than beside its bytes")
        twice = data[:end] + data[first:second] + data[end:]
        twice = twice[:-14] + struct.pack("<2HL", 3, 3, end - first + second - first) + twice[-6:]
        self.refused(twice, "overlaps with another entry")
        into_directory = raw(b"x", b"1", central={"packed": 80, "size": 80})
        self.refused(into_directory, "another in its directory")
        # Both headers may agree on bytes that are the directory's.
        crc = zlib.crc32(b"1")
        agreed = into_directory.replace(struct.pack("<3L", crc, 1, 1), struct.pack("<3L", crc, 80, 80))
        self.refused(agreed, "overlaps with another entry")

    def test_two_headers_that_differ(self) -> None:
        for said in ({"name": b"y"}, {"size": 4}, {"packed": 3}, {"crc": 1}, {"method": 8}, {"flags": 8}):
            self.refused(raw(b"x", b"data!", central=said), "another in its directory than beside its bytes")
        self.refused(raw(b"x", b"data!", central={"offset": 3}), "not where its directory says")
        self.refused(raw(b"x", b"data!", central={"offset": 1 << 30}), "not where its directory says")

    def test_bodies_that_are_not_what_they_claim(self) -> None:
        data = packed((info("x"), b"0123456789" * 30))
        stored = raw(b"x", b"data!")
        at = data.index(b"PK\1\2")
        cut = zlib.compressobj(wbits=-15)
        more = cut.compress(b"abc") + cut.flush()
        for bad in (
            stored.replace(b"data!", b"Data!", 1),
            data[: at - 2] + b"\0\0" + data[at:],
            raw(b"x", more[:-1], method=8),
            raw(b"x", more + b"trailing", method=8),
            raw(b"x", more, method=8),
        ):
            path = self.archive(bad)
            error = self.assertRaises(BadArchive, unpack, path, self.tree)
            self.assertIn("damaged", str(error))
            self.assertEqual(os.listdir(self.tree), [])

    def test_more_bytes_than_claimed_are_not_written(self) -> None:
        """The claim is what the limit on all bytes was checked against."""
        deflate = zlib.compressobj(wbits=-15)
        body = deflate.compress(bytes(5_000_000)) + deflate.flush()
        lying = raw(b"x", body, method=8, central={"size": 10}).replace(
            struct.pack("<2L", *2 * [len(body)]), struct.pack("<2L", len(body), 10)
        )
        written: list[int] = []
        real = os.write

        def write(fd: int, data: bytes) -> int:
            written.append(len(data))
            return real(fd, data)

        with mock.patch("os.write", write):
            self.assertRaises(BadArchive, unpack, self.archive(lying), self.tree)
        self.assertEqual(sum(written), 0)

    def test_what_is_not_taken(self) -> None:
        for data, text in [
            (raw(b"x", flags=1), "is encrypted; pack it without a password"),
            (raw(b"x", flags=1 << 6), "is encrypted"),
            (raw(b"x", flags=1 << 13), "is encrypted"),
            (raw(b"x", method=99), "is encrypted"),
            (raw(b"x", method=12), "compressed with bzip2; pack it with deflate"),
            (raw(b"x", method=77), "compressed with method 77"),
            (raw(b"x", central={"disk": 1}), "one volume of several"),
            (raw(b"x", attributes=(stat.S_IFCHR | 0o666) << 16), "a character device"),
            (raw(b"x", attributes=(stat.S_IFIFO | 0o666) << 16), "a fifo"),
            (raw(b"x", attributes=(stat.S_IFSOCK | 0o666) << 16), "a socket"),
            (raw(b"x/", b"1"), "a folder with content"),
        ]:
            self.refused(data, text)

    def test_a_directory_that_is_not_there(self) -> None:
        good = packed(("a", b"1"), ("b", b"2"))
        self.refused(good[:-5], "no end: it is cut short")
        self.refused(good + b"more", "no end: it is cut short, or something follows it")
        self.refused(good[:40] + good[41:], "not where its end says")
        self.refused(b"PK\3\4" + b"x" * 500, "no end")
        for count, text in ((3, "ends before its last entry"), (1, "goes on behind its last entry")):
            self.refused(good[:-14] + struct.pack("<2H", count, count) + good[-10:], text)
        self.refused(good[:-14] + struct.pack("<2H", 1, 2) + good[-10:], "one volume of several")

    def test_stop(self) -> None:
        path = self.archive(packed(("a", b"1"), ("b", os.urandom(900_000))))
        self.assertRaises(Interrupted, listing, path, stop=lambda: True)
        asked: list[int] = []

        def later() -> bool:
            asked.append(1)
            return len(asked) > 5

        self.assertRaises(Interrupted, unpack, path, self.tree, stop=later)
        self.assertEqual(os.listdir(self.tree), [])

    def test_every_byte_of_the_directory_may_be_any(self) -> None:
        """A changed byte is refused, or changes nothing but what describes a file (times, modes, names, comments)."""
        good = packed(("d/a", b"1" * 40), (info("l", stat.S_IFLNK | 0o777), b"d/a"))
        start = good.index(b"PK\1\2")
        for at in range(start, len(good)):
            for value in (0, 0x7F, 0xFF):
                bad = good[:at] + bytes([value]) + good[at + 1 :]
                path = self.archive(bad)
                tree = Path(tempfile.mkdtemp(dir=self.root))
                try:
                    unpack(path, tree)
                except BadArchive:
                    self.assertEqual(os.listdir(tree), [])
                else:
                    files = [found for found in tree.rglob("*") if found.is_file() and not found.is_symlink()]
                    self.assertLessEqual({found.read_bytes() for found in files}, {b"1" * 40, b"d/a"})

    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_fuzz(self, data: st.DataObject) -> None:
        good = packed(("a/b", b"x" * 700), (info("l", stat.S_IFLNK | 0o777), b"a"), ("c" * 150, b"y"))
        blob = bytearray(good)
        for _ in range(data.draw(st.integers(1, 6))):
            blob[data.draw(st.integers(4, len(blob) - 1))] = data.draw(st.integers(0, 255))
        with tempfile.TemporaryDirectory() as name:
            path, tree = Path(name) / "archive", Path(name) / "tree"
            tree.mkdir()
            path.write_bytes(blob)
            try:
                unpack(path, tree)
            except BadArchive:
                self.assertEqual(os.listdir(tree), [])
            for found in tree.rglob("*"):
                if not found.is_symlink():
                    self.assertTrue(found.resolve().is_relative_to(tree.resolve()))
            self.assertEqual(sorted(os.listdir(name)), ["archive", "tree"])

    def test_the_end_is_found_wherever_the_search_is_cut(self) -> None:
        good = packed(("a", b"1"))
        for comment in (0, 1, 21, 22, 65_535):
            data = good[:-2] + struct.pack("<H", comment) + b"PK\5\6"[: min(comment, 4)] + b"c" * max(0, comment - 4)
            self.assertEqual(len(listing(self.archive(data))), 1, comment)
        self.assertEqual(zip_directory.MAX_COMMENT, 65_535)
