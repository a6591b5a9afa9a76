"""The fields of a tar header, decoded strictly: octal and base-256 numbers, checksums, pax records.

After POSIX.1-2001 (ustar, pax) and the GNU manual; what is no field of theirs raises `BadArchive`.
"""

from __future__ import annotations

import os

from chorus.sandbox.archive.limits import BadArchive


def text(field: bytes) -> str:
    return os.fsdecode(field.split(b"\0", 1)[0])


def number(field: bytes, what: str) -> int:
    """Octal, or GNU's base-256. Negative numbers are refused: sizes that go backwards have hung readers."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise BadArchive(f"a negative or absurd {what} in a header")
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise BadArchive(f"a {what} in a header is no number")
    return int(digits, 8)


def loose(field: bytes) -> int | None:
    """As `number`, of a field on which nothing depends: negative where base-256 says so, None where it is no number."""
    if field[0] & 0x80:
        # GNU's base-256 is one two's complement number; the first bit only marks it.
        return int.from_bytes(bytes([field[0] & 0x7F | (field[0] & 0x40) << 1]) + field[1:], "big", signed=True)
    try:
        return number(field, "")
    except BadArchive:
        return None


def check_sum(block: bytes) -> None:
    digits = block[148:156].strip(b" \0")
    stored = int(digits, 8) if digits and not digits.strip(b"01234567") else -1
    blank = block[:148] + b" " * 8 + block[156:]
    # Some old writers took bytes as signed.
    if stored != (total := sum(blank)) and stored != total - 256 * sum(byte > 127 for byte in blank):
        raise BadArchive("this is no tar archive (a header's checksum is wrong)")


def pax_records(data: bytes) -> dict[str, str]:
    """`<length> <key>=<value>\\n` records."""
    records: dict[str, str] = {}
    at = 0
    # Some writers pad with zeros inside of the size that they give.
    data = data.rstrip(b"\0")
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        if space < 0 or not data[at:space].isdigit():
            raise BadArchive("a broken extended header")
        end = at + int(data[at:space])
        if end > len(data) or end <= space + 2 or data[end - 1 : end] != b"\n":
            raise BadArchive("a broken extended header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise BadArchive("a broken extended header")
        records[os.fsdecode(key)] = os.fsdecode(value)
        at = end
    return records
