"""A `.git` of its own for a work tree: its history, branches, tags and index, and nothing that may hold a secret.

Hooks, remotes and their URLs, stashes, the reflog, what no branch or tag reaches, and all configuration but a few
switches stay here. So a linked worktree, a submodule and a shared clone become repositories that need no other folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from chorus.client.git import COPY_S, GitFailed, ask

_SWITCHES = r"^core\.(filemode|symlinks|ignorecase|autocrlf|eol)$"
"""Configuration that says whether a file counts as changed; none of it can hold a secret."""


def write_git_folder(work_tree: Path, into: Path) -> None:
    """Fill the empty folder `into`. Raises `GitFailed`."""
    objects = into / "objects" / "pack"
    objects.mkdir(parents=True)
    (into / "refs").mkdir()
    refs = [line.split(b" ", 1) for line in _lines(work_tree, "for-each-ref", _REF, "refs/heads", "refs/tags")]
    branch = ask(work_tree, "symbolic-ref", "-q", "HEAD", fine=(0, 1)).strip()
    commit = ask(work_tree, "rev-parse", "-q", "--verify", "HEAD", fine=(0, 1)).strip()
    (into / "HEAD").write_bytes((b"ref: " + branch if branch else commit) + b"\n")
    (into / "packed-refs").write_bytes(b"".join(b"%s %s\n" % (sha, name) for sha, name in refs))
    (into / "config").write_bytes(_config(work_tree))
    _copy_shallow(work_tree, into)
    wanted = b"".join(b"%s\n" % sha for sha in {commit, *(sha for sha, _ in refs)} if sha)
    # One thread, so that the same objects become the same bytes more often.
    words = ("pack-objects", "-q", "--revs", "--indexed-objects", "--threads=1", str(objects.absolute() / "pack"))
    ask(work_tree, *words, given=wanted, limit_s=COPY_S)
    index = ask(work_tree, "ls-files", "-z", "--stage")
    ask(work_tree, f"--git-dir={into.absolute()}", "update-index", "-z", "--index-info", given=index)


_REF = "--format=%(objectname) %(refname)"


def _config(work_tree: Path) -> bytes:
    kind = ask(work_tree, "rev-parse", "--show-object-format").strip()
    lines = [b"[core]", b"\tbare = false", b"\trepositoryformatversion = %d" % (kind != b"sha1")]
    for entry in filter(None, ask(work_tree, "config", "-z", "--get-regexp", _SWITCHES, fine=(0, 1)).split(b"\0")):
        name, _, value = entry.partition(b"\n")
        lines.append(b"\t%s = %s" % (name.removeprefix(b"core."), value))
    if kind != b"sha1":
        lines += [b"[extensions]", b"\tobjectFormat = " + kind]
    return b"\n".join(lines) + b"\n"


def _copy_shallow(work_tree: Path, into: Path) -> None:
    """The commits whose parents a shallow clone does not have."""
    name = ask(work_tree, "rev-parse", "--git-path", "shallow").removesuffix(b"\n")
    path = work_tree / os.fsdecode(name)
    try:
        (into / "shallow").write_bytes(path.read_bytes())
    except FileNotFoundError:
        return
    except OSError as error:
        raise GitFailed(f"cannot read {path}: {error.strerror}") from None


def _lines(work_tree: Path, *words: str) -> list[bytes]:
    return ask(work_tree, *words).splitlines()
