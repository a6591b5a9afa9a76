"""The metrics of a node in the Prometheus text format.

Parts keep plain numbers; what is registered here is a way to read them, called when somebody asks for `/metrics`.
`prometheus_client` only knows the format. Names follow spec/system.md 19.
"""

from __future__ import annotations

import bisect
import itertools
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


class Histogram:
    """Counts observations in buckets; cheap enough for any path that is not per packet."""

    def __init__(self, bounds: Sequence[float]) -> None:
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
        totals = itertools.accumulate(map(float, self.counts))
        return list(zip((*map(str, self.bounds), "+Inf"), totals, strict=True))


@attrs.frozen
class _Source:
    kind: str
    name: str
    help: str
    labels: Labels
    read: Callable[[], Reading] | None
    histogram: Histogram | None = None


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

    def histogram(self, name: str, help: str, histogram: Histogram) -> None:
        """Observations that another part counts in `histogram`."""
        self._add(_Source("histogram", name, help, (), None, histogram))

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
        """Called by `prometheus_client`."""
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
