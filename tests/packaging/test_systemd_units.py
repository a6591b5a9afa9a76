"""The units of deploy/systemd, as systemd itself reads and rates them; a node beside a manager's socket."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, TestCase

from chorus.config.fields import variable
from chorus.config.settings import Settings, known_variables
from tests.integration.forks import ROOT
from tests.integration.nodes import Node, threaded
from tests.support import PureTestCase

UNITS = ROOT / "deploy" / "systemd"
NAMES = ("chorus-agent.service", "chorus-hap.service")
DROP_IN = UNITS / "chorus-agent.service.d" / "bubblewrap.conf"
EXPOSURE = 20
"""Tenths, as `--threshold` takes them."""
EXPOSURE_WITH_DROP_IN = 40


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class UnitTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd-analyze is not installed")
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-units-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def install(self, name: str) -> Path:
        """The unit as it is, but for the program, which need not be installed here."""
        text = (UNITS / name).read_text(encoding="utf-8")
        self.assertIn("ExecStart=/opt/chorus/bin/twistd ", text)
        path = self.folder / name
        path.write_text(text.replace("/opt/chorus/bin/twistd", "/bin/true"), encoding="utf-8")
        return path

    def test_systemd_has_nothing_to_say_against_them(self) -> None:
        for name in NAMES:
            self.assertEqual(run("systemd-analyze", "verify", str(self.install(name))), "")

    def test_exposure(self) -> None:
        for name in NAMES:
            run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", str(self.install(name)))

    def test_exposure_with_the_drop_in_for_bubblewrap(self) -> None:
        path = self.install(NAMES[0])
        folder = self.folder / f"{NAMES[0]}.d"
        folder.mkdir()
        shutil.copy(DROP_IN, folder)
        self.assertEqual(run("systemd-analyze", "verify", str(path)), "")
        limit = f"--threshold={EXPOSURE_WITH_DROP_IN}"
        said = run("systemd-analyze", "security", "--offline=true", limit, str(path))
        # The drop-in was read: without it no namespace may be made.
        self.assertRegex(said, r"✗ RestrictNamespaces=~user ")


class TextTests(PureTestCase):
    def unit(self, name: str) -> configparser.SectionProxy:
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read(UNITS / name, encoding="utf-8")
        return parser["Service"]

    def test_a_stop_has_longer_than_the_node_takes_for_it(self) -> None:
        for name in NAMES:
            stop = float(self.unit(name)["TimeoutStopSec"])
            self.assertEqual(stop, Settings.model_fields["shutdown_s"].default + 15)

    def test_every_variable_and_credential_is_known(self) -> None:
        known = known_variables() | {variable("data_dir")}
        for name in NAMES:
            text = (UNITS / name).read_text(encoding="utf-8")
            named = set(re.findall(r"CHORUS_[A-Z0-9_]+", text))
            named |= {each.upper() for each in re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE)}
            self.assertLessEqual(named, known)
            self.assertIn("CHORUS_JOIN", named)

    def test_both_may_run_on_one_machine(self) -> None:
        agent, hap = (self.unit(name) for name in NAMES)
        self.assertNotEqual(agent["StateDirectory"], hap["StateDirectory"])
        text = (UNITS / NAMES[1]).read_text(encoding="utf-8")
        for field in ("p2p_port", "api_port", "health_port"):
            found = re.search(rf"{variable(field)}=(\d+)", text)
            assert found is not None
            self.assertNotEqual(int(found[1]), Settings.model_fields[field].default)


class Manager:
    """The manager's end of the socket."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(60)
        self.heard: list[str] = []

    def until(self, wanted: str) -> None:
        """Raises `TimeoutError` where nothing comes for a minute."""
        while not any(wanted in message.splitlines() for message in self.heard):
            self.heard.append(self._socket.recv(4096).decode())

    def close(self) -> None:
        self._socket.close()


class NodeTests(TestCase):
    timeout = 180

    @threaded
    def test_a_node_is_ready_alive_and_stopping(self) -> None:
        with tempfile.TemporaryDirectory(prefix="chorus-notify-") as name:
            folder = Path(name)
            manager = Manager(folder)
            self.addCleanup(manager.close)
            node = Node(folder, "a1", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="600000")
            node.launch()
            assert node.process is not None
            try:
                manager.until("READY=1")
                self.assertEqual(node.status()["state"], "running")
                (ready,) = (message for message in manager.heard if "READY=1" in message)
                self.assertIn(f"MAINPID={node.process.pid}", ready.splitlines())
                self.assertIn("tasks: 0 of 3", ready)
                self.assertIn("STATUS=starting", "\n".join(manager.heard[:2]))
                del manager.heard[:]
                manager.until("WATCHDOG=1")
                node.process.send_signal(signal.SIGTERM)
                manager.until("STOPPING=1")
                self.assertEqual(node.process.wait(60), 0)
            finally:
                if node.process.poll() is None:
                    os.killpg(node.process.pid, signal.SIGKILL)
                    node.process.wait(60)
