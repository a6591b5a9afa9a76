"""What docs/simulate.md says there is, and pictures that can be read."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

from chorus.simulation.dht.scenarios import DHT_SCENARIOS
from chorus.simulation.gossip import plots as gossip_plots
from chorus.simulation.gossip.network import GossipNet
from chorus.simulation.gossip.run import GossipResult, result
from chorus.simulation.gossip.scenario import ATTACKS, Attack
from chorus.simulation.gossip.scenarios import LOST, SCENARIOS
from tests.simulation.gossip_support import small
from tests.support import PureTestCase

PAGE = Path(__file__).resolve().parents[3] / "docs" / "simulate.md"


class Documentation(PureTestCase):
    def rows(self, heading: str) -> dict[str, str]:
        """First and second cells of the table under a heading."""
        section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        found = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE)
        self.assertEqual(len(found), len(dict(found)), "none twice")
        return dict(found)

    def test_the_scenarios_are_those_that_there_are_in_their_words(self) -> None:
        self.assertEqual(self.rows("Scenarios"), {name: each.summary for name, each in SCENARIOS.items()})

    def test_examples_name_scenarios_that_there_are(self) -> None:
        named = set(re.findall(r"^chorus simulate ([a-z][a-z-]*)", PAGE.read_text(), re.MULTILINE))
        self.assertGreater(len(named), 1)
        self.assertLessEqual(named, {*SCENARIOS, *DHT_SCENARIOS})

    def test_the_scenarios_of_the_hash_table_are_those_that_there_are(self) -> None:
        rows = self.rows("Scenarios of the hash table")
        self.assertEqual(rows, {name: each.summary for name, each in DHT_SCENARIOS.items()})

    def test_the_attackers_are_those_that_there_are(self) -> None:
        self.assertEqual(set(self.rows("Attackers")), set(ATTACKS))


class Pictures(PureTestCase):
    def attacked(self) -> GossipResult:
        net = GossipNet(small(nodes=20, seconds=2.0, attacks=tuple(Attack(kind, 1, 5) for kind in LOST)), 1)
        net.run()
        return result(net, 1, 1.0)

    def test_a_legend_of_all_kinds_is_beside_the_curves_and_within_the_picture(self) -> None:
        made = self.attacked()
        for name in ("degree", "scores"):
            figure = gossip_plots.PLOTS[name](made)
            FigureCanvasAgg(figure).draw()
            (axes,) = figure.axes
            self.assertIsNone(axes.get_legend())
            (legend,) = figure.legends
            shown = [text.get_text() for text in legend.get_texts()]
            for kind in LOST:
                self.assertTrue(any(kind in text for text in shown), f"{kind} in {name}")
            box = legend.get_window_extent()
            self.assertFalse(box.overlaps(axes.get_tightbbox()), name)
            self.assertGreaterEqual(min(box.x0, box.y0), 0)
            self.assertLessEqual(box.x1, figure.bbox.x1)
            self.assertGreater(axes.bbox.height, 0.6 * gossip_plots.SIZE[1] * figure.dpi, "the curves keep their room")

    def test_ticks_are_round_and_what_is_drawn_is_in_the_legend(self) -> None:
        net = GossipNet(small(nodes=20, seconds=2.0), 1)
        net.run()
        for made in (result(net, 1, 1.0), self.attacked()):
            for name, draw in gossip_plots.PLOTS.items():
                figure = draw(made)
                FigureCanvasAgg(figure).draw()
                for axes in figure.axes:
                    for tick in axes.get_yticklabels():
                        self.assertRegex(tick.get_text(), r"^[-\N{MINUS SIGN}]?[\d,]+(\.\d{1,3})?$", name)
                    self.assertEqual(len(axes.texts), 0, f"nothing is written over the curves of {name}")
        legend = [text.get_text() for text in gossip_plots.degree(made).legends[0].get_texts()]
        self.assertIn("bounds of a mesh: 5 (D_lo) and 12 (D_hi)", legend)
        self.assertIn("band: 10th to 90th percentile", legend)
        self.assertEqual(set(gossip_plots.ALTERNATIVES), set(gossip_plots.PLOTS))
