"""Addresses of decisions: `ucxl://agent:role@project:task/temporal/path` (spec/ucxl.md, "Address").

`Address.parse` takes every string: it gives an address, or raises an `AddressError` that names the part and the offset.
Each address has one spelling, which `str` gives. `^`, `~` and `*` may come raw or percent-encoded.
"""

from __future__ import annotations

import datetime
import re
from typing import ClassVar, Final

import attrs

from chorus.errors import UserError
from chorus.fields.members import MAX_ADDRESS, MAX_NAME

SCHEME: Final = "ucxl://"
ANY: Final = "any"
"""In the place of a name: whatever it is. Only in queries."""
NO_PROJECT: Final = "none"
"""The project of a task that has none (spec/amendments.md 36)."""
MAX_STEPS: Final = 999_999_999
"""Of `~~N` and `^^N`: no chain is longer, and nine digits are read without cost."""

VERSION_ROOM: Final = 66
"""Characters that a published address leaves for `/=` and a hash, so that each of its versions has an address."""

PARTS: Final = ("agent", "role", "project", "task")
"""The names of an address, in order; each ends at the mark of the same place."""
TEMPORAL: Final = "temporal"
_ENDS: Final = (":", "@", ":", "/")
_NAME: Final = re.compile("[A-Za-z0-9._-]*")
_TEMPORAL_MARKS: Final = "*^~@="
"""A first segment that begins with one of them says the version, and nothing else."""
_PCHAR: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@^-]*")
"""Characters of a segment that stand for themselves: those of RFC 3986, and `^`."""
_RAW: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@")
"""Bytes that the one spelling of a path leaves as they are."""
_ESCAPE: Final = re.compile("%([0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile("[\0-\x1f\x7f-\x9f/]")
_STEPS: Final = re.compile("0|[1-9][0-9]{0,8}")
_HASH: Final = re.compile("[0-9A-Fa-f]{64}")
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)


class AddressError(UserError):
    """A text that is no address, or none for this purpose. `part` is what is wrong, `offset` the character where."""

    code = "bad_address"

    def __init__(self, part: str, offset: int, problem: str) -> None:
        super().__init__(f"{part} of the address, at character {offset}: {problem}")
        self.part = part
        self.offset = offset


@attrs.frozen
class Latest:
    """`*^`, and `~~N`: N versions before the latest."""

    back: int | None = None

    def __str__(self) -> str:
        return "*^" if self.back is None else f"~~{self.back}"


@attrs.frozen
class First:
    """`*~`, and `^^N`: N versions after the first."""

    on: int | None = None

    def __str__(self) -> str:
        return "*~" if self.on is None else f"^^{self.on}"


@attrs.frozen
class InForce:
    """`@TIME`: the version that was the latest at a time. Microseconds since 1970, UTC."""

    at_us: int

    @classmethod
    def parse(cls, text: str) -> InForce | None:
        """Of a time as in RFC 3339, with at most six digits of a second; None where it is none, or no real one."""
        found = _TIME.fullmatch(text)
        if found is None:
            return None
        date, time, fraction, zone = found.groups()
        try:
            moment = datetime.datetime.fromisoformat(f"{date}T{time}{'+00:00' if zone in 'Zz' else zone}")
            moment = moment.astimezone(datetime.UTC) + int((fraction or "").ljust(6, "0")) * _MICROSECOND
        except (ValueError, OverflowError):
            return None
        return cls((moment - _EPOCH) // _MICROSECOND)

    def __str__(self) -> str:
        moment = _EPOCH + self.at_us * _MICROSECOND
        fraction = f".{moment.microsecond:06}".rstrip("0") if moment.microsecond else ""
        return f"@{moment.replace(microsecond=0, tzinfo=None).isoformat()}{fraction}Z"


@attrs.frozen
class Exactly:
    """`=HASH`: the version with this content hash, in 64 small hexadecimal digits."""

    content: str

    def __str__(self) -> str:
        return f"={self.content}"


Temporal = Latest | First | InForce | Exactly


@attrs.frozen
class Address:
    """`path` holds decoded segments. Made by `parse` and `published`, which check all of it."""

    agent: str
    role: str
    project: str
    task: str
    path: tuple[str, ...] = ()
    temporal: Temporal | None = None

    MAX: ClassVar[int] = MAX_ADDRESS
    """Characters of the one spelling, and of what is read."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises `AddressError`, and nothing else, whatever the text holds."""
        if len(text) > cls.MAX:
            raise AddressError("length", cls.MAX, f"{len(text)} characters are over the limit of {cls.MAX}")
        if not text.startswith(SCHEME):
            offset = next((at for at, (a, b) in enumerate(zip(text, SCHEME, strict=False)) if a != b), len(text))
            raise AddressError("scheme", min(offset, len(SCHEME)), f"it must begin with {SCHEME}")
        names: list[str] = []
        offset = len(SCHEME)
        for part, end in zip(PARTS, _ENDS, strict=True):
            name, offset = _read_name(text, offset, part, end)
            names.append(name)
        temporal, path = _read_segments(text, offset)
        agent, role, project, task = names
        address = cls(agent, role, project, task, path, temporal)
        size = len(str(address))
        if size > cls.MAX:
            raise AddressError("length", len(text), f"written out it has {size} characters, over {cls.MAX}")
        return address

    @classmethod
    def published(cls, text: str) -> Address:
        """An address under which something is kept: in its one spelling, without wildcards and without a version.

        Raises `AddressError`.
        """
        address = cls.parse(text)
        if address.temporal is not None:
            raise AddressError(TEMPORAL, address.offset_of(TEMPORAL), "an address to publish under names no version")
        for part in address.wildcards:
            raise AddressError(part, address.offset_of(part), f"an address to publish under has no wildcard ({ANY})")
        if len(text) > cls.MAX - VERSION_ROOM:
            raise AddressError("length", cls.MAX - VERSION_ROOM, "with a version it would be too long")
        if (written := str(address)) != text:
            offset = next((at for at, (a, b) in enumerate(zip(text, written, strict=False)) if a != b), len(written))
            raise AddressError("spelling", offset, f"it is written {written}")
        return address

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Names of the parts that are `any`."""
        return tuple(part for part in PARTS if getattr(self, part) == ANY)

    def offset_of(self, part: str) -> int:
        """Where one of the names, or the version, begins in the one spelling."""
        before = PARTS if part == TEMPORAL else PARTS[: PARTS.index(part)]
        return len(SCHEME) + sum(len(getattr(self, each)) + 1 for each in before)

    @property
    def base(self) -> Address:
        """The same without the version: what heads and chains are kept under."""
        return attrs.evolve(self, temporal=None)

    def at(self, temporal: Temporal | None) -> Address:
        """The same with another version."""
        return attrs.evolve(self, temporal=temporal)

    @property
    def path_text(self) -> str:
        """The path as it is written, without a slash before it."""
        return "/".join(map(_quote, self.path))

    def __str__(self) -> str:
        names = f"{SCHEME}{self.agent}:{self.role}@{self.project}:{self.task}"
        segments = [*([] if self.temporal is None else [str(self.temporal)]), *map(_quote, self.path)]
        return "/".join((names, *segments))


def exact(address: str, content: str) -> str:
    """A published address with the version that has this content hash. Raises `AddressError`."""
    return str(Address.published(address).at(Exactly(content)))


def _read_name(text: str, offset: int, part: str, end: str) -> tuple[str, int]:
    """The name at `offset`, and the offset after its end mark (after the last name: of the slash, or of the end)."""
    found = _NAME.match(text, offset)
    assert found is not None  # it matches nothing too
    name, stop = found[0], found.end()
    at_end = end == "/" and stop == len(text)
    if not at_end and not text.startswith(end, stop):
        got = repr(text[stop]) if stop < len(text) else "the end"
        raise AddressError(part, stop, f"letters, digits and . _ - and then {end!r}, not {got}")
    if not 1 <= len(name) <= MAX_NAME:
        raise AddressError(part, offset, f"a name has 1 to {MAX_NAME} characters, not {len(name)}")
    return name, stop + (end != "/")


def _read_segments(text: str, offset: int) -> tuple[Temporal | None, tuple[str, ...]]:
    """What stands from the slash after the names on. One slash at the end says nothing."""
    temporal: Temporal | None = None
    path: list[str] = []
    end = len(text)
    if text.endswith("/") and end > offset:
        end -= 1
    first = True
    while offset < end:
        start = offset + 1
        stop = text.find("/", start, end)
        stop = end if stop < 0 else stop
        likely = first and text[start : start + 1] in ("*", "^", "~", "@", "=", "%")
        segment = _decode(text, start, stop, TEMPORAL if likely else "path")
        if first and segment[0] in _TEMPORAL_MARKS:
            temporal = _read_temporal(segment, start)
        else:
            path.append(segment)
            if temporal is not None and len(path) == 1 and segment[0] in _TEMPORAL_MARKS:
                raise AddressError("path", start, f"its first segment begins with none of {_TEMPORAL_MARKS}")
        first = False
        offset = stop
    return temporal, tuple(path)


def _decode(text: str, start: int, stop: int, part: str) -> str:
    """One segment, decoded."""
    if start == stop:
        raise AddressError(part, start, "a segment is empty")
    raw = bytearray()
    at = start
    while at < stop:
        found = _PCHAR.match(text, at, stop)
        assert found is not None
        raw += found[0].encode()
        at = found.end()
        if at < stop:
            escape = _ESCAPE.match(text, at, stop)
            if escape is None:
                raise AddressError(part, at, f"{text[at]!r} must be percent-encoded")
            raw.append(int(escape[1], 16))
            at = escape.end()
    try:
        segment = raw.decode()
    except UnicodeDecodeError:
        raise AddressError(part, start, "what is percent-encoded is not UTF-8") from None
    if segment in (".", ".."):
        raise AddressError(part, start, f"{segment!r} is no segment")
    if (control := _CONTROL.search(segment)) is not None:
        raise AddressError(part, start, f"a segment holds no {control[0]!r}")
    return segment


def _read_temporal(segment: str, offset: int) -> Temporal:
    if segment == "*^":
        return Latest()
    if segment == "*~":
        return First()
    mark, rest = segment[:2], segment[2:]
    if mark in ("~~", "^^") and _STEPS.fullmatch(rest):
        return Latest(int(rest)) if mark == "~~" else First(int(rest))
    if segment[0] == "=" and _HASH.fullmatch(segment, 1):
        return Exactly(segment[1:].lower())
    if segment[0] == "@" and (moment := InForce.parse(segment[1:])) is not None:
        return moment
    expected = {
        "=": "= and a SHA-256 in 64 hexadecimal digits",
        "@": "@ and a time as 2026-01-31T12:00:00Z, with at most six digits of a second",
    }.get(segment[0], f"*^ *~ ~~N ^^N (N at most {MAX_STEPS}), @TIME or =HASH")
    raise AddressError(TEMPORAL, offset, f"a version is {expected}")


def _quote(segment: str) -> str:
    return "".join(chr(byte) if byte in _RAW else f"%{byte:02X}" for byte in segment.encode())


def project_problem(project: str | None) -> str | None:
    """Why a task's project has no place in an address (spec/amendments.md 36); None where it has one.

    Only such projects are taken that no other one shares a name with: `/` is written `..`.
    """
    if project is None:
        return None
    if project in (NO_PROJECT, ANY):
        return f"{project} is no name of a project: it stands for {'no project' if project == NO_PROJECT else 'all'}"
    if any(pair in project for pair in ("..", "./", "/.")):
        return "no two dots follow each other in a project, and none stands beside a slash"
    if len(project.replace("/", "..")) > MAX_NAME:
        return f"with .. in the place of each slash it has over {MAX_NAME} characters"
    return None


def task_address(peer_id: str, role: str, project: str | None, task_id: str) -> Address:
    """Of the decision on a task that this peer ran, writing under `role` (spec/amendments.md 36).

    Raises `AddressError` for a project of which `project_problem` says something.
    """
    name = NO_PROJECT if project is None else project.replace("/", "..")
    if (problem := project_problem(project)) is not None:
        raise AddressError("project", len(f"{SCHEME}{peer_id}:{role}@"), problem)
    return Address.published(f"{SCHEME}{peer_id}:{role}@{name}:{task_id}")
