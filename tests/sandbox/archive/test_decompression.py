"""The bytes of an archive: four kinds of compression, and what compression can be made to do."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from unittest import mock

from chorus.sandbox.archive import decompression
from chorus.sandbox.archive.archives import BadArchive, Bounds, Interrupted, listing
from tests.sandbox.archive_kit import Base, member, tar

COMPRESSIONS = (gzip.compress, bz2.compress, lzma.compress)


class Decompression(Base):
    def test_concatenated_streams(self) -> None:
        data = tar(member("a", b"x" * 5000))
        for compress in COMPRESSIONS:
            path = self.archive(compress(data[:700]) + compress(b"") + compress(data[700:]))
            self.assertEqual([entry.size for entry in listing(path)], [5000])

    def test_streams_cut_at_every_byte_of_the_next_magic(self) -> None:
        data = tar(member("a", b"x" * 700), member("b", b"y" * 700))
        for compress in COMPRESSIONS:
            first, second = compress(data[:1536]), compress(data[1536:])
            path = self.archive(first + second)
            for read in range(len(first), len(first) + decompression.HEAD + 1):
                with mock.patch.object(decompression, "CHUNK", read):
                    self.assertEqual([entry.path for entry in listing(path)], ["a", "b"], (compress, read))

    def test_streams_read_in_pieces_of_every_length(self) -> None:
        data = tar(member("a", os.urandom(20)), member("b", b"y" * 700))
        for compress in COMPRESSIONS:
            packed = compress(data[:700]) + compress(b"") + compress(data[700:])
            path = self.archive(packed)
            for read in range(1, len(packed) + 1):
                with mock.patch.object(decompression, "CHUNK", read):
                    self.assertEqual([entry.size for entry in listing(path)], [20, 700], (compress, read))

    def test_zeros_between_streams_and_after_the_last(self) -> None:
        data = tar(member("a", b"x" * 700), member("b", b"y" * 700))[:3072]
        for compress in COMPRESSIONS:
            for size in (4, 508, decompression.CHUNK, 2 * decompression.CHUNK + 12):
                path = self.archive(compress(data[:1536]) + bytes(size) + compress(data[1536:]) + bytes(size))
                self.assertEqual([entry.path for entry in listing(path)], ["a", "b"], (compress, size))
        for compress in (gzip.compress, bz2.compress):
            path = self.archive(compress(data[:1536]) + bytes(3) + compress(data[1536:]) + bytes(1))
            self.assertEqual([entry.path for entry in listing(path)], ["a", "b"], compress)

    def test_zeros_that_are_no_padding_of_xz(self) -> None:
        data = tar(member("a", b"x" * 700), member("b", b"y" * 700))[:3072]
        for size in (1, 2, 3, 5, decompression.CHUNK + 6):
            self.refused(lzma.compress(data[:1536]) + bytes(size) + lzma.compress(data[1536:]), "no multiple of 4")
            self.refused(lzma.compress(data) + bytes(size), "no multiple of 4")

    def test_what_is_no_stream_is_not_read(self) -> None:
        data = tar(member("a", b"x" * 700), member("b", b"y" * 700))
        for compress in COMPRESSIONS:
            for rubbish in (b"\n", b"rubbish", bytes(8) + b"rubbish", b"r" * decompression.CHUNK):
                for read in (7, decompression.CHUNK):
                    with mock.patch.object(decompression, "CHUNK", read):
                        path = self.archive(compress(data[:1536]) + rubbish + compress(data[1536:]))
                        self.assertEqual([entry.path for entry in listing(path)], ["a"], (compress, rubbish[:20]))
                        with path.open("rb") as file:
                            source = decompression.PackedSource(file, Bounds(), lambda: False)
                            self.assertEqual([len(source.take(4096)) for _ in range(3)], [1536, 0, 0])

    def test_stopped_among_zeros(self) -> None:
        asked: list[int] = []

        def stop() -> bool:
            asked.append(1)
            return len(asked) > 20

        path = self.archive(gzip.compress(b"") + bytes(40 * decompression.CHUNK))
        self.assertRaises(Interrupted, listing, path, stop=stop)
        self.assertEqual(len(asked), 21)

    def test_gzip_that_fills_the_buffer_exactly(self) -> None:
        for size in (decompression.CHUNK - 2048, decompression.CHUNK, decompression.CHUNK * 2 + 7):
            path = self.archive(gzip.compress(tar(member("a", os.urandom(size)))))
            self.assertEqual([entry.size for entry in listing(path)], [size])

    def test_compression_bomb_is_stopped_while_it_streams(self) -> None:
        for compress in (lambda d: gzip.compress(d, 9), bz2.compress, lzma.compress):
            bomb = compress(tar(member("zeros", bytes(decompression.RATIO_FLOOR + (8 << 20)))))
            taken = []
            real = decompression.PackedSource._more

            def count(source: decompression.PackedSource, real=real, taken=taken) -> bytes:
                data = real(source)
                taken.append(len(data))
                return data

            with mock.patch.object(decompression.PackedSource, "_more", count):
                error = self.assertRaises(BadArchive, listing, self.archive(bomb))
            self.assertIn("times when unpacked", str(error))
            self.assertLessEqual(sum(taken), decompression.RATIO_FLOOR + decompression.CHUNK)
            self.assertLessEqual(max(taken), decompression.CHUNK)

    def test_zeros_buy_a_bomb_nothing(self) -> None:
        bomb = tar(member("zeros", bytes(decompression.RATIO_FLOOR + (8 << 20))))
        padding = bytes(8 << 20)
        for compress in COMPRESSIONS:
            self.refused(compress(b"") + padding + compress(bomb), "times when unpacked")

    def test_bomb_of_empty_streams(self) -> None:
        with mock.patch.object(decompression, "MAX_STREAMS", 50):
            self.refused(gzip.compress(b"") * 60, "compressed streams in a row")
            self.refused(gzip.compress(b"") * 51, "compressed streams in a row")
            self.assertEqual(listing(self.archive(gzip.compress(b"") * 50)), ())

    def test_xz_with_an_absurd_dictionary(self) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}]
        data = lzma.compress(tar(member("x", b"1")), format=lzma.FORMAT_XZ, filters=filters)
        self.refused(data, "does not decompress")

    def test_compressions_that_are_not_taken_are_named(self) -> None:
        for head, name in [
            (b"\x28\xb5\x2f\xfd", "Zstandard"), (b"\x04\x22\x4d\x18", "LZ4"), (b"LZIP\x01", "lzip"),
            (b"\x1f\x9d", "compress"), (b"7z\xbc\xaf\x27\x1c", "7-Zip"), (b"Rar!\x1a\x07", "RAR"),
        ]:  # fmt: skip
            self.refused(head + bytes(600), f"packed with {name}; use tar with gzip, bzip2 or xz, or zip")
        self.assertEqual([each.path for each in listing(self.archive(tar(member("LZIP", b"x"))))], ["LZIP"])
