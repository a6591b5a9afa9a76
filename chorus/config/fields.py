"""One setting as text for people: its variable, its kind of value, its default and an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

PREFIX = "CHORUS_"

_EXAMPLES: dict[str, str] = {
    "agent_id": "node1",
    "license_id": "dev-0001",
    "data_dir": "/var/lib/chorus",
    "agent_role": "developer",
    "agent_reports_to": "lead1",
    "agent_specialization": "backend",
    "join": "the token that `chorus token` prints on a running node",
    "cluster_secret": "32 random bytes in hexadecimal, as `openssl rand -hex 32` prints them",
    "keyring_passphrase": "several random words",
    "api_token": "a long random text, as `openssl rand -hex 32` prints it",
}


def variable(name: str) -> str:
    """The variable of a field."""
    return PREFIX + name.upper()


def is_secret(field: FieldInfo) -> bool:
    """True if the field's value must never be shown."""
    return field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def shown(value: object) -> str:
    """A setting as its variable would spell it; a secret as `********`."""
    match value:
        case None:
            return ""
        case SecretStr():
            return "********"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}" if value < 1e6 else f"{value:.0f}"
        case tuple():
            return ",".join(map(str, value))
        case dict():
            return ",".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def example(name: str, field: FieldInfo) -> str:
    if field.examples:
        return str(field.examples[0])
    return _EXAMPLES.get(name) or shown(field.default)


def default(name: str, field: FieldInfo) -> str:
    if name == "data_dir":
        return "~/.local/share/chorus"
    return "" if field.default is PydanticUndefined else shown(field.default)


def _bare(annotation: Any) -> Any:
    """The type inside `Annotated` and `| None`."""
    while get_origin(annotation) is not None:
        if get_origin(annotation) in {Literal, tuple, dict}:
            return annotation
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def kind(field: FieldInfo) -> str:
    bare = _bare(field.annotation)
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(get_args(bare))
    if get_origin(bare) is dict:
        return "comma-separated name=value"
    if get_origin(bare) is tuple:
        return "comma-separated list"
    if bare is bool:
        return "true or false"
    if bare in {int, float}:
        low = next((m for m in field.metadata if hasattr(m, "ge") or hasattr(m, "gt")), None)
        high = next((m for m in field.metadata if hasattr(m, "le")), None)
        least = "over " + shown(low.gt) if low is not None and hasattr(low, "gt") else shown(getattr(low, "ge", None))
        number = "a whole number" if bare is int else "a number"
        joint = " and at most " if low is not None and hasattr(low, "gt") else " to "
        start = "" if least.startswith("over") else "from "
        return f"{number} {start}{least}{joint}{shown(getattr(high, 'le', None))}"
    if bare is Path:
        return "a path"
    if bare is SecretStr:
        return "text, secret"
    return "text"
