"""Questions to git in a clean environment: each gives git's answer, or one line that says why there is none.

Only questions about files and objects are asked, never anything that runs hooks or filters of a repository.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus.client.errors import ClientError

GIT_S = 60.0
"""The longest that git may take to list a work tree: a cold disk and a million files need less."""
COPY_S = 600.0
"""The longest that git may take to copy a history: a gigabyte and a slow disk need less."""

_KEPT = frozenset(
    {
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_SYSTEM",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_CONFIG_COUNT",
        "GIT_CONFIG_PARAMETERS",
        "GIT_EXEC_PATH",
    }
)
"""Variables of a person's configuration (`git -c` sets GIT_CONFIG_PARAMETERS), which may say what is ignored, and of
git's own installation. All others (`GIT_DIR`, `GIT_INDEX_FILE`, …) are
set by a hook or an alias for another command and would have git answer about another work tree."""
_KEPT_NUMBERED = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")
_SET = {
    # The line that is shown, and what is recognised in it, must not depend on the language.
    "LC_ALL": "C",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    # A folder that is mounted into a work tree is still a part of it.
    "GIT_DISCOVERY_ACROSS_FILESYSTEM": "1",
    "GIT_TRACE2": "0",
    "GIT_TRACE2_PERF": "0",
    "GIT_TRACE2_EVENT": "0",
}
_COMPLAINTS = (b"warning: ", b"error: ", b"fatal: ")


class GitFailed(Exception):
    """The text is git's own line, or why git could not be asked."""


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what says which repository, index or objects git shall take."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith("GIT_") or name in _KEPT or name.startswith(_KEPT_NUMBERED)
    }
    return kept | _SET


def ask(
    folder: Path, *words: str, given: bytes = b"", limit_s: float | None = None, fine: Sequence[int] = (0,)
) -> bytes:
    """The output of `git WORDS` in `folder`. Raises `GitFailed` where it fails, and where it warns: a `.gitignore` or a
    folder that it could not read makes the answer a wrong one."""
    # A work tree's own configuration may name programs to run.
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *words]
    limit = GIT_S if limit_s is None else limit_s
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, check=False, timeout=limit, env=environment(os.environ)
        )
    except FileNotFoundError:
        raise GitFailed("git is not installed") from None
    except OSError as error:
        raise GitFailed(f"git cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise GitFailed(f"git took over {limit:g} s") from None
    complaints = [line for line in done.stderr.splitlines() if line.startswith(_COMPLAINTS)]
    if done.returncode not in fine or complaints:
        said = complaints or done.stderr.splitlines() or [f"git ended with status {done.returncode}".encode()]
        text = said[0].decode("utf-8", "replace")
        raise GitFailed(text.removeprefix("fatal: ").removeprefix("error: ").removeprefix("warning: "))
    return done.stdout


def refusal(folder: Path, reason: str, name: str = "") -> ClientError:
    """The line for a work tree that git does not list: why, and how to go on. `name`: where it lies inside of the
    directory that is packed, if it does."""
    how = "--all-files takes everything, also what git ignores"
    if name:
        how = f"--include {shown(name)} takes all of it, {how}"
    if "dubious ownership" in reason:
        how = f"`git config --global --add safe.directory {shown(folder)}` trusts its owner, {how}"
    why = printable(reason)
    return ClientError(f"what git ignores in {shown(folder)} is not known: {why}; nothing was sent: {how}")


def shown(path: Path | str) -> str:
    """A path in a line of text."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)
