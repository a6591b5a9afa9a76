"""Archives made for tests, and a place to unpack them."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from chorus.sandbox.archive.archives import BadArchive, Bounds, listing, unpack
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
    return patched(block.ljust(512, b"\0"), 0, b"")


def patched(block: bytes, at: int, field: bytes) -> bytes:
    """The header with other bytes at a place, and its checksum right again."""
    block = block[:at] + field + block[at + len(field) :]
    block = block[:148] + b" " * 8 + block[156:]
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
