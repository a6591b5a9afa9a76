from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from twisted.internet.error import CannotListenError
from twisted.logger import capturedLogs

from chorus.services.endpoints.ports_file import LAST_PORTS, PORTS, RETRY_S, PortsFile
from chorus.services.listening import first_free
from chorus.wiring.surroundings import Surroundings
from tests.support import PureTestCase

GIVEN = {"pid": 7, "p2p": 9000, "api": 8080, "health": 8081, "api_host": "127.0.0.1"}
LAST = {"p2p": 9000, "api": 8080, "health": 8081}


class PortsFileTests(PureTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.now = self.clock()
        self.file = PortsFile(self.folder, self.now)
        self.file.start()
        self.addCleanup(self.file.remove)

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def test_both_files(self) -> None:
        self.file.write(GIVEN)
        self.assertEqual((self.read(PORTS), self.read(LAST_PORTS), self.file.last()), (GIVEN, LAST, LAST))
        self.file.remove()
        self.assertEqual([path.name for path in self.folder.iterdir()], [LAST_PORTS])

    def test_what_could_not_be_written_is_written_later(self) -> None:
        with capturedLogs() as said, mock.patch("os.replace", side_effect=self.failing(PORTS)):
            self.file.write(GIVEN)
            self.now.pump([RETRY_S] * 3)
        self.assertEqual([event.get("event") for event in said], ["node.ports_not_written"])
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name == PORTS], [])
        with capturedLogs() as said:
            self.now.pump([RETRY_S] * 3)
        self.assertEqual([event.get("event") for event in said], ["node.ports_written"])
        self.assertEqual((self.read(PORTS), self.file.last()), (GIVEN, LAST))

    def test_the_last_ports_keep_nobody_from_the_present_ones(self) -> None:
        with capturedLogs() as said, mock.patch("os.replace", side_effect=self.failing(LAST_PORTS)):
            self.file.write(GIVEN)
        self.assertEqual((said, self.read(PORTS), self.file.last()), ([], GIVEN, {}))
        with capturedLogs() as said:
            self.now.pump([RETRY_S] * 3)
        self.assertEqual((said, self.file.last()), ([], LAST))

    def failing(self, name: str) -> Any:
        replace = os.replace

        def instead(source: Any, target: Any) -> None:
            if Path(target).name == name:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        return instead

    def test_nothing_is_written_after_the_end(self) -> None:
        with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "full")):
            self.file.write(GIVEN)
        self.file.remove()
        self.now.advance(10 * RETRY_S)
        self.assertEqual([path for path in self.folder.iterdir() if path.name == PORTS], [])

    def test_last_ports_that_are_none(self) -> None:
        self.assertEqual(self.file.last(), {})
        for text in ("", "[]", "{", "[" * 100_000, '"x"', '{"p2p": "9"}', '{"p2p": 0, "api": 65536, "health": true}',
                     '{"api": -1}', '{"other": 5}', '{"p2p": 1e3}'):  # fmt: skip
            (self.folder / LAST_PORTS).write_text(text)
            (self.folder / LAST_PORTS).chmod(0o600)
            self.assertEqual(self.file.last(), {}, text[:40])
        (self.folder / LAST_PORTS).write_text('{"p2p": 9000, "api": "x"}')
        self.assertEqual(self.file.last(), {"p2p": 9000})
        (self.folder / LAST_PORTS).unlink()
        (self.folder / LAST_PORTS).mkdir()
        self.assertEqual(self.file.last(), {})


class Choice(PureTestCase):
    def tried(self, asked: int, last: int, *, taken: tuple[int, ...] = ()) -> list[int]:
        tried: list[int] = []

        def listen(port: int) -> int:
            tried.append(port)
            if port in taken:
                raise CannotListenError("", port, OSError(errno.EADDRINUSE, "in use"))
            return port

        self.assertEqual(first_free(listen, asked, last), tried[-1])
        return tried

    def test_the_last_port_where_any_will_do(self) -> None:
        self.assertEqual(self.tried(0, 9000), [9000])
        self.assertEqual(self.tried(0, 9000, taken=(9000,)), [9000, 0])
        self.assertEqual(self.tried(0, 0), [0])

    def test_never_where_one_is_asked_for(self) -> None:
        self.assertEqual(self.tried(8000, 9000), [8000])
        self.assertRaises(CannotListenError, self.tried, 8000, 9000, taken=(8000,))

    def test_never_one_that_is_meant_for_another_part(self) -> None:
        settings = SimpleNamespace(p2p_port=0, api_port=9000, health_port=0)
        nothing = cast("Any", None)
        around = Surroundings(
            cast("Any", settings), nothing, nothing, nothing, nothing, nothing, nothing, {"p2p": 9000, "health": 8081}
        )
        self.assertEqual([around.last_port(name) for name in ("p2p", "health", "api")], [0, 8081, 0])
