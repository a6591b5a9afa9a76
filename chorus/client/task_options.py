"""The options of `chorus task submit` as the fields of a task; an error names the option."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chorus.client.errors import ClientError, Refused
from chorus.client.pack import PackOptions

OPTIONS = {
    "title": "title",
    "description": "description",
    "project": "project",
    "language": "language",
    "shell": "shell",
    "image": "image",
    "env": "env",
    "artifacts": "artifact",
    "depends_on": "depends_on",
    "priority": "priority",
    "retries": "retries",
    "idempotency_key": "idempotency_key",
    "required.role": "require_role",
    "required.expertise": "require_expertise",
    "required.capabilities": "require_capability",
    "limits.timeout_s": "timeout",
    "limits.cpu": "cpu",
    "limits.memory_mb": "memory",
    "limits.disk_mb": "disk",
}
"""Fields of a task that an option of `task submit` gives, and its name in the parsed options."""
MAX_TITLE = 200
"""Bytes of a title that is made from a folder's name."""

Options = argparse.Namespace
Document = dict[str, Any]
MakeCommand = Callable[["argparse._SubParsersAction[argparse.ArgumentParser]", str, str], argparse.ArgumentParser]
"""Adds a command of this name and description."""


def fields_of(options: Options) -> Document:
    """The fields that options name."""
    fields: Document = {}
    for field, dest in OPTIONS.items():
        if (value := getattr(options, dest)) is None:
            continue
        _must_be_text(f"--{dest.replace('_', '-')}", value)
        outer, _, inner = field.partition(".")
        if inner:
            fields.setdefault(outer, {})[inner] = value
        else:
            fields[field] = value
    _must_be_text("--env", options.env)
    _must_be_text("the command", options.argv)
    if options.env:
        fields["env"] = dict(_variable(text) for text in options.env)
    if options.argv:
        # One word is a shell line, several are the words of one command.
        fields["commands"] = [options.argv[0] if len(options.argv) == 1 else options.argv]
    return fields


def by_option(error: Refused, options: Options) -> ClientError:
    """The refusal of a field in the words of the one who gave an option for it."""
    # artifacts[0] and env.NAME are of one option too.
    dest = next((dest for field, dest in OPTIONS.items() if re.match(rf"{re.escape(field)}\b", error.field)), None)
    if dest is None or getattr(options, dest) is None:
        return error
    option = f"--{dest.replace('_', '-')}"
    return ClientError(f"{option}: {str(error).removeprefix(f'{error.field}: ')}", error.exit_status)


def _must_be_text(name: str, value: object) -> None:
    """Raises `ClientError` for an argument with bytes that are no UTF-8: a task is JSON, which cannot hold them."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str) and any("\ud800" <= character <= "\udfff" for character in each):
            raise ClientError(f"{name}: {each!a} holds bytes that are no UTF-8, which a task cannot name")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ClientError(f"--env {text}: write NAME=VALUE")
    return name, value


def title_of(path: Path) -> str:
    """One line from the name of a folder or a file, which may hold any byte."""
    text = os.fsencode(path.resolve().name).decode("utf-8", "replace")
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line.encode()[:MAX_TITLE].decode("utf-8", "ignore")


def wanted_of(options: Options) -> PackOptions:
    """The files to pack. Raises `ClientError` for options that make no sense together, or without a directory."""
    wanted = PackOptions(options.all_files, tuple(options.include or ()), options.with_git)
    if wanted.all_files and wanted.include:
        raise ClientError("--include is for some of what git ignores, --all-files for all of it: give one of them")
    if wanted != PackOptions() and (options.path is None or not Path(options.path).is_dir()):
        raise ClientError("--include, --all-files and --with-git say what of a directory is packed: PATH must be one")
    return wanted
