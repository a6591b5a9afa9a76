from __future__ import annotations

import os
import socket
from pathlib import Path

from chorus.config.settings import Settings, load
from chorus.errors import UserError
from chorus.identity import Identity
from chorus.preflight import PortInUse, check_twistd, preflight
from chorus.security.jointoken import JoinToken
from chorus.security.membership import ClusterError, Wishes
from chorus.services.cluster import ClusterService
from chorus.services.datadir import IDENTITY, LOCK, DataDirectory
from chorus.services.keys.files import KeyFiles, KeyringError
from tests.support import PureTestCase

FREE = {f"CHORUS_{name}_PORT": "0" for name in ("P2P", "API", "HEALTH")}
FOREIGN = "192.0.2.10"
"""Of TEST-NET-1 (RFC 5737): no machine has it."""


class TwistdTests(PureTestCase):
    """Nobody can make a file in /proc, not even root."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def refused(self, **options: object) -> str:
        text = str(self.assertRaises(UserError, check_twistd, options))
        self.assertNotIn("\n", text)
        return text

    def test_a_directory_that_cannot_be_written(self) -> None:
        text = self.refused(nodaemon=True, pidfile="/proc/twistd.pid")
        self.assertIn("twistd cannot write /proc/twistd.pid (", text)
        self.assertIn("--pidfile= (no file)", text)
        self.assertIn("--pidfile=", self.refused(rundir="/proc", pidfile="twistd.pid", logfile="-"))
        self.assertIn("--logfile=", self.refused(nodaemon=True, pidfile="", logfile="/proc/log"))

    def test_the_log_of_one_in_the_background(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir("/proc")
        self.assertIn("/proc/twistd.log", self.refused(pidfile=""))
        check_twistd({"pidfile": "", "syslog": True})
        check_twistd({"pidfile": "", "nodaemon": True})
        check_twistd({"pidfile": "", "logfile": "-"})

    def test_no_such_directory(self) -> None:
        self.assertIn("--rundir", self.refused(rundir=f"{self.folder}/none", pidfile=""))
        self.assertIn("--pidfile", self.refused(nodaemon=True, pidfile=f"{self.folder}/none/pid"))

    def test_something_else_under_the_name(self) -> None:
        os.mkfifo(self.folder / "pid")
        self.assertIn("something else", self.refused(nodaemon=True, pidfile=f"{self.folder}/pid"))
        self.assertIn("something else", self.refused(nodaemon=True, pidfile="", logfile=str(self.folder)))

    def test_what_can_be_written_is_left_as_it_was(self) -> None:
        (self.folder / "log").write_text("before")
        check_twistd({"pidfile": f"{self.folder}/pid", "logfile": f"{self.folder}/log", "rundir": "."})
        check_twistd({"nodaemon": True})
        self.assertEqual([path.name for path in self.folder.iterdir()], ["log"])
        self.assertEqual((self.folder / "log").read_text(), "before")


class PreflightTests(PureTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()

    def settings(self, **given: str) -> Settings:
        return load({**FREE, "CHORUS_DATA_DIR": str(self.folder), **given})

    def refused(self, error: type[UserError], **given: str) -> str:
        text = str(self.assertRaises(error, preflight, self.settings(**given)))
        self.assertNotIn("\n", text)
        return text

    def test_nothing_is_decided(self) -> None:
        preflight(self.settings())
        self.assertEqual(set(os.listdir(self.folder)), {LOCK, IDENTITY})
        DataDirectory(self.folder).acquire()

    def test_an_address_of_another_machine_whatever_the_port(self) -> None:
        for part in ("P2P", "API", "HEALTH"):
            text = self.refused(PortInUse, **{f"CHORUS_{part}_BIND": FOREIGN})
            self.assertIn(f"CHORUS_{part}_BIND: cannot listen on {FOREIGN} port 0", text)
        self.assertEqual(os.listdir(self.folder), [LOCK])

    def test_a_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            self.assertIn("CHORUS_API_PORT: cannot listen", self.refused(PortInUse, CHORUS_API_PORT=port))

    def test_one_port_twice(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        text = self.refused(PortInUse, CHORUS_API_PORT=port, CHORUS_HEALTH_PORT=port)
        self.assertIn(f"CHORUS_API_PORT and CHORUS_HEALTH_PORT are both {port}", text)

    def test_a_keyring_that_cannot_be_opened(self) -> None:
        preflight(self.settings())
        KeyFiles(self.folder, "correct horse").open()
        for given in ({}, {"CHORUS_KEYRING_PASSPHRASE": "battery staple"}):
            self.assertIn("CHORUS_KEYRING_PASSPHRASE_FILE", self.refused(KeyringError, **given))
        preflight(self.settings(CHORUS_KEYRING_PASSPHRASE="correct horse"))

    def test_a_directory_of_another_cluster(self) -> None:
        preflight(self.settings())
        identity = Identity.load_or_create(self.folder / IDENTITY)
        ClusterService.open(self.folder, identity, Wishes()).keep()
        token = JoinToken.make(b"\7" * 32, Identity.generate().peer_id, bytes(range(32)), []).text()
        self.assertIn("for life", self.refused(ClusterError, CHORUS_JOIN=token))
        self.assertIn("CHORUS_OPEN", self.refused(ClusterError, CHORUS_OPEN="1"))
        preflight(self.settings())
