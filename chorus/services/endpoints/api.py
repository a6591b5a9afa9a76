# mypy: allow-untyped-calls
"""The HTTP API of a node on its own port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError

from chorus.http.limits import BACKLOG
from chorus.services.listening import PortInUse, cannot_listen, first_free
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort

    from chorus.http.app import ApiRoutes
    from chorus.http.gate import ApiRules
    from chorus.http.ports import ApiPorts
    from chorus.http.site import ApiSite
    from chorus.observe.metrics import Metrics
    from chorus.services.listening import ListenAddress

DRAIN_S = 5.0
"""How long requests under way may take to end at a stop."""


class HttpPort(Service):
    """Listens, drains and closes, for any site."""

    def __init__(self, address: ListenAddress, reactor: Any) -> None:
        self._address = address
        self._reactor = reactor
        self._listening: IListeningPort | None = None
        self._site: ApiSite | None = None

    @property
    def port(self) -> int:
        """The port in use; the configured one until it listens."""
        if self._listening is None:
            return self._address.port
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
        site, address = self._site, self._address
        try:
            self._listening = first_free(
                lambda port: self._reactor.listenTCP(port, site, backlog=BACKLOG, interface=address.host),
                address.port,
                address.last_port,
            )
        except CannotListenError as error:
            raise PortInUse(cannot_listen(address.variable, address.host, address.port, error.socketError)) from None
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
        abort = Timer(self._reactor, site.abort_all)
        abort.arm(DRAIN_S)
        site.when_closed(lambda: closed.callback(None))
        await closed
        abort.cancel()


class ApiService(HttpPort):
    """`/v1/…`, `/metrics` and `/openapi.json`. `api` exists once it is started."""

    name = "api"

    def __init__(
        self, ports: ApiPorts, metrics: Metrics, rules: ApiRules, address: ListenAddress, reactor: Any
    ) -> None:
        super().__init__(address, reactor)
        self.api: ApiRoutes | None = None
        self._ports = ports
        self._metrics = metrics
        self._rules = rules

    def site(self) -> ApiSite:
        # Klein installs a reactor when it is imported.
        from chorus.http.app import ApiRoutes

        if self.api is None:
            self.api = ApiRoutes(self._ports, self._metrics, self._rules, self._reactor)
        return self.api.site

    def end_streams(self) -> None:
        if self.api is not None:
            self.api.end_streams()
