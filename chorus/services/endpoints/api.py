# mypy: allow-untyped-calls
"""The HTTP API of a node on its own port."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from chorus.errors import UserError
from chorus.http.limits import BACKLOG
from chorus.services.listening import cannot_listen, first_free
from chorus.tasks.spec import LimitPolicy

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort
    from twisted.internet.protocol import ServerFactory

    from chorus.http.app import Api
    from chorus.http.ports import BlobPort, NodePort, TaskPort
    from chorus.http.site import ApiSite
    from chorus.observe.metrics import Metrics

DRAIN_S = 5.0
"""How long requests under way may take to end at a stop."""


class PortInUse(UserError):
    """An HTTP port cannot be had; the text names its variable."""

    code = "port_in_use"


def listen(
    reactor: Any, address: str, port: int, site: ServerFactory, variable: str, last_port: int = 0
) -> IListeningPort:
    """Listen, or raise `PortInUse`: one line that names `variable` (CHORUS_X) and says what to do. Port 0 is any that
    is free, `last_port` first."""
    try:
        listening: IListeningPort = first_free(
            lambda candidate: reactor.listenTCP(candidate, site, backlog=BACKLOG, interface=address), port, last_port
        )
    except CannotListenError as error:
        raise PortInUse(cannot_listen(variable, address, port, error.socketError)) from None
    return listening


class HttpPort(Service):
    """Listening, draining and closing, for any site."""

    _log = Logger()

    def __init__(self, *, address: str, port: int, last_port: int = 0, variable: str, reactor: Any) -> None:
        """`port` 0 takes a free one, `last_port` where it is."""
        self._address = address
        self._asked = port
        self._last_port = last_port
        self._variable = variable
        self._reactor = reactor
        self._listening: IListeningPort | None = None
        self._site: ApiSite | None = None

    @property
    def port(self) -> int:
        """The port in use; the configured one until it listens."""
        if self._listening is None:
            return self._asked
        host: Any = self._listening.getHost()
        return int(host.port)

    def site(self) -> ApiSite:
        """Make the site; called once, at the start."""
        raise NotImplementedError

    def end_streams(self) -> None:
        """Called at a stop, before the rest is drained."""

    def startService(self) -> None:
        """Raises `PortInUse`."""
        self._site = self.site()
        self._listening = listen(self._reactor, self._address, self._asked, self._site, self._variable, self._last_port)
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Take no more requests; fires when those under way have ended, at most `DRAIN_S` later."""
        super().stopService()
        listening, self._listening = self._listening, None
        if listening is None or self._site is None:
            return succeed(None)
        return Deferred.fromCoroutine(self._stop(listening, self._site))

    async def _stop(self, listening: IListeningPort, site: ApiSite) -> None:
        closing = listening.stopListening()
        if isinstance(closing, Deferred):
            await closing
        self.end_streams()
        site.close_idle()
        closed: Deferred[None] = Deferred()
        abort = self._reactor.callLater(DRAIN_S, site.abort_all)
        site.when_closed(lambda: closed.callback(None))
        await closed
        if abort.active():
            abort.cancel()


class ApiService(HttpPort):
    """`/v1/…`, `/metrics` and `/openapi.json`. `api` exists once it is started."""

    def __init__(
        self,
        *,
        tasks: TaskPort,
        blobs: BlobPort,
        node: NodePort,
        metrics: Metrics,
        token: str,
        address: str,
        port: int,
        last_port: int = 0,
        host_names: Collection[str],
        max_blob: int,
        reactor: Any,
        policy: LimitPolicy | None = None,
    ) -> None:
        """`max_blob` is in bytes; `port` 0 takes a free one, `last_port` where it is; `policy` is what the API's
        description says of limits."""
        super().__init__(address=address, port=port, last_port=last_port, variable="CHORUS_API", reactor=reactor)
        self.setName("api")
        self.api: Api | None = None
        self._parts: dict[str, Any] = {
            "tasks": tasks,
            "blobs": blobs,
            "node": node,
            "metrics": metrics,
            "token": token,
            "host_names": host_names,
            "max_blob": max_blob,
            "reactor": reactor,
            "policy": policy or LimitPolicy(),
        }

    def site(self) -> ApiSite:
        # Klein installs a reactor when it is imported.
        from chorus.http.app import Api

        if self.api is None:
            self.api = Api(**self._parts)
        return self.api.site

    def end_streams(self) -> None:
        if self.api is not None:
            self.api.end_streams()
