"""Many seeds over several sittings: a state file knows which are done and what they add up to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from chorus.files import write_private
from chorus.simulation.leadership.mix import KINDS, LeadershipMix, draw_mix
from chorus.simulation.leadership.run import LeadershipFailed, LeadershipReport, run_seed

VERSION: Final = 1
SAVE_EVERY: Final = 20
"""Seeds between two writes of the state file; a sitting that is killed loses at most so many."""
MAX_FAILURES: Final = 100
"""Lines of failed seeds that are kept."""
RARE: Final = (
    "votes refused",
    "pre-vote: no",
    "pre-vote: wait",
    "grants refused",
    "transfers sent",
    "offices lost",
    "committed of an older term",
    "snapshot installed",
    "roster changes",
    "acts fenced off",
    "disk.log cut",
    "disk.writes kept at a crash",
    "disk.writes lost at a crash",
    "wire.lost with a connection",
    "wire.lost at a cut",
)
"""Counters of branches that a long campaign must have gone through."""


class BadState(ValueError):
    """A state file that this program did not write."""


@attrs.define
class CampaignState:
    done: set[int] = attrs.field(factory=set)
    totals: Counter[str] = attrs.field(factory=Counter)
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    failures: list[str] = attrs.field(factory=list)
    failed: int = 0

    def add(self, report: LeadershipReport) -> None:
        self.done.add(report.mix.seed)
        self.totals.update(report.counts)
        self.simulated_s += report.simulated_s
        self.cpu_s += report.cpu_s

    def fail(self, failed: LeadershipFailed) -> None:
        self.done.add(failed.mix.seed)
        self.failed += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(str(failed).splitlines()[0] + " … " + failed.mix.arguments())

    def document(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            "done": [list(each) for each in ranges(self.done)],
            "totals": dict(sorted(self.totals.items())),
            "simulated_s": round(self.simulated_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            "failed": self.failed,
            "failures": self.failures,
        }

    def summary(self) -> Iterator[str]:
        totals = self.totals
        crashes = totals["fault.crash"] + totals["fault.crash-admin"] + totals["fault.bounces"]
        yield (
            f"{len(self.done)} seeds, {self.failed} failed; {self.simulated_s:.0f} s simulated in {self.cpu_s:.0f} s; "
            f"{totals['leases']} leases, {crashes} crashes, "
            f"{totals['acknowledged']} entries acknowledged, {totals['client operations']} operations of clients"
        )
        yield "faults: " + ", ".join(f"{kind} {totals[f'fault.{kind}']}" for kind in KINDS if totals[f"fault.{kind}"])
        yield "rare branches: " + ", ".join(f"{name} {totals[name]}" for name in RARE)
        yield from self.failures

    def never(self) -> list[str]:
        """Rare branches that nothing went through yet."""
        return [name for name in RARE if not self.totals[name]]


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """First and last of each run of numbers."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def load(path: Path | None) -> CampaignState:
    """Raises `BadState`; a file that is not there is the beginning."""
    if path is None or not path.exists():
        return CampaignState()
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["v"] != VERSION:
            raise BadState(f"{path} was written by another version: begin with another file")
        done = {number for first, last in document["done"] for number in range(first, last + 1)}
        totals = Counter({name: int(count) for name, count in document["totals"].items()})
        numbers = float(document["simulated_s"]), float(document["cpu_s"])
        return CampaignState(done, totals, *numbers, list(document["failures"]), int(document["failed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadState(f"{path} is no state of a campaign: {error}") from None


def save(state: CampaignState, path: Path | None) -> None:
    if path is not None:
        write_private(path, (json.dumps(state.document(), indent=1) + "\n").encode())


class SeedCampaign:
    """Runs what is missing between two seeds; `stop` may be called at any time."""

    def __init__(
        self,
        state: CampaignState,
        path: Path | None,
        tell: Callable[[str], object],
        draw: Callable[[int], LeadershipMix] = draw_mix,
        run: Callable[[LeadershipMix], LeadershipReport] = run_seed,
    ) -> None:
        self.state = state
        self._path = path
        self._tell = tell
        self._draw = draw
        self._run = run
        self._stopped = False

    def stop(self) -> None:
        """After the seed that runs now."""
        self._stopped = True

    def go(self, first: int, last: int) -> int:
        """Returns the number of seeds that failed in this sitting."""
        failed = since = 0
        for seed in range(first, last + 1):
            if self._stopped:
                break
            if seed in self.state.done:
                continue
            try:
                self.state.add(self._run(self._draw(seed)))
            except LeadershipFailed as failure:
                failed += 1
                self.state.fail(failure)
                self._tell(f"FAILED {failure}")
            since += 1
            if since % SAVE_EVERY == 0:
                save(self.state, self._path)
        save(self.state, self._path)
        return failed
