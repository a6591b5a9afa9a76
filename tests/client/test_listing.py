"""What git ignores is never packed unless it is asked for by name, whatever keeps git from saying so."""

from __future__ import annotations

import json
import os
import shutil
import sys
from subprocess import CalledProcessError
from unittest import skipUnless

from chorus.client import git
from chorus.client.git import environment
from chorus.client.pack import PackOptions
from tests.client.tree import TreeCase

OWN = [".gitignore", "sub/code"]
ROOT = os.geteuid() == 0


class GitDoesNotAnswer(TreeCase):
    """A `.git` is there, and there is no list: nothing is packed, and one line says why and how to go on."""

    def setUp(self) -> None:
        super().setUp()
        self.repository()

    def stops(self, *words: str, at: str = "") -> str:
        line = self.refused(at)
        for word in (*words, "--all-files"):
            self.assertIn(word, line)
        return line

    @skipUnless(ROOT, "only root can give files away")
    def test_another_users_work_tree(self) -> None:
        self.assertEqual(self.files(), OWN)
        for folder, folders, files in os.walk(self.root):
            for name in (".", *folders, *files):
                os.chown(os.path.join(folder, name), 1234, 1234)
        line = self.stops("dubious ownership", f"git config --global --add safe.directory {self.root}")
        self.assertEqual(line.count("dubious"), 1)
        self.stops("dubious ownership", at="sub")
        self.assertIn(".env", self.files(wanted=PackOptions(all_files=True)))
        self.git("config", "--global", "--add", "safe.directory", str(self.root))
        self.assertEqual(self.files(), OWN)

    def test_git_is_missing(self) -> None:
        self.environ(**{**os.environ, "PATH": str(self.base)})
        self.stops("git is not installed")
        self.stops("git is not installed", at="sub")

    def test_git_cannot_be_started(self) -> None:
        self.environ(**{**os.environ, "PATH": self.program("git", "#!/nonexistent/shell\n")})
        self.stops("git is not installed")
        self.environ(**{**os.environ, "PATH": self.program("git", "no program")})
        self.stops("git cannot be started")

    def test_git_takes_too_long(self) -> None:
        path = self.program("git", "#!/bin/sh\nexec sleep 600\n")
        self.environ(**{**os.environ, "PATH": f"{path}:{os.environ['PATH']}"})
        self.patch(git, "GIT_S", 0.05)
        self.stops("git took over 0.05 s")

    def test_git_fails_without_a_word(self) -> None:
        self.environ(**{**os.environ, "PATH": self.program("git", "#!/bin/sh\nexit 9\n")})
        self.stops("git ended with status 9")

    def test_a_broken_repository(self) -> None:
        for name in ("HEAD", "config", "index"):
            kept = (self.root / ".git" / name).read_bytes()
            (self.root / ".git" / name).write_bytes(b"\0 broken")
            self.stops()
            (self.root / ".git" / name).write_bytes(kept)
        self.assertEqual(self.files(), OWN)

    def test_a_git_folder_that_is_none(self) -> None:
        shutil.rmtree(self.root / ".git")
        (self.root / ".git").mkdir()
        self.stops("not a git repository")

    def test_a_git_file_that_leads_nowhere(self) -> None:
        shutil.rmtree(self.root / ".git")
        self.write(".git", "gitdir: ../elsewhere\n")
        self.stops("not a git repository")

    def test_a_broken_repository_inside_of_a_good_one(self) -> None:
        # Git itself takes such a folder for an ordinary one, and goes by the outer rules.
        self.repository("inner", "secret\n")
        self.write("inner/secret")
        self.assertNotIn("inner/secret", self.files())
        (self.root / "inner/.git/HEAD").unlink()
        self.stops("--include inner takes all of it")
        self.assertIn("inner/secret", self.files(wanted=PackOptions(include=("inner",))))
        self.stops("its .git is no repository", at="inner")
        self.stops("its .git is no repository", at="inner/sub")

    def test_the_work_tree_is_elsewhere(self) -> None:
        self.git("config", "core.worktree", str(self.base))
        self.stops("its .git is no repository")
        self.git("config", "--unset", "core.worktree")
        self.git("config", "core.bare", "true")
        self.stops("must be run in a work tree")

    def test_inside_of_the_git_folder(self) -> None:
        self.stops("must be run in a work tree", at=".git")

    def test_rules_that_git_cannot_read(self) -> None:
        (self.root / ".gitignore").unlink()
        self.write("rules", ".env\n")
        (self.root / ".gitignore").symlink_to("rules")
        self.stops("unable to access '.gitignore'")

    def test_a_git_folder_that_cannot_be_seen(self) -> None:
        real = os.lstat

        def closed(path: str, **more: int) -> os.stat_result:
            if str(path) == str(self.root / ".git"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, **more)

        self.patch(os, "lstat", closed)
        for at in ("", "sub"):
            self.assertEqual(self.refused(at), f"cannot read {self.root}/.git: Permission denied")

    def test_what_git_warns_of(self) -> None:
        real = shutil.which("git")
        path = self.program("git", f"#!/bin/sh\necho 'warning: could not open sub' >&2\nexec {real} \"$@\"\n")
        self.environ(**{**os.environ, "PATH": f"{path}:{os.environ['PATH']}"})
        self.stops("could not open sub")

    def test_no_control_character_of_a_name_in_the_line(self) -> None:
        self.root = self.root.rename(self.base / "two\nlines\x1b[2J")
        (self.root / ".git/HEAD").unlink()
        self.assertTrue(self.stops().isprintable())


class Environment(TreeCase):
    """A hook, an alias or a person's script has variables that are meant for another command."""

    def test_variables_of_a_hook(self) -> None:
        self.repository(commit=True)
        self.git("worktree", "add", "-q", "../linked")
        (self.base / "linked/sub/.env").write_text("TOKEN")
        for at, folder in (("../linked/sub", ["code"]), ("../linked", OWN), (".", OWN)):
            for name, value in (
                ("GIT_DIR", str(self.root / ".git/worktrees/linked")),
                ("GIT_INDEX_FILE", str(self.root / ".git/worktrees/linked/index")),
                ("GIT_WORK_TREE", "/"),
                ("GIT_COMMON_DIR", "/"),
                ("GIT_CEILING_DIRECTORIES", str(self.base)),
                ("GIT_PREFIX", "sub/"),
                ("GIT_LITERAL_PATHSPECS", "1"),
                ("GIT_TRACE", "1"),
            ):
                self.environ(**{**os.environ, name: value})
                self.assertEqual(self.files(at), folder, name)

    def test_what_a_person_configures_is_kept(self) -> None:
        kept = {
            "GIT_CONFIG_GLOBAL": "/g",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_PARAMETERS": "'core.excludesfile'='/x'",
            "HOME": "/home/x",
        }
        found = environment({**kept, "GIT_DIR": "/d", "GIT_OBJECT_DIRECTORY": "/o", "LC_ALL": "de_DE", "LANG": "de"})
        self.assertEqual({name: found.get(name) for name in kept}, kept)
        self.assertEqual(found["LC_ALL"], "C")
        self.assertFalse({"GIT_DIR", "GIT_OBJECT_DIRECTORY"} & set(found))

    def test_rules_that_only_the_environment_has(self) -> None:
        """As an alias, a hook or a program that `git -c` started finds them."""
        self.repository(ignore="")
        mine = self.base / "mine"
        mine.write_text(".env\n")
        plain = dict(os.environ)
        self.assertIn(".env", self.files())
        (self.base / "xdg/git").mkdir(parents=True)
        (self.base / "xdg/git/ignore").write_text(".env\n")
        for variables in (
            {"GIT_CONFIG_PARAMETERS": f"'core.excludesfile={mine}'"},
            {"GIT_CONFIG_PARAMETERS": f"'a.b'='c' 'core.excludesfile'='{mine}'"},
            {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.excludesFile", "GIT_CONFIG_VALUE_0": str(mine)},
            {"XDG_CONFIG_HOME": str(self.base / "xdg")},
        ):
            self.environ(**{**plain, **variables})
            self.assertEqual(self.files(), OWN, variables)
        folder = self.program("ask", f"#!{sys.executable}\nimport json, os; print(json.dumps(dict(os.environ)))\n")
        self.environ(**plain)
        said = self.git("-c", f"core.excludesFile={mine}", "-c", f"alias.ask=!{folder}/ask", "ask")
        self.environ(**json.loads(said))
        self.assertEqual(self.files(), OWN)

    def test_settings_of_another_repository(self) -> None:
        """Where the work tree lies is asked of the repository itself."""
        self.repository()
        plain = dict(os.environ)
        for setting in ("'core.bare=true'", f"'core.worktree={self.base}'"):
            self.environ(**{**plain, "GIT_CONFIG_PARAMETERS": setting})
            self.assertEqual(self.files(), OWN, setting)

    def test_settings_that_git_cannot_read(self) -> None:
        self.repository()
        self.environ(**{**os.environ, "GIT_CONFIG_PARAMETERS": "no quotes'"})
        self.assertIn("--all-files", self.refused())

    def test_no_setting_has_a_program_run(self) -> None:
        self.repository()
        ran = self.base / "ran"
        folder = self.program("run", f"#!/bin/sh\ntouch {ran}\n")
        self.environ(**{**os.environ, "GIT_CONFIG_PARAMETERS": f"'core.fsmonitor={folder}/run'"})
        self.assertEqual(self.files(), OWN)
        self.assertFalse(ran.exists())

    def test_rules_of_a_person(self) -> None:
        self.repository(ignore="")
        (self.base / "mine").write_text(".env\n")
        self.git("config", "--global", "core.excludesFile", str(self.base / "mine"))
        self.assertEqual(self.files(), OWN)

    def test_no_program_of_the_work_tree_is_run(self) -> None:
        self.repository()
        path = self.program("spy", f"#!/bin/sh\ntouch {self.base}/ran\n")
        for name in ("core.fsmonitor", "core.editor", "core.pager", "filter.spy.clean", "diff.external"):
            self.git("config", name, f"{path}/spy")
        self.write(".gitattributes", "* filter=spy diff=spy\n")
        self.files(wanted=PackOptions(with_git=True))
        self.assertFalse((self.base / "ran").exists())


class Inner(TreeCase):
    """Every work tree answers for itself."""

    def test_a_submodule(self) -> None:
        self.repository("../lib", commit=True)
        self.repository()
        self.git("submodule", "--quiet", "add", "../lib", "vendor")
        self.write("vendor/.env", "TOKEN")
        self.write("vendor/new")
        vendor = ["vendor/.gitignore", "vendor/new", "vendor/sub/code"]
        self.assertEqual(self.files(), sorted([".gitignore", ".gitmodules", "sub/code", *vendor]))
        self.assertEqual(self.files("vendor"), [".gitignore", "new", "sub/code"])

    def test_a_submodule_of_a_submodule(self) -> None:
        self.repository("../low", commit=True)
        self.repository("../lib", commit=True)
        self.git("submodule", "--quiet", "add", "../low", "low", at="../lib")
        self.git("commit", "-qm", "x", at="../lib")
        self.repository()
        self.git("submodule", "--quiet", "add", "../lib", "vendor")
        self.git("submodule", "--quiet", "update", "--init", "--recursive")
        self.write("vendor/low/sub/.env", "TOKEN")
        found = self.files()
        self.assertIn("vendor/low/sub/code", found)
        self.assertFalse([name for name in found if name.endswith(".env")])

    def test_a_submodule_that_is_not_checked_out(self) -> None:
        self.repository("../lib", commit=True)
        self.repository()
        self.git("submodule", "--quiet", "add", "../lib", "vendor")
        self.git("submodule", "--quiet", "deinit", "-f", "vendor")
        self.assertTrue(self.members()["vendor"].isdir())
        self.assertEqual(self.done.skipped, ("vendor: a submodule that is not checked out",))
        (self.root / "vendor").rmdir()
        self.assertNotIn("vendor", self.members())

    def test_a_submodule_without_its_git(self) -> None:
        self.repository("../lib", commit=True)
        self.repository()
        self.git("submodule", "--quiet", "add", "../lib", "vendor")
        (self.root / "vendor/.git").unlink()
        self.write("vendor/.env", "TOKEN")
        self.assertIn("vendor is a submodule without its .git", self.refused())
        self.refused("vendor")
        self.assertIn("vendor/.env", self.files(wanted=PackOptions(include=("vendor",))))

    def test_a_submodule_that_is_a_file_or_a_link_now(self) -> None:
        self.repository("../lib", commit=True)
        self.repository()
        self.git("submodule", "--quiet", "add", "../lib", "vendor")
        shutil.rmtree(self.root / "vendor")
        self.write("vendor")
        self.assertIn("vendor", self.files())
        (self.root / "vendor").unlink()
        (self.root / "vendor").symlink_to("sub")
        self.assertTrue(self.members()["vendor"].issym())
        self.assertNotIn("vendor/code", self.files())

    def test_a_repository_in_a_repository(self) -> None:
        self.repository(ignore="*.log\n.env\n")
        self.repository("a/inner", ".env\n")
        self.write("a/inner/kept.log")
        self.write("a/left.log")
        expected = [*OWN, "a/inner/.gitignore", "a/inner/kept.log", "a/inner/sub/code"]
        self.assertEqual(self.files(), sorted(expected))

    def test_a_repository_without_a_commit(self) -> None:
        self.repository(ignore="")
        (self.root / ".env").unlink()
        (self.root / "sub/.env").unlink()
        self.git("init", "-q", "--template=", "inner")
        self.write("inner/a")
        self.write("inner/.env")
        (self.root / "inner/.git/info").mkdir()
        (self.root / "inner/.git/info/exclude").write_text(".env\n")
        self.assertEqual(self.files(), [".gitignore", "inner/a", "sub/code"])

    def test_a_repository_around_files_that_the_outer_one_tracks(self) -> None:
        self.repository()
        self.git("init", "-q", "--template=", "sub")
        (self.root / "sub/.git/info").mkdir()
        (self.root / "sub/.git/info/exclude").write_text("secret\n")
        self.write("sub/secret")
        self.write("sub/new")
        (self.root / "sub/.env").unlink()
        self.assertEqual(self.files(), [".gitignore", "sub/code", "sub/new"])

    def test_the_outermost_of_such_repositories_says_what_becomes_of_the_others(self) -> None:
        self.repository(ignore="")
        self.write("sub/deep/code")
        self.git("add", "sub/deep")
        for folder in ("sub", "sub/deep"):
            self.git("init", "-q", "--template=", folder)
        self.write("sub/.git/info/exclude", "deep/\n.env\n")
        self.write("sub/deep/new")
        (self.root / ".env").unlink()
        self.assertEqual(self.files(), [".gitignore", "sub/code", "sub/deep/code"])

    def test_repositories_in_a_plain_folder(self) -> None:
        for name in ("a", "b/c"):
            self.repository(name)
        self.write("b/.env", "not of any repository")
        found = [f"{name}/{each}" for name in ("a", "b/c") for each in OWN]
        self.assertEqual(self.files(), sorted([*found, "b/.env"]))
        self.environ(**{**os.environ, "PATH": str(self.base)})
        self.assertIn("git is not installed", self.refused())

    def test_a_repository_in_a_folder_that_is_ignored(self) -> None:
        self.repository(ignore="deps/\n.env\n")
        self.repository("deps/tool")
        self.assertEqual(self.files(), OWN)
        self.assertEqual(self.files("deps"), ["tool/.gitignore", "tool/sub/code"])

    def test_a_bare_repository(self) -> None:
        self.git("init", "-q", "--template=", "--bare", "bare.git")
        self.assertIn("HEAD", self.files("bare.git"))
        self.repository()
        self.assertIn("bare.git/HEAD", self.files())

    @skipUnless(ROOT, "only root can give files away")
    def test_another_users_repository_inside(self) -> None:
        self.repository()
        self.repository("inner")
        for name in ("inner", "inner/.git"):
            os.chown(self.root / name, 1234, 1234)
        self.assertIn(f"safe.directory {self.root}/inner`", self.refused())


class Below(TreeCase):
    """PATH is a folder of a work tree."""

    def test_the_rules_above_it_count(self) -> None:
        self.repository()
        self.assertEqual(self.files("sub"), ["code"])

    def test_through_a_link(self) -> None:
        self.repository()
        (self.base / "link").symlink_to(self.root / "sub")
        self.assertEqual(self.files("../link"), ["code"])

    def test_a_folder_that_git_ignores_was_named_by_a_person(self) -> None:
        self.repository(ignore="out/\n\\[x]*/\n.env\n*.key\n")
        for folder in ("out", "out/deep", "[x]*", "[x]*/a b "):
            for name in ("a", ".env", "b.key"):
                self.write(f"{folder}/{name}")
            self.assertEqual([name for name in self.files(folder) if "/" not in name], ["a"], folder)

    def test_a_folder_in_which_git_ignores_everything(self) -> None:
        self.repository(ignore="cache/*\n")
        self.write("cache/a")
        self.assertIn("git ignores everything in", self.refused("cache"))
        self.assertEqual(self.files("cache", PackOptions(include=("a",))), ["a"])
        self.assertEqual(self.files("cache", PackOptions(all_files=True)), ["a"])
        (self.root / "empty").mkdir()
        self.assertEqual(self.files("empty"), [])


class ChangedWorkTrees(TreeCase):
    """The index says one thing, the disk another."""

    def setUp(self) -> None:
        super().setUp()
        self.repository(ignore="ignored\nconf\n.env\n")
        self.write("old/a")
        self.write("old/deep/b")
        self.git("add", "old")

    def test_a_tracked_folder_is_a_file(self) -> None:
        shutil.rmtree(self.root / "old")
        self.write("old")
        self.assertEqual(self.files(), [".gitignore", "old", "sub/code"])

    def test_a_tracked_folder_is_a_link(self) -> None:
        for target in ("sub", "missing", "sub/code"):
            shutil.rmtree(self.root / "old", ignore_errors=True)
            (self.root / "old").unlink(missing_ok=True)
            (self.root / "old").symlink_to(target)
            self.write("sub/a")
            self.assertEqual(self.files(), [".gitignore", "old", "sub/a", "sub/code"])

    def test_a_tracked_folder_is_a_file_or_a_link_that_git_ignores(self) -> None:
        self.write("conf/a")
        self.git("add", "-f", "conf/a")
        self.assertIn("conf/a", self.files())
        shutil.rmtree(self.root / "conf")
        self.write("conf", "TOKEN")
        self.assertNotIn("conf", self.members())
        (self.root / "conf").unlink()
        (self.root / "conf").symlink_to("sub")
        self.assertNotIn("conf", self.members())

    def test_a_tracked_file_is_a_folder(self) -> None:
        shutil.rmtree(self.root / "old/deep")
        (self.root / "old/a").unlink()
        self.write("old/a/new")
        self.write("old/a/.env", "TOKEN")
        self.assertEqual(self.files(), [".gitignore", "old/a/new", "sub/code"])

    def test_a_tracked_file_is_a_pipe(self) -> None:
        (self.root / "old/a").unlink()
        os.mkfifo(self.root / "old/a")
        self.assertNotIn("old/a", self.files())
        self.assertEqual(self.done.skipped, ("old/a: not a file, a directory or a link",))

    def test_a_tracked_folder_is_gone(self) -> None:
        shutil.rmtree(self.root / "old")
        self.assertEqual(self.files(), OWN)

    def test_a_merge_with_conflicts(self) -> None:
        self.git("commit", "-qm", "base")
        for branch in ("one", "two"):
            self.git("checkout", "-qb", branch, "main")
            self.write("old/a", branch)
            self.git("commit", "-qam", branch)
        with self.assertRaises(CalledProcessError):
            self.git("merge", "one")
        self.assertEqual(self.files(), [".gitignore", "old/a", "old/deep/b", "sub/code"])


class Asked(TreeCase):
    """What is taken along because it is named."""

    def setUp(self) -> None:
        super().setUp()
        self.repository(ignore="node_modules/\n.env\n*.whl\n")
        self.write("node_modules/m/.env")
        self.write("node_modules/m/index.js")
        self.write("node_modules/m/.git/config")
        (self.root / "node_modules/.bin").mkdir()
        (self.root / "node_modules/.bin/m").symlink_to("../m/index.js")
        self.write("wheels/a.whl")
        self.write("wheels/b.whl")

    def test_a_folder_and_a_file(self) -> None:
        self.assertEqual(self.files(), OWN)
        modules = ["node_modules/.bin/m", "node_modules/m/.env", "node_modules/m/index.js"]
        for words in (("node_modules",), ("./node_modules/",), ("node_modules", "node_modules/m")):
            self.assertEqual(self.files(wanted=PackOptions(include=words)), sorted([*OWN, *modules]), words)
        self.assertEqual(self.files(wanted=PackOptions(include=("wheels/a.whl",))), sorted([*OWN, "wheels/a.whl"]))

    def test_names_that_are_refused(self) -> None:
        (self.root / "link").symlink_to("node_modules")
        (self.root / "out").symlink_to("/etc")
        for word, said in (
            ("missing", "nothing of that name"),
            ("../root/.env", "without .."),
            (str(self.root / ".env"), "without .."),
            ("", "--all-files"),
            (".", "--all-files"),
            (".git", "--with-git"),
            ("node_modules/m/.git/config", "--with-git"),
            ("link/m", "link is a link"),
            ("out", "leaves the directory"),
            ("a\nb", "nothing of that name"),
        ):
            self.assertIn(said, self.refused(wanted=PackOptions(include=(word,))), word)

    def test_everything(self) -> None:
        self.environ(**{**os.environ, "PATH": str(self.base)})
        found = self.files(wanted=PackOptions(all_files=True))
        self.assertTrue({".env", "sub/.env", "node_modules/m/.env", "wheels/a.whl"} <= set(found))
        self.assertFalse([name for name in found if ".git/" in name])

    def test_without_a_work_tree_it_must_be_there_all_the_same(self) -> None:
        shutil.rmtree(self.root / ".git")
        shutil.rmtree(self.root / "node_modules/m/.git")
        self.assertEqual(self.files(wanted=PackOptions(include=("sub",))), self.files())
        self.refused(wanted=PackOptions(include=("nothing",)))
