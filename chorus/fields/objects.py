"""JSON objects declared as attrs classes: each attribute made by `field` is a member of the same name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

import attrs

from chorus.fields.shapes import OneOf, Refusal, Schema, Shape, nullable, shown

if TYPE_CHECKING:
    from chorus.seams import JSON

MAX_SHOWN_NAME: Final = 64
"""Characters of an unknown member's name that an error repeats."""

_SHAPE = "shape"
_MEANING = "meaning"
_MISSING: Final = object()

T = TypeVar("T")


@attrs.frozen
class Field:
    """One member of an object."""

    name: str
    shape: Shape
    meaning: str
    default: Any
    """The value of a missing member; `attrs.NOTHING`: it must be there."""

    @property
    def needed(self) -> bool:
        return self.default is attrs.NOTHING

    def schema(self) -> Schema:
        schema = self.shape.schema()
        described = f"{self.meaning} {schema.pop('description', '')}".strip()
        if described:
            schema = {"description": described, **schema}
        if not self.needed:
            schema = nullable(schema)
            if isinstance(self.default, int | float | str | tuple) and self.default not in ("", ()):
                schema["default"] = list(self.default) if isinstance(self.default, tuple) else self.default
        return schema


def field(shape: Shape, meaning: str = "", **arguments: Any) -> Any:
    """An attribute that is a member of the JSON object. One with a default may be missing."""
    return attrs.field(metadata={_SHAPE: shape, _MEANING: meaning}, **arguments)


@cache
def _fields_of(cls: Any) -> tuple[Field, ...]:
    return tuple(
        Field(each.name, each.metadata[_SHAPE], each.metadata[_MEANING], each.default)
        for each in attrs.fields(cls)
        if _SHAPE in each.metadata
    )


def fields_of(cls: Any) -> tuple[Field, ...]:
    """The members that `field` declared in the class `cls`, in order."""
    return _fields_of(cls)


@attrs.frozen
class Object(Shape, Generic[T]):
    """An object that the class `cls` declares."""

    cls: type[T]
    closed: bool = attrs.field(default=False, kw_only=True)
    """True if unknown members are refused; otherwise they are passed over, so that newer nodes can say more."""
    nulls: bool = attrs.field(default=False, kw_only=True)
    """True if null is a value of its own, written, and read only where a shape takes it. Otherwise it means that the
    member is missing."""
    fields: tuple[Field, ...] = attrs.field(
        default=attrs.Factory(lambda self: fields_of(self.cls), takes_self=True), kw_only=True
    )
    _plan: tuple[tuple[str, Callable[[object], Any], Any], ...] = attrs.field(init=False, eq=False, repr=False)
    expected = "an object"

    @_plan.default
    def _make_plan(self) -> tuple[tuple[str, Callable[[object], Any], Any], ...]:
        return tuple((each.name, each.shape.read, each.default) for each in self.fields)

    def read(self, value: object) -> T:
        return self.cls(**self.arguments(value))

    def arguments(self, value: object) -> dict[str, Any]:
        """The arguments that the class is made from. Raises `Refusal` for the first member that is wrong."""
        if not isinstance(value, dict):
            raise Refusal(self.expected, value, "must be an object, not {}")
        if self.closed:
            self._refuse_unknown(value)
        arguments: dict[str, Any] = {}
        absent = (_MISSING,) if self.nulls else (_MISSING, None)
        name = ""
        try:
            for name, read, default in self._plan:
                given = value.get(name, _MISSING)
                if given not in absent:
                    arguments[name] = read(given)
                elif default is attrs.NOTHING:
                    shape = next(each.shape for each in self.fields if each.name == name)
                    raise Refusal(shape.expected, None, "is missing")
                elif not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
                    arguments[name] = default
        except Refusal as refusal:
            raise refusal.under(name) from None
        return arguments

    def _refuse_unknown(self, value: Iterable[str]) -> None:
        known = [each.name for each in self.fields]
        for name in value:
            if name not in known:
                start = name[:MAX_SHOWN_NAME]
                near = difflib.get_close_matches(start.lower(), known, 1, 0.6)
                hint = f"did you mean {near[0]}?" if near else f"known fields are {', '.join(known)}"
                path = start if name.isprintable() else shown(start)
                raise Refusal("a known field", None, f"unknown field; {hint}").under(path)

    def write(self, value: Any) -> dict[str, JSON]:
        members: dict[str, JSON] = {}
        for each in self.fields:
            item = getattr(value, each.name)
            if item is not None:
                members[each.name] = each.shape.write(item)
            elif self.nulls:
                members[each.name] = None
        return members

    def schema(self) -> Schema:
        return {
            "type": "object",
            "properties": {each.name: each.schema() for each in self.fields},
            "required": [each.name for each in self.fields if each.needed],
            **({"additionalProperties": False} if self.closed else {}),
        }


@attrs.frozen
class Nullable(Shape):
    """Null, or a value of another shape; for objects in which null is a value of its own."""

    shape: Shape

    @property
    def expected(self) -> str:
        return f"{self.shape.expected}, or null"

    def read(self, value: object) -> Any:
        return None if value is None else self.shape.read(value)

    def write(self, value: Any) -> JSON:
        return None if value is None else self.shape.write(value)

    def schema(self) -> Schema:
        return nullable(self.shape.schema())


class Tagged:
    """One of several objects. `TYPE` is its word on the wire, in the member `type`."""

    __slots__ = ()
    TYPE: ClassVar[str]


class Variants(Generic[T]):
    """Objects of a protocol, told apart by their `type`."""

    def __init__(self, classes: Iterable[type[T]], *, nulls: bool = False) -> None:
        self._objects = {cls.TYPE: Object(cls, nulls=nulls) for cls in classes}  # type: ignore[attr-defined]
        self._types = OneOf(tuple(self._objects))

    def read(self, value: object) -> T:
        """Raises `Refusal`, in whose path the type comes first."""
        if not isinstance(value, dict):
            raise Refusal("an object", value, "must be an object, not {}")
        try:
            kind: str = self._types.read(value.get("type"))
        except Refusal as refusal:
            raise refusal.under("type") from None
        try:
            return self._objects[kind].read(value)
        except Refusal as refusal:
            raise refusal.under(kind) from None

    def write(self, message: T) -> dict[str, JSON]:
        kind: str = message.TYPE  # type: ignore[attr-defined]
        return {**self._objects[kind].write(message), "type": kind}
