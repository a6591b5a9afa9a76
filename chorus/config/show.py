"""The configuration for people: what is in effect, and the table of all variables."""

from __future__ import annotations

import attrs

from chorus.config.fields import default, example, is_secret, kind, shown, variable
from chorus.config.secret_files import ENGINE_MOUNTS, MAX_BYTES
from chorus.config.settings import SECRETS_DIR, Settings


@attrs.frozen
class Variable:
    """A row of the table of variables; all of it text for people."""

    name: str
    values: str
    default: str
    example: str
    description: str
    secret: bool


def describe() -> list[Variable]:
    """Every variable, in the order of `Settings`."""
    return [
        Variable(
            name=variable(name),
            values=kind(field),
            default=default(name, field),
            example=example(name, field),
            description=field.description or "",
            secret=is_secret(field),
        )
        for name, field in Settings.model_fields.items()
    ]


def effective(settings: Settings) -> dict[str, str]:
    """Variable → value in use, secrets masked."""
    return {variable(name): shown(getattr(settings, name)) for name in Settings.model_fields}


def render(settings: Settings) -> str:
    """The effective configuration, one `VARIABLE=value` a line, secrets masked, unset ones commented out."""
    lines = []
    defaults = {row.name: row.default for row in describe()}
    for name, value in effective(settings).items():
        if value == "" and defaults[name] == "":
            lines.append(f"# {name} is not set")
        else:
            lines.append(f"{name}={value}" + ("" if value != defaults[name] else "  # default"))
    return "\n".join(lines)


def table_markdown() -> str:
    """All variables as a Markdown table."""
    lines = ["| variable | value | default | meaning |", "| --- | --- | --- | --- |"]
    for row in describe():
        default = f"`{row.default}`" if row.default else ""
        example = (
            f" Example: `{row.example}`."
            if row.example and row.example != row.default and " " not in row.example
            else ""
        )
        name = f"`{row.name}`" + (f", `{row.name}_FILE`" if row.secret else "")
        lines.append(f"| {name} | {row.values} | {default} | {row.description}{example} |")
    lines.append(
        f"| `{SECRETS_DIR}` | a path |  | Directory whose files hold the secrets above, each named like its variable. |"
    )
    return "\n".join(lines)


def page() -> str:
    """docs/configuration.md."""
    mounts = " and ".join(f"`{mount}`" for mount in ENGINE_MOUNTS)
    return f"""# Configuration

A node is configured by environment variables alone. `twistd chorus config` prints what is in effect (secrets masked),
`twistd chorus config --table` this table. This page is generated (`scripts/gen-docs`).

- An empty variable counts as unset. Lists are separated by commas. Numbers and switches are checked at start: a wrong
  value ends the start with one line that names the variable, what is wrong with it and an example.
- A `CHORUS_` variable that this version does not know is a warning that names the nearest known one, not an error.
- A port of `0` takes any free one. The node writes the ports in use to `ports.json` in its data directory.
- Secrets (`CHORUS_…` with a `_FILE` form below) can come from a file: `CHORUS_X_FILE=/path`, which excludes `CHORUS_X`,
  or a file named like the variable, in capitals or small letters, in `CHORUS_SECRETS_DIR`, which is asked last. A file
  that is missing, empty, longer than {MAX_BYTES // 1024} KiB or open to others (`chmod 600`) is an error. Under
  {mounts} and in `CHORUS_SECRETS_DIR` others may read it, since engines mount secrets so, but not write it.
- `~` and `~name` at the beginning of a path are home directories, also where no shell has expanded them.
- `DOCKER_HOST` is used when `CHORUS_DOCKER_HOST` is unset.

{table_markdown()}
"""
