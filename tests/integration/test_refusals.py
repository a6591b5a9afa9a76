"""What a node refuses to start with: one line that names the variable, an exit status, no traceback (spec/system.md 2).

And open mode, which refuses most of what a node is for (spec/cluster.md).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from chorus.identity import Identity
from chorus.security.jointoken import JoinToken
from chorus.security.membership import Wishes
from chorus.services.cluster import ClusterService, load_token
from tests.integration.agents import until
from tests.integration.forks import TWISTD
from tests.integration.nodes import FREE_PORTS, NodeCase, environment, threaded

PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"


class SettingsTest(NodeCase):
    @threaded
    def test_bad_values_of_every_kind(self) -> None:
        missing, public = self.folder / "missing", self.folder / "public"
        public.write_text("x" * 64)
        public.chmod(0o644)
        cases = {
            "port": ({"CHORUS_P2P_PORT": "ninethousand"}, "CHORUS_P2P_PORT"),
            "range": ({"CHORUS_AGENT_MAX_TASKS": "0"}, "CHORUS_AGENT_MAX_TASKS"),
            "number": ({"CHORUS_LEASE_S": "nan"}, "CHORUS_LEASE_S"),
            "truth": ({"CHORUS_MDNS_ENABLED": "perhaps"}, "CHORUS_MDNS_ENABLED"),
            "address": ({"CHORUS_P2P_BIND": "localhost:9000"}, "CHORUS_P2P_BIND"),
            "choice": ({"CHORUS_SANDBOX": "chroot"}, "CHORUS_SANDBOX"),
            "name": ({"CHORUS_AGENT_ID": "two words"}, "CHORUS_AGENT_ID"),
            "list": ({"CHORUS_BOOTSTRAP_PEERS": "/ip4/127.0.0.1/tcp/9000"}, "CHORUS_BOOTSTRAP_PEERS"),
            "map": ({"CHORUS_IMAGE_MAP": "python"}, "CHORUS_IMAGE_MAP"),
            "pair": ({"CHORUS_TASK_CPU": "9", "CHORUS_TASK_CPU_MAX": "8"}, "CHORUS_TASK_CPU"),
            "file": ({"CHORUS_API_TOKEN_FILE": str(missing)}, "CHORUS_API_TOKEN_FILE"),
            "open file": ({"CHORUS_API_TOKEN_FILE": str(public)}, "CHORUS_API_TOKEN_FILE"),
            "token": ({"CHORUS_JOIN": "chorus1nonsense"}, "CHORUS_JOIN"),
            "weak secret": ({"CHORUS_CLUSTER_SECRET": "00112233445566"}, "CHORUS_CLUSTER_SECRET"),
            "weak word": ({"CHORUS_CLUSTER_SECRET": "correct-horse"}, "CHORUS_CLUSTER_SECRET"),
            "no proof": ({"CHORUS_BOOTSTRAP_PEERS": PEER}, "CHORUS_BOOTSTRAP_PEERS"),
            "bind": ({"CHORUS_P2P_BIND": "192.0.2.1"}, "CHORUS_P2P"),
            "engine": ({"CHORUS_DOCKER_HOST": "somewhere"}, "CHORUS_DOCKER_HOST"),
        }
        said = self.refusals({name: settings for name, (settings, _) in cases.items()})
        for name, (settings, variable) in cases.items():
            with self.subTest(name):
                self.assertIn(variable, said[name])
                self.assertLess(len(said[name]), 400)
                for secret in ("CHORUS_JOIN", "CHORUS_CLUSTER_SECRET"):
                    if secret in settings:
                        self.assertNotIn(settings[secret], said[name])

    @threaded
    def test_an_unknown_variable_is_a_warning(self) -> None:
        node = self.node("node", CHORUS_P2P_PROT="9000", CHORUS_SOMETHING="1").start()
        log = node.log.read_text()
        self.assertIn("CHORUS_P2P_PROT is no variable of CHORUS; did you mean CHORUS_P2P_PORT?", log)
        self.assertIn("CHORUS_SOMETHING is no variable of CHORUS", log)


class OccupiedTest(NodeCase):
    @threaded
    def test_ports_in_use(self) -> None:
        taken = []
        for _ in range(3):
            listener = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listener.close)
            taken.append(str(listener.getsockname()[1]))
        names = ("CHORUS_P2P_PORT", "CHORUS_API_PORT", "CHORUS_HEALTH_PORT")
        said = self.refusals({name: {name: port} for name, port in zip(names, taken, strict=True)})
        for name, port in zip(names, taken, strict=True):
            self.assertIn(f"{name}: cannot listen on 127.0.0.1 port {port}", said[name])

    @threaded
    def test_one_port_twice(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        data = self.folder / "data"
        said = self.refusal(data, CHORUS_API_PORT=port, CHORUS_HEALTH_PORT=port)
        self.assertIn(f"CHORUS_API_PORT and CHORUS_HEALTH_PORT are both {port}", said)
        self.assertFalse((data / "ports.json").exists())
        self.assertFalse((data / "cluster.json").exists(), "nothing was founded")

    @threaded
    def test_two_processes_in_one_directory(self) -> None:
        node = self.node("node").start()
        said = self.refusal(node.data)
        self.assertIn(str(node.data), said)
        self.assertIn(f"in use by process {node.ports['pid']}", said)
        self.assertIn("CHORUS_DATA_DIR", said)
        self.assertEqual(node.status()["state"], "running", "the first goes on")

    @threaded
    def test_directories_that_cannot_be_used(self) -> None:
        file = self.folder / "file"
        file.write_text("")
        public = self.folder / "public"
        public.mkdir()
        (public / "something").write_text("")
        public.chmod(0o755)
        damaged = self.node("damaged").start()
        damaged.kill()
        (damaged.data / "cluster.json").write_text("{")
        # Found before the reactor runs: the process must end all the same.
        early = self.node("early").start()
        early.kill()
        (early.data / "identity").write_bytes(b"x")
        emptied = self.node("emptied").start()
        emptied.kill()
        (emptied.data / "chorus.db").write_bytes(b"")
        for path in (file, public, damaged.data, early.data, emptied.data):
            with self.subTest(path.name):
                self.assertIn(str(path), self.refusal(path))

    @threaded
    def test_a_directory_of_another_cluster(self) -> None:
        one, other = self.node("one").start(), self.node("other").start()
        token = load_token(one.data).text()
        other.kill()
        said = self.refusal(other.data, CHORUS_JOIN=token)
        self.assertIn("CHORUS_JOIN is a token of cluster", said)
        self.assertIn("for life", said)
        self.assertNotIn(load_token(one.data).secret.hex(), said)
        self.assertIn("CHORUS_FOUND", self.refusal(self.folder / "new", CHORUS_JOIN=token, CHORUS_FOUND="1"))
        differing = self.refusal(self.folder / "new", CHORUS_JOIN=token, CHORUS_CLUSTER_SECRET=os.urandom(32).hex())
        self.assertIn("CHORUS_CLUSTER_SECRET differs from the secret in CHORUS_JOIN", differing)
        one.kill()
        self.assertIn("own token", self.refusal(self.own_copy(one.data), CHORUS_JOIN=token))

    def own_copy(self, data):
        """A directory with the identity of `data` and nothing else."""
        copy = self.folder / "copy"
        copy.mkdir(mode=0o700)
        shutil.copy2(data / "identity", copy / "identity")
        return copy


class BackgroundTest(NodeCase):
    """Without `-n`: said on stderr, with a status that is not 0, before twistd leaves the terminal."""

    def refusal_of_background(self, data: Path, **settings: str) -> str:
        pidfile = self.folder / "twistd.pid"
        done = subprocess.run(
            [sys.executable, "-c", TWISTD, f"--pidfile={pidfile}", "--logfile", "twistd.log", "chorus", "agent"],
            cwd=self.folder,
            env=environment(**{**FREE_PORTS, "CHORUS_DATA_DIR": str(data), "CHORUS_MDNS_ENABLED": "false", **settings}),
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=40,
        )
        if pidfile.exists():
            os.kill(int(pidfile.read_text()), signal.SIGKILL)
        self.assertGreater(done.returncode, 0, done.stdout + done.stderr)
        self.assertFalse((self.folder / "twistd.log").exists(), "it left the terminal")
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    @threaded
    def test_what_can_be_known_before(self) -> None:
        data = self.folder / "background"
        for part in ("P2P", "API"):
            self.assertIn(
                f"chorus: CHORUS_{part}_BIND: cannot listen on 192.0.2.10",
                self.refusal_of_background(data, **{f"CHORUS_{part}_BIND": "192.0.2.10"}),
            )
        self.assertFalse((data / "cluster.json").exists(), "nothing was founded")
        identity = Identity.load_or_create(data / "identity")
        ClusterService.open(data, identity, Wishes()).keep()
        token = JoinToken.make(b"\7" * 32, Identity.generate().peer_id, bytes(range(32)), [])
        self.assertIn("for life", self.refusal_of_background(data, CHORUS_JOIN=token.text()))


class WorkingDirectoryTest(NodeCase):
    @threaded
    def test_one_that_cannot_be_written(self) -> None:
        """/proc cannot, not even by root."""
        done = subprocess.run(
            [sys.executable, "-c", TWISTD, "-n", "chorus", "agent"],
            cwd="/proc",
            env=environment(**{**FREE_PORTS, "CHORUS_DATA_DIR": str(self.folder / "data")}),
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=40,
        )
        self.assertGreater(done.returncode, 0)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn("chorus: twistd cannot write /proc/twistd.pid", done.stderr)
        self.assertIn("--pidfile=", done.stderr)
        self.assertFalse((self.folder / "data").exists())


class OpenModeTest(NodeCase):
    @threaded
    def test_what_it_refuses(self) -> None:
        member = self.node("member").start()
        token = load_token(member.data).text()
        member.kill()
        said = self.refusals(
            {
                "secret": {"CHORUS_OPEN": "1", "CHORUS_CLUSTER_SECRET": os.urandom(32).hex()},
                "token": {"CHORUS_OPEN": "1", "CHORUS_JOIN": token},
                "founding": {"CHORUS_OPEN": "1", "CHORUS_FOUND": "1"},
                "everybody": {"CHORUS_OPEN": "1", "CHORUS_P2P_BIND": "0.0.0.0"},
                "directory": {"CHORUS_OPEN": "1", "CHORUS_DATA_DIR": str(member.data)},
            }
        )
        for name, text in said.items():
            self.assertIn("CHORUS_OPEN", text, name)
        self.assertIn("0.0.0.0", said["everybody"])

    @threaded
    def test_what_it_offers(self) -> None:
        node = self.node("open", CHORUS_OPEN="1").start()
        self.assertFalse((node.data / "cluster.json").exists(), "it belongs to no cluster")
        status = node.status()
        self.assertIsNone(status["cluster_id"])
        self.assertFalse(status["sandbox"]["usable"])
        body = json.dumps({"commands": ["true"]}).encode()
        unknown = "0" * 64
        for method, path, sent, kind in (
            ("POST", "/v1/tasks", body, "application/json"),
            ("GET", "/v1/tasks", None, ""),
            ("GET", "/v1/tasks/01jd0000000000000000000000", None, ""),
            ("GET", "/v1/tasks/01jd0000000000000000000000/events", None, ""),
            ("DELETE", "/v1/tasks/01jd0000000000000000000000", None, ""),
            ("PUT", "/v1/blobs", b"data", "application/octet-stream"),
            ("GET", f"/v1/blobs/{unknown}", None, ""),
        ):
            with self.subTest(f"{method} {path}"):
                code, content_type, document = node.answer(
                    method, path, sent, **({"Content-Type": kind} if kind else {})
                )
                self.assertEqual((code, content_type), (503, "application/problem+json"), document)
                self.assertEqual(document["status"], 503)
                self.assertIn("open mode", document["detail"])
        self.assertEqual(node.peers(), [])
        self.assertEqual(node.probe("/health")[0], 200)
        self.assertIn(("chorus_peers_connected", ()), node.metrics())
        node.signal(signal.SIGTERM)
        self.ends(node)
        self.assertNotIn("Traceback", node.log.read_text())
        # What was open stays out of a cluster's way: the directory may found one later.
        until("the port file's end", lambda: not (node.data / "ports.json").exists())
