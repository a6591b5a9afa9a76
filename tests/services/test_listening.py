from __future__ import annotations

import errno

from chorus.services.listening import ListenAddress, cannot_listen, collision
from tests.support import PureTestCase


class CannotListenTests(PureTestCase):
    def said(self, number: int, host: str = "192.0.2.1", port: int = 9000) -> str:
        text = cannot_listen("CHORUS_P2P", host, port, OSError(number, "x"))
        self.assertNotIn("\n", text)
        self.assertIn(f"cannot listen on {host} port {port}", text)
        return text

    def test_an_address_of_another_machine_is_a_matter_of_bind(self) -> None:
        for number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            text = self.said(number)
            self.assertTrue(text.startswith("CHORUS_P2P_BIND: "), text)
            self.assertIn("CHORUS_P2P_BIND=127.0.0.1", text)
            self.assertNotIn("_PORT", text)
            self.assertIn("CHORUS_P2P_BIND=::1", self.said(number, "2001:db8::1"))

    def test_a_port_in_use(self) -> None:
        text = self.said(errno.EADDRINUSE)
        self.assertTrue(text.startswith("CHORUS_P2P_PORT: "), text)
        self.assertIn("in use", text)
        self.assertIn("CHORUS_P2P_PORT=9010", text)
        self.assertIn("CHORUS_P2P_PORT=0 ", self.said(errno.EADDRINUSE, port=65530))

    def test_a_port_of_root(self) -> None:
        self.assertIn("above 1023", self.said(errno.EACCES, port=80))

    def test_an_error_without_a_number_keeps_its_words(self) -> None:
        self.assertIn("no such thing", cannot_listen("CHORUS_API", "::", 1, OSError("no such thing")))


class CollisionTests(PureTestCase):
    def said(self, one: str, other: str, ports: tuple[int, int] = (9000, 9000)) -> str | None:
        bindings = [ListenAddress("CHORUS_P2P", one, ports[0]), ListenAddress("CHORUS_API", other, ports[1])]
        said = collision(bindings)
        self.assertEqual(said is None, collision(bindings[::-1]) is None)
        return said

    def test_one_port_twice(self) -> None:
        for one, other in (
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
            ("::1", "::"),
            ("::", "127.0.0.1"),
            ("::", "0.0.0.0"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ):
            text = self.said(one, other)
            assert text is not None
            self.assertIn("CHORUS_P2P_PORT and CHORUS_API_PORT are both 9000", text)
            self.assertIn("CHORUS_API_PORT=9010", text)

    def test_what_can_be_had(self) -> None:
        self.assertIsNone(self.said("127.0.0.1", "127.0.0.2"))
        self.assertIsNone(self.said("127.0.0.1", "::1"))
        self.assertIsNone(self.said("0.0.0.0", "::1"))
        self.assertIsNone(self.said("127.0.0.1", "127.0.0.1", (9000, 9001)))
        self.assertIsNone(self.said("127.0.0.1", "127.0.0.1", (0, 0)))
