"""`scripts/demo` and `scripts/test` are started in folders of other people, whose code they must not run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import ProcessTestCase

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
MODULES = (
    "ensurepip", "venv", "pip", "sitecustomize", "usercustomize", "site", "json", "typing", "tempfile", "chorus",
    "twisted", "setuptools", "tests",
)  # fmt: skip
"""What a Python that looks into its working directory, or the PYTHONPATH, would take from there."""


def plant(folder: Path) -> Path:
    """Fill a folder with modules and programs that leave a mark when they run. Returns the mark."""
    folder.mkdir()
    mark = folder / "mark"
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write(__name__ + ' ')\n")
    for name in ("python3", "python3.11", "python3.12", "python3.13", "bwrap"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho {name} >>{mark}\nexit 1\n")
        program.chmod(0o755)
    (folder / "setup.cfg").write_text("[global]\nindex-url = http://127.0.0.1:1/\n")
    return mark


def hostile(folder: Path, **settings: str) -> dict[str, str]:
    """An environment in which everything points to the folder."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("CHORUS_", "PYTHON"))},
        "PYTHONPATH": f":.:{folder}",
        "PYTHONSTARTUP": str(folder / "json.py"),
        "PATH": f".::{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        **settings,
    }


class ForeignFolderTests(ProcessTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-foreign-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.foreign = self.folder / "foreign"
        self.mark = plant(self.foreign)

    def ran(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run it in the foreign folder; nothing of that folder has run."""
        done = subprocess.run(
            command,
            cwd=self.foreign,
            env=hostile(self.foreign, **settings),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        self.assertFalse(self.mark.exists(), self.mark.exists() and self.mark.read_text())
        return done

    def environment(self, extras: str) -> Path:
        """A virtual environment that needs nothing any more: this process's own."""
        venv = self.folder / "ready"
        (venv / "bin").mkdir(parents=True)
        python = venv / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        sources = b"".join((ROOT / name).read_bytes() for name in ("setup.cfg", "pyproject.toml"))
        (venv / ".chorus-stamp").write_text(f"{extras} {hashlib.sha256(sources).hexdigest()}")
        return venv

    def test_the_bait_is_taken_by_a_plain_python(self) -> None:
        """The other tests here prove something: without care this folder's code runs."""
        subprocess.run(
            [sys.executable, "-c", "import venv"], cwd=self.foreign, env=hostile(self.foreign), check=False, timeout=120
        )
        self.assertIn("sitecustomize", self.mark.read_text())
        self.assertIn("venv", self.mark.read_text())

    def test_finding_python_and_making_an_environment(self) -> None:
        """Up to the installation, which finds no package here."""
        script = f". {SCRIPTS}/environment.sh; prepare test sh dash"
        done = self.ran("bash", "-euc", script, CHORUS_VENV=str(self.folder / "new"))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(f"making a virtual environment in {self.folder}/new", done.stderr)
        self.assertIn("the installation failed", done.stderr)
        self.assertNotIn("127.0.0.1:1", (self.folder / "new" / "install.log").read_text())

    def test_the_demonstration(self) -> None:
        done = self.ran(f"{SCRIPTS}/demo", "nope", "--", "true", CHORUS_VENV=str(self.environment("speed")))
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertIn(f"demo: {self.foreign}/nope is not a directory", done.stderr)

    def test_the_tests(self) -> None:
        venv = os.path.relpath(self.environment("speed,test"), self.foreign)
        done = self.ran(f"{SCRIPTS}/test", "tests.multiformats.test_varint", CHORUS_VENV=venv)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout.splitlines()[-1], r"^[1-9]\d* passed, 0 failed$")

    def test_no_log_has_a_name_that_others_can_foresee(self) -> None:
        """A link of that name in a folder that all may write to would be followed, by root."""
        bait, fake = self.folder / "tmp", self.folder / "bin"
        for folder in (bait, fake):
            folder.mkdir()
        (bait / "chorus-apt.log").symlink_to(self.folder / "precious")
        for name, text in (("id", "echo 0"), ("apt-get", "echo no network >&2; exit 1")):
            (fake / name).write_text(f"#!/bin/sh\n{text}\n")
            (fake / name).chmod(0o755)
        script = f". {SCRIPTS}/environment.sh; install_packages one two"
        done = self.ran("bash", "-euc", script, TMPDIR=str(bait), PATH=f"{fake}:{os.environ['PATH']}")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertFalse((self.folder / "precious").exists())
        (log,) = [path for path in bait.iterdir() if not path.is_symlink()]
        self.assertIn(str(log), done.stderr)
        self.assertEqual((log.read_text(), log.stat().st_mode & 0o077), ("no network\n", 0))
