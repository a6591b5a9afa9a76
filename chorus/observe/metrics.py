"""The metrics of a node in the Prometheus text format.

Parts keep plain numbers; what is registered here is a way to read them, called when somebody asks for `/metrics`.
`prometheus_client` only knows the format. Names follow spec/system.md 19; `docs/api.md` lists them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.logger import Logger

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Labels = tuple[str, ...]
Reading = float | int | Mapping[tuple[str, str], float] | Mapping[Labels, float] | Mapping[str, float]
"""One number, or one per label value (a tuple of them where there are several labels)."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
"""Buckets for durations, from a request to a long task."""


class Histogram:
    """Counts observations in buckets; cheap enough for any path that is not per packet."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(sorted(bounds))
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one observation; what is not finite is passed over."""
        if math.isfinite(value):
            self.counts[bisect.bisect_left(self.bounds, value)] += 1
            self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, observations up to it) as Prometheus wants them."""
        return _cumulative(self.bounds, self.counts)


@attrs.frozen
class ReadHistogram:
    """A histogram that another part counts: `read` gives the observations of each bucket and of the rest, and the sum
    of what was observed."""

    bounds: tuple[float, ...]
    read: Callable[[], tuple[Sequence[int], float]]

    @property
    def sum(self) -> float:
        return self.read()[1]

    def cumulative(self) -> list[tuple[str, float]]:
        return _cumulative(self.bounds, self.read()[0])


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    total = 0
    rows = []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        rows.append((bound, float(total)))
    return rows


@attrs.frozen
class _Source:
    kind: str
    name: str
    help: str
    labels: Labels
    read: Callable[[], Reading] | None
    histogram: Histogram | ReadHistogram | None = None


class Metrics:
    """The registry of one node. Several nodes in one process have one each."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
    _log = Logger()

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}
        self._registry: CollectorRegistry | None = None
        self.broken = 0
        """Readings that raised."""

    def counter(self, name: str, help: str, read: Callable[[], Reading], labels: Sequence[str] = ()) -> None:
        """A number that only grows; its name ends with `_total`. Raises ValueError for a doubled or ill-formed name."""
        if not name.endswith("_total"):
            raise ValueError(f"the counter {name} must end with _total")
        self._add(_Source("counter", name, help, tuple(labels), read))

    def gauge(self, name: str, help: str, read: Callable[[], Reading], labels: Sequence[str] = ()) -> None:
        """A number that goes up and down."""
        self._add(_Source("gauge", name, help, tuple(labels), read))

    def histogram(self, name: str, help: str, bounds: Sequence[float] = SECONDS) -> Histogram:
        """A new histogram; the caller observes."""
        histogram = Histogram(bounds)
        self._add(_Source("histogram", name, help, (), None, histogram))
        return histogram

    def read_histogram(
        self, name: str, help: str, bounds: Sequence[float], read: Callable[[], tuple[Sequence[int], float]]
    ) -> None:
        """A histogram that another part counts (`ReadHistogram`)."""
        self._add(_Source("histogram", name, help, (), None, ReadHistogram(tuple(bounds), read)))

    def names(self) -> list[tuple[str, str, str]]:
        """(name, kind, help) of all, sorted: the table of the documentation."""
        return sorted((source.name, source.kind, source.help) for source in self._sources.values())

    def render(self) -> bytes:
        """Everything as text. A reading that raises is left out, logged and counted."""
        from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
        from prometheus_client.exposition import generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
            GCCollector(registry=self._registry)
            self._registry.register(self)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """What `prometheus_client` calls."""
        for source in list(self._sources.values()):
            try:
                yield _family(source)
            except Exception:
                self.broken += 1
                self._log.failure("reading the metric {name}", name=source.name)

    def _add(self, source: _Source) -> None:
        if not source.name.startswith("chorus_") or not source.name.replace("_", "a").isalnum():
            raise ValueError(f"{source.name} is no name of a metric of CHORUS")
        if source.name in self._sources:
            raise ValueError(f"the metric {source.name} is registered already")
        self._sources[source.name] = source


def _family(source: _Source) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if source.histogram is not None:
        histogram = HistogramMetricFamily(source.name, source.help)
        histogram.add_metric([], source.histogram.cumulative(), source.histogram.sum)
        return histogram
    assert source.read is not None
    kind = CounterMetricFamily if source.kind == "counter" else GaugeMetricFamily
    family = kind(source.name, source.help, labels=source.labels)
    reading = source.read()
    if isinstance(reading, Mapping):
        for key, value in reading.items():
            family.add_metric([key] if isinstance(key, str) else list(key), value)
    else:
        family.add_metric([], reading)
    return family
