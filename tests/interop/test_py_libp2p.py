"""py-libp2p on the other end of the wire, in a process of its own. `CHORUS_TEST_PY_LIBP2P` names its python."""

from __future__ import annotations

from tests.interop.exchange import Exchange, InteropCase
from tests.interop.foreign import py_command


class PyLibp2p(Exchange, InteropCase):
    name = "py-libp2p"
    keeps_agent = False

    def command(self) -> list[str]:
        return py_command()
