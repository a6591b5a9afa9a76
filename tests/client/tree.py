"""A folder outside of any work tree, git in it, and what the packer makes of it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from chorus.client.errors import ClientError
from chorus.client.pack import PackOptions, pack
from tests.support import PureTestCase

GIT_SETTINGS = """\
[user]
name = t
email = t@example.invalid
[protocol "file"]
allow = always
[init]
defaultBranch = main
"""


class TreeCase(PureTestCase):
    def setUp(self) -> None:
        # Outside of any work tree, whatever the tests run in.
        self.base = Path(tempfile.mkdtemp(prefix="chorus-pack-"))
        self.addCleanup(shutil.rmtree, self.base)
        (self.base / "gitconfig").write_text(GIT_SETTINGS)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self.environ(**kept, GIT_CONFIG_GLOBAL=str(self.base / "gitconfig"), GIT_CONFIG_SYSTEM=os.devnull)
        self.root = self.base / "root"
        self.root.mkdir()

    def environ(self, **values: str) -> None:
        """The whole environment from now on."""
        self.patch(os, "environ", values)

    def write(self, name: str, text: str = "x") -> Path:
        path = self.root / name
        self.assertTrue(path.is_relative_to(self.root), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def git(self, *words: str, at: str = "") -> str:
        command = ["git", "-C", str(self.root / at), *words]
        done = subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
        return done.stdout.decode("utf-8", "replace")

    def repository(self, at: str = "", ignore: str = ".env\n", *, commit: bool = False) -> None:
        """`.gitignore` and `sub/code` are tracked, and beside each lies an ignored secret."""
        within = f"{at}/" if at else ""
        (self.root / at).mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "--template=", at=at)
        self.write(f"{within}.gitignore", ignore)
        self.write(f"{within}sub/code")
        self.git("add", ".", at=at)
        if commit:
            self.git("commit", "-qm", "x", at=at)
        self.write(f"{within}.env", "TOKEN")
        self.write(f"{within}sub/.env", "TOKEN")

    def members(self, at: str = "", wanted: PackOptions | None = None) -> dict[str, tarfile.TarInfo]:
        self.out = io.BytesIO()
        self.done = pack(self.root / at, self.out, wanted=wanted)
        with tarfile.open(fileobj=io.BytesIO(self.out.getvalue())) as tar:
            members = {each.name: each for each in tar.getmembers()}
            self.assertEqual(len(members), len(tar.getmembers()), "no name twice")
        self.assertEqual(self.done.files, sum(not each.isdir() for each in members.values()))
        return members

    def files(self, at: str = "", wanted: PackOptions | None = None) -> list[str]:
        """What is packed, without folders."""
        return sorted(name for name, each in self.members(at, wanted).items() if not each.isdir())

    def refused(self, at: str = "", wanted: PackOptions | None = None) -> str:
        """The one line of a refusal."""
        with self.assertRaises(ClientError) as caught:
            pack(self.root / at, io.BytesIO(), wanted=wanted)
        self.assertNotIn("\n", str(caught.exception))
        return str(caught.exception)

    def program(self, name: str, text: str) -> str:
        """A folder for PATH with one program in it."""
        folder = self.base / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
        return str(folder)
