from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from twisted.logger import capturedLogs

from chorus.assembly import Assembly, NodeAgent, listen
from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.runtime import NodeService
from chorus.security.membership import Wishes
from chorus.services.cluster import ClusterService, load_membership
from chorus.services.endpoints.ports_file import PORTS
from chorus.services.p2p.listener import CannotListen
from chorus.services.presence import Load
from chorus.wiring.network import Network
from tests.support import PureTestCase


class MembershipTests(PureTestCase):
    def test_a_node_that_cannot_listen_belongs_to_nothing(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        cluster = ClusterService.open(folder, Identity.from_seed(b"\1" * 32), Wishes())
        p2p = mock.Mock(listen_addresses=lambda: [])
        p2p.startService.side_effect = [CannotListen("in use"), None]
        network = Network(cluster, mock.Mock(), p2p)
        with self.assertRaises(CannotListen):
            listen(network)
        self.assertEqual(list(folder.iterdir()), [])
        listen(network)
        self.assertIsNotNone(load_membership(folder))


class FileModes(PureTestCase):
    def test_what_a_node_makes_is_its_own_whatever_the_umask(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        node = NodeService(
            cast("Any", SimpleNamespace(data_dir=folder)),
            mode="agent",
            reactor=self.clock(),
            exit_status=cast("Any", SimpleNamespace()),
        )
        self.addCleanup(os.umask, os.umask(0))
        step = node._keep_files_private()
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
        modes = [path.stat().st_mode & 0o777 for path in (folder / "a", folder / "a" / "b")]
        self.assertEqual(modes, [0o700, 0o600])
        assert step.stop is not None
        step.stop()
        self.assertEqual(os.umask(0), 0, "a process that goes on after the node has its own umask back")


class LoadTests(PureTestCase):
    def test_the_last_activity_is_a_tasks_and_no_other_change_of_the_load(self) -> None:
        agent = NodeAgent(Identity.from_seed(b"\1" * 32), name="a", role=None, max_tasks=3, starts=None)
        node = Assembly(mock.Mock(), agent, mock.Mock(), lambda: "running")
        executor = SimpleNamespace(current_tasks=1, draining=False, last_activity=1_700_000_000.5)
        node._execution = cast("Any", SimpleNamespace(executor=executor, usable=lambda: True))
        node._messages = mock.Mock()
        # As a disk that fills up, and a drain, say it.
        node._load_changed()
        node._messages.presence.load_changed.assert_called_once_with()
        self.assertEqual(node._load(), Load(1, 3, accepting=True, last_activity=1_700_000_000.5))


class PortsFileTests(PureTestCase):
    def test_a_full_disk_is_a_warning_and_leaves_no_old_ports(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        settings = SimpleNamespace(data_dir=folder, api_bind="127.0.0.1", health_bind="127.0.0.1")
        node = NodeService(
            cast("Any", settings), mode="agent", reactor=self.clock(), exit_status=cast("Any", SimpleNamespace())
        )
        addresses = [Multiaddr.parse("/ip4/127.0.0.1/tcp/9000")]
        running: Any = SimpleNamespace(
            p2p=SimpleNamespace(bound_addresses=lambda: addresses),
            faces=SimpleNamespace(api=SimpleNamespace(port=1), health=SimpleNamespace(port=2)),
        )
        node._write_ports(running)
        self.assertEqual(json.loads((folder / PORTS).read_text())["p2p"], 9000)
        with capturedLogs() as said, mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left")):
            node._write_ports(running)
        self.assertEqual([event.get("event") for event in said], ["node.ports_not_written"])
        self.assertFalse((folder / PORTS).exists())
        # Something that is no file is left where it is, and ends nothing.
        (folder / PORTS).mkdir()
        with capturedLogs() as said:
            node._write_ports(running)
        self.assertEqual([event["log_level"].name for event in said], ["warn", "warn"])
