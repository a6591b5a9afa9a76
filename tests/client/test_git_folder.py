"""`--with-git`: a `.git` that works by itself, and holds nothing but history and index."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

from chorus.client.pack import PackOptions
from tests.client.tree import TreeCase

WITH_GIT = PackOptions(with_git=True)
SECRETS = ("TOKEN", "hunter2", "stashed", "dangling", "amended", "in a hook", "reflog word")


class WithGit(TreeCase):
    def unpacked(self, at: str = "", wanted: PackOptions = WITH_GIT) -> str:
        """What a task would find, as a path below `root` for `git`."""
        self.files(at, wanted)
        target = self.base / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(self.out.getvalue())) as tar:
            tar.extractall(target, filter="fully_trusted")
        return "../unpacked"

    def same(self, *words: str, at: str = "") -> None:
        """The copy answers as the original does."""
        self.assertEqual(self.git(*words, at="../unpacked"), self.git(*words, at=at), words)

    def test_version_tools_work(self) -> None:
        self.repository(commit=True)
        self.git("tag", "-am", "first", "v1.0")
        self.git("branch", "other")
        self.write("sub/code", "more")
        self.git("commit", "-qam", "second")
        self.write("sub/code", "changed")
        self.write("staged", "only in the index")
        self.git("add", "staged")
        self.write("untracked")
        self.unpacked()
        for words in (
            ("describe", "--tags"),
            ("describe", "--dirty"),
            ("log", "--format=%H %s %an"),
            ("status", "--porcelain"),
            ("branch", "--list"),
            ("diff",),
            ("diff", "--cached"),
            ("symbolic-ref", "HEAD"),
        ):
            self.same(*words)
        self.git("fsck", "--strict", "--no-dangling", at="../unpacked")
        self.git("-c", "user.name=x", "commit", "-qam", "in the sandbox", at="../unpacked")

    def test_nothing_else_comes_along(self) -> None:
        self.repository(commit=True)
        self.git("remote", "add", "origin", "https://me:hunter2@example.invalid/x.git")
        self.git("config", "http.extraheader", "AUTHORIZATION: basic TOKEN")
        self.git("config", "credential.helper", "store --file=hunter2")
        self.git("config", "core.sshCommand", "ssh -i hunter2")
        hooks = self.root / ".git/hooks"
        hooks.mkdir()
        (hooks / "pre-commit.sample").write_text("in a hook")
        self.write("sub/code", "stashed")
        self.git("stash", "-q")
        self.write("sub/code", "dangling")
        self.git("add", ".")
        self.write("sub/code", "in the index")
        self.git("add", ".")
        self.git("commit", "-q", "--allow-empty", "-m", "amended")
        self.git("commit", "-q", "--amend", "-m", "final")
        (self.root / ".git/logs/HEAD").open("a").write("reflog word\n")
        at = self.unpacked()
        found = self.git("cat-file", "--batch-all-objects", "--batch", "--buffer", at=at)
        self.assertIn("in the index", found)
        files = [path for path in (self.base / "unpacked").rglob("*") if path.is_file()]
        found += "".join(path.read_bytes().decode("latin-1") for path in files)
        for word in SECRETS:
            self.assertNotIn(word, found)
        self.assertEqual(self.git("stash", "list", at=at) + self.git("remote", at=at), "")

    def test_a_linked_worktree(self) -> None:
        self.repository(commit=True)
        self.git("worktree", "add", "-q", "-b", "branch", "../linked")
        (self.base / "linked/sub/code").write_text("changed there")
        (self.base / "linked/.env").write_text("TOKEN")
        self.unpacked("../linked")
        for words in (("status", "--porcelain"), ("symbolic-ref", "HEAD"), ("log", "--format=%H"), ("diff",)):
            self.same(*words, at="../linked")

    def test_submodules_and_repositories_inside(self) -> None:
        self.repository("../lib", commit=True)
        self.repository(commit=True)
        self.git("submodule", "--quiet", "add", "../lib", "vendor")
        self.git("commit", "-qam", "with a submodule")
        self.repository("inner", commit=True)
        self.unpacked()
        for at in ("", "/vendor", "/inner"):
            head = self.git("rev-parse", "HEAD", at=f"../unpacked{at}")
            self.assertEqual(head, self.git("rev-parse", "HEAD", at=at.removeprefix("/")))
        self.assertEqual(self.git("status", "--porcelain", "-uno", at="../unpacked"), "")
        self.assertTrue((self.base / "unpacked/vendor/.git").is_dir())

    def test_a_detached_head_and_none(self) -> None:
        self.repository(commit=True)
        self.git("checkout", "-q", "--detach")
        self.unpacked()
        self.same("rev-parse", "HEAD")
        self.same("status", "--porcelain")
        self.root = self.base / "second"
        self.repository()
        self.unpacked()
        self.same("status", "--porcelain")

    def test_a_shallow_clone_and_a_shared_one(self) -> None:
        self.repository("../origin", commit=True)
        for text in ("2", "3"):
            (self.base / "origin/sub/code").write_text(text)
            self.git("commit", "-qam", text, at="../origin")
        for option, source in (("--depth=1", f"file://{self.base}/origin"), ("--shared", f"{self.base}/origin")):
            shutil.rmtree(self.root)
            self.root.mkdir()
            self.git("clone", "-q", option, source, ".")
            self.unpacked()
            self.same("log", "--format=%H")
            self.same("status", "--porcelain")
            self.assertFalse((self.base / "unpacked/.git/objects/info/alternates").exists())

    def test_another_hash(self) -> None:
        self.git("init", "-q", "--object-format=sha256")
        self.write("a")
        self.git("add", "a")
        self.git("commit", "-qm", "x")
        self.unpacked()
        self.same("log", "--format=%H")
        self.same("status", "--porcelain")

    def test_switches_that_say_what_is_changed(self) -> None:
        self.repository(commit=True)
        (self.root / "sub/code").chmod(0o755)
        self.git("config", "core.fileMode", "false")
        self.unpacked()
        self.assertEqual(self.git("status", "--porcelain", at="../unpacked"), "")

    def test_where_there_is_none(self) -> None:
        self.write("a")
        self.assertIn("is no git work tree", self.refused(wanted=WITH_GIT))
        self.repository()
        self.assertIn(f"is a folder of the work tree {self.root}, submit that", self.refused("sub", WITH_GIT))

    def test_a_history_that_cannot_be_copied(self) -> None:
        self.repository(commit=True)
        head = self.git("rev-parse", "HEAD").strip()
        (self.root / ".git/objects" / head[:2] / head[2:]).unlink()
        self.assertIn("--with-git: cannot copy the repository", self.refused(wanted=WITH_GIT))

    def test_with_everything(self) -> None:
        self.repository(commit=True)
        self.unpacked(wanted=PackOptions(all_files=True, with_git=True))
        self.same("log", "--format=%H")
        self.assertTrue((self.base / "unpacked/.env").exists())

    def test_without_it_there_is_no_git(self) -> None:
        self.repository(commit=True)
        self.assertFalse([name for name in self.members() if ".git" in Path(name).parts])
        self.assertTrue([name for name in self.members(wanted=WITH_GIT) if ".git" in name.split(os.sep)])
