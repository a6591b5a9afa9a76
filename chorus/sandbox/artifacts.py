"""Collecting deliverables: regular files that match, copied out by file descriptors, no link ever followed."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from chorus.sandbox.contract import Artifact

MAX_FILES = 1000
"""Files of one task: each becomes a blob and a row."""

MAX_ENTRIES = 100_000
"""Directory entries looked at."""

MAX_SKIPPED = 100
"""Reasons reported: a million links need no million lines."""

OUTPUT_PREFIXES = ("/workspace/output/", "./")


def glob_regex(pattern: str) -> re.Pattern[str]:
    """`*` and `?` within one name, `**` across folders, `[…]` classes; a folder's name means all below it."""
    for prefix in OUTPUT_PREFIXES:
        pattern = pattern.removeprefix(prefix)
    out = []
    at = 0
    while at < len(pattern):
        rest = pattern[at:]
        if rest.startswith("**/"):
            out.append("(?:[^/]+/)*")
            at += 3
        elif rest.startswith("**"):
            out.append(".*")
            at += 2
        elif rest[0] == "*":
            out.append("[^/]*")
            at += 1
        elif rest[0] == "?":
            out.append("[^/]")
            at += 1
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            body = rest[1:end].replace("\\", "\\\\").replace("[", "\\[").replace("&&", "&\\&").replace("||", "|\\|")
            body = body.replace("--", "-\\-").replace("~~", "~\\~")
            out.append(
                f"[^/{body[1:]}]" if body.startswith("!") else f"(?!/)[{body if body[0] != '^' else chr(92) + body}]"
            )
            at += end + 1
        else:
            out.append(re.escape(rest[0]))
            at += 1
    try:
        return re.compile("".join(out).rstrip("/") + "(?:/.*)?", re.DOTALL)
    except re.error:
        # A class such as [z-a] matches nothing but itself.
        return re.compile(re.escape(pattern))


@attrs.frozen
class Collected:
    """What was copied, and what matched but was not, each with its reason."""

    artifacts: tuple[Artifact, ...]
    skipped: tuple[str, ...]


def collect(output: Path, patterns: Iterable[str], into: Path, max_bytes: int) -> Collected:
    """Copy matching files of `output` below `into`. Blocking. The task must be dead: nothing else writes there."""
    regexes = [glob_regex(pattern) for pattern in patterns]
    if not regexes:
        return Collected((), ())
    found: list[Artifact] = []
    skipped: list[str] = []
    left = max_bytes
    for path, directory, name in _walk(output, skipped):
        if not any(regex.fullmatch(path) for regex in regexes):
            continue
        if len(found) >= MAX_FILES:
            skipped.append(f"{path}: more than {MAX_FILES} artifacts")
            break
        copied = _copy(path, directory, name, into, left)
        if isinstance(copied, str):
            skipped.append(f"{path}: {copied}")
        else:
            found.append(copied)
            left -= copied.size
    return Collected(tuple(sorted(found, key=lambda one: one.path)), tuple(skipped[:MAX_SKIPPED]))


def _walk(root: Path, skipped: list[str]) -> Iterator[tuple[str, int, str]]:
    """(path, open folder, name) of everything that is no folder."""
    seen = 0
    for folder, directories, names, fd in os.fwalk(root, follow_symlinks=False, onerror=lambda error: None):
        directories.sort()
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else f"{below}/"
        # os.fwalk lists links to folders among the folders, and does not enter them.
        links = [name for name in directories if stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode)]
        for name in sorted(names + links):
            seen += 1
            if seen > MAX_ENTRIES:
                skipped.append(
                    f"{prefix}{name}: more than {MAX_ENTRIES} files in the output, the rest was not looked at"
                )
                return
            yield f"{prefix}{name}", fd, name


def _copy(path: str, directory: int, name: str, into: Path, left: int) -> Artifact | str:
    try:
        # O_NONBLOCK: opening a fifo must not wait for its writer.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=directory)
    except OSError as error:
        return "a link" if stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode) else error.strerror or "unreadable"
    with os.fdopen(fd, "rb") as source:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "no regular file"
        if status.st_size > left:
            return f"{status.st_size} bytes, which is over the limit of all artifacts together"
        try:
            path.encode()
        except UnicodeEncodeError:
            return "its name is not UTF-8"
        local = into / path
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            size = target.tell()
    return Artifact(path, local, size)
