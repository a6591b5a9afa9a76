from __future__ import annotations

import errno

from chorus.services.listening import cannot_listen
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
