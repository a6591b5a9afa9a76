"""The one way to declare a JSON document: its declaration is its reader, its limits, the words of a refusal, its JSON
Schema and its page.

An attrs class declares an object, `field(shape, meaning)` a member of it. `Object(cls)` reads and writes it, and gives
its schema. A document is parsed by `strictjson` before; whoever reads it turns a `Refusal` into an error of its own.
"""

from chorus.fields.objects import Field, Nullable, Object, Tagged, Variants, field, fields_of
from chorus.fields.shapes import (
    AnyObject,
    Base64,
    Flag,
    Integer,
    ListOf,
    Number,
    OneOf,
    Refusal,
    Schema,
    Shape,
    Text,
    nullable,
)

__all__ = [
    "AnyObject",
    "Base64",
    "Field",
    "Flag",
    "Integer",
    "ListOf",
    "Nullable",
    "Number",
    "Object",
    "OneOf",
    "Refusal",
    "Schema",
    "Shape",
    "Tagged",
    "Text",
    "Variants",
    "field",
    "fields_of",
    "nullable",
]
