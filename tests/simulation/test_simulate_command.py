"""`chorus simulate`, from its words to its report."""

from __future__ import annotations

import base64
import contextlib
import errno
import html
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

from chorus.client import entry, show
from chorus.client.main import main
from chorus.simulation.dht.plots import DHT_ALTERNATIVES
from chorus.simulation.gossip.plots import ALTERNATIVES
from chorus.simulation.gossip.scenario import (
    MAX_CHURN,
    MAX_DEGREE,
    MAX_DELAY_MS,
    MAX_LOSS,
    MAX_MESSAGES,
    MAX_NODES,
    MAX_SECONDS,
    MAX_SIZE,
    MIN_NODES,
)
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["simulate", "calibration", "--nodes", "12", "--seconds", "3"]


class Command(PureTestCase):
    def setUp(self) -> None:
        self.here = Path(self.mktemp())
        self.here.mkdir()

    def chorus(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words, {})
        return status, out.getvalue(), err.getvalue()

    def assert_refused(self, words: list[str], *lines: str) -> None:
        status, out, err = self.chorus("simulate", *words, "--no-report")
        self.assertEqual((status, out, err.splitlines()), (2, "", [f"chorus: {line}" for line in lines]))

    def test_every_mistake_has_a_line(self) -> None:
        self.assert_refused(
            ["--nodes", "many", "--links", "150-", "--loss", "some", "--churn", "1x", "--seed", "1.5", "--size", ""],
            "--seed is a whole number, not '1.5'",
            "--nodes is a whole number, not 'many'",
            "--churn is a share such as 5% or 0.05, not '1x'",
            "--size is a whole number, not ''",
            "--links is a delay in ms such as 25, or two such as 10-150, not '150-'",
            "--loss is a share such as 5% or 0.05, not 'some'",
        )

    def test_bounds_are_named(self) -> None:
        self.assert_refused(["--nodes", "3"], "--nodes must be between 4 and 20000, not 3")
        self.assert_refused(["--seed", "-1"], "--seed must be between 0 and 9223372036854775807, not -1")
        self.assert_refused(
            ["--links", "20000-30000", "--loss", "70%", "--seconds", "0", "--degree", "1", "--churn", "201%"],
            "--degree must be between 2 and 200, not 1",
            "--links must be between 0 and 10000 ms, not 20000",
            "--loss must be between 0% and 50%, not 70%",
            "--churn must be between 0% and 200%, not 201%",
            "--seconds must be between 1 and 86400, not 0",
        )
        self.assert_refused(["--uplink", "0"], "--uplink must be between 0.01 and 100000 Mbit/s, not 0")
        self.assert_refused(["--seconds", "9" * 400], "--seconds is a number of at most 40 characters, not 400")

    def test_bounds_are_in_the_help(self) -> None:
        with self.assertRaises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
            main(["simulate", "--help"], {})
        said = " ".join(out.getvalue().split())
        for low, high in ((MIN_NODES, MAX_NODES), (2, MAX_DEGREE), (0, MAX_DELAY_MS), (0, MAX_SIZE), (1, MAX_SECONDS)):
            self.assertIn(f"{low} to {high:.0f}", said)
        for most in (MAX_LOSS, MAX_CHURN):
            self.assertIn(f"at most {most:.0%}", said)
        self.assertIn(f"at most {MAX_MESSAGES} messages", said)

    def test_mistakes_of_every_kind_are_said_together_and_what_follows_from_them_is_not(self) -> None:
        self.assert_refused(
            ["--nodes", "many", "--publishers", "5000", "--rate", "1e9", "--size", "-1", "-o", "-"],
            "--output and --no-report exclude each other",
            "--output names a file; for one with the name - say ./-",
            "--nodes is a whole number, not 'many'",
            "--size must be between 0 and 60000 bytes, not -1",
            "--rate must be between 0.001 and 10000 messages a second, not 1000000000",
        )
        self.assert_refused(
            ["--rate", "x", "--seconds", "86400", "--nodes", "3", "--degree", "100", "--publishers", "0"],
            "--rate is a number, not 'x'",
            "--nodes must be between 4 and 20000, not 3",
            "--publishers must be between 1 and 20000, not 0",
        )
        self.assert_refused(
            ["--seconds", "80000", "--rate", "10", "--nodes", "8"],
            "messages in all must be between 1 and 100000, not 800000",
        )
        self.assert_refused(
            ["--attackers", "silent:0x5", "--attackers", "silent:1x0", "--attackers", "x"],
            "--attackers silent:0x5: attackers must be between 1 and 5000, not 0",
            "--attackers silent:1x0: connections of an attacker must be between 1 and 1000, not 0",
            "--attackers is KIND:NxK such as silent:400x100, not 'x'",
        )
        status, _, err = self.chorus("simulate", "storm", "--loss", "x")
        self.assertEqual((status, len(err.splitlines())), (2, 2))

    def test_a_share_above_1_has_its_percent_sign(self) -> None:
        line = "is a share such as 5% or 0.05, not '2': above 1 say it in percent"
        self.assert_refused(["--churn", "2", "--loss", "2"], f"--churn {line}", f"--loss {line}")

    def test_delays_have_their_order(self) -> None:
        line = "--links is a delay in ms such as 25, or two such as 10-150, the shorter one first, not '150-10'"
        self.assert_refused(["--links", "150-10"], line)

    def test_more_attackers_than_there_may_be_in_a_larger_network(self) -> None:
        status, _, err = self.chorus("simulate", "sybils", "--nodes", "20000", "--no-report")
        self.assertEqual(status, 2)
        self.assertTrue(err.startswith("chorus: --nodes 20000: attackers must be between 1 and 5000, not 8000\n"), err)

    def test_a_number_is_said_as_it_was_given(self) -> None:
        self.assert_refused(["--size", "9999999"], "--size must be between 0 and 60000 bytes, not 9999999")
        self.assert_refused(["--rate", "0.0001"], self.rate("0.0001"))
        self.assert_refused(["--rate", "1e300"], self.rate("1e+300"))
        self.assert_refused(["--rate", "1e999"], self.rate("inf"))

    @staticmethod
    def rate(given: str) -> str:
        return f"--rate must be between 0.001 and 10000 messages a second, not {given}"

    def test_what_is_below_0_is_a_mistake_like_others(self) -> None:
        self.assert_refused(["--loss", "-1%"], "--loss must be between 0% and 50%, not -1%")
        self.assert_refused(
            ["--links", "-5-10"], "--links is a delay in ms such as 25, or two such as 10-150, not '-5-10'"
        )
        self.assert_refused(["--churn", "-.5"], "--churn must be between 0% and 200%, not -50%")
        self.assert_refused(["--rate", "-1"], self.rate("-1"))

    def test_a_tasks_own_command_is_left_as_it_is(self) -> None:
        seen: list[list[str]] = []
        with mock.patch(
            "chorus.client.task_commands.submit", side_effect=lambda options, api: seen.append(options.argv) or 0
        ):
            self.assertEqual(self.chorus("task", "submit", ".", "--", "simulate", "--loss", "-1%")[0], 0)
        self.assertEqual(seen, [["simulate", "--loss", "-1%"]])

    def test_more_publishers_than_nodes(self) -> None:
        self.assert_refused(["--publishers", "50", "--nodes", "10"], "--publishers must be between 1 and 10, not 50")

    def test_a_page_is_wanted_or_not(self) -> None:
        self.assert_refused([*QUICK[1:], "-o", "c.html"], "--output and --no-report exclude each other")
        self.assertFalse(Path("c.html").exists())

    def test_attackers(self) -> None:
        self.assert_refused(["--attackers", "silent"], "--attackers is KIND:NxK such as silent:400x100, not 'silent'")
        self.assert_refused(
            ["--attackers", "silent:0x5"], "--attackers silent:0x5: attackers must be between 1 and 5000, not 0"
        )
        status, _, err = self.chorus("simulate", "--attackers", "rude:1x1")
        self.assertEqual((status, len(err.splitlines())), (2, 1))
        self.assertIn("no such attack: rude; there are silent, ", err)
        self.assert_refused(
            ["--nodes", "20", "--attackers", "silent:2x21"],
            "connections of a silent attacker must be between 1 and 20, not 21",
        )

    def test_an_unknown_scenario(self) -> None:
        status, _, err = self.chorus("simulate", "storm")
        self.assertEqual((status, len(err.splitlines())), (2, 1))
        self.assertIn("no such scenario: storm; there are calibration, ", err)

    def test_the_output_is_checked_before_the_run(self) -> None:
        closed = self.here / "closed.html"
        closed.write_text("before")
        loop = self.here / "loop.html"
        loop.symlink_to(loop.name)
        pipe = self.here / "pipe.html"
        os.mkfifo(pipe)
        for output, words in (
            (self.here, "is a directory"),
            (self.here / "none" / "x.html", "is no directory"),
            (self.here / ("x" * 300), "cannot write"),
            (Path("/proc/x.html"), "cannot write /proc/x.html: "),
            (Path("/dev/full"), "/dev/full is a device"),
            (pipe, "is a named pipe"),
            (loop, "cannot write"),
            (closed, "Permission denied"),
        ):
            allowed = mock.patch("os.access", return_value=output != closed)
            with allowed, mock.patch("chorus.simulation.gossip.run.simulate", side_effect=AssertionError("ran")):
                status, _, err = self.chorus(*QUICK, "-o", str(output))
            self.assertEqual((status, len(err.splitlines())), (2, 1), err)
            self.assertIn(words, err)
        self.assertEqual(sorted(os.listdir(self.here)), ["closed.html", "loop.html", "pipe.html"])
        self.assertEqual(closed.read_text(), "before")

    def test_a_page_takes_the_place_of_an_older_one_behind_a_link_with_its_mode(self) -> None:
        old, link = self.here / "old.html", self.here / "link.html"
        old.write_text("before")
        old.chmod(0o640)
        link.symlink_to(old.name)
        self.assertEqual(self.chorus(*QUICK, "-o", str(link))[0], 0)
        self.assertTrue(link.is_symlink())
        self.assertIn("<h1>", old.read_text())
        self.assertEqual(old.stat().st_mode & 0o777, 0o640)
        self.assertEqual(sorted(os.listdir(self.here)), ["link.html", "old.html"])

    def test_figures_are_not_lost_with_a_page_that_cannot_be_written(self) -> None:
        full = OSError(errno.ENOSPC, "No space left on device")
        for form, figure in ((), "latency, median (ms)"), (("--json",), '"p50_ms"'):
            with mock.patch("os.replace", side_effect=full):
                status, out, err = self.chorus(*QUICK, *form, "-o", str(self.here / "x.html"))
            self.assertEqual(status, 2)
            self.assertEqual(err, f"chorus: cannot write {self.here}/x.html: No space left on device\n")
            self.assertIn(figure, out)
            self.assertNotIn("report:", out)
            self.assertEqual(os.listdir(self.here), [], "nothing half written stays")

    def test_who_interrupts_it_is_told_that_nothing_was_written(self) -> None:
        output = self.here / "x.html"
        output.write_text("before")
        with mock.patch("chorus.simulation.gossip.run.simulate", side_effect=KeyboardInterrupt):
            status, out, err = self.chorus(*QUICK, "-o", str(output))
        self.assertEqual((status, out, err), (130, "", "chorus: interrupted: no report was written\n"))
        self.assertEqual((os.listdir(self.here), output.read_text()), (["x.html"], "before"))

    def test_a_sigterm_leaves_nothing_half_made(self) -> None:
        output = self.here / "x.html"
        before = signal.getsignal(signal.SIGTERM)

        def killed(*_: object) -> None:
            self.assertEqual(len(os.listdir(self.here)), 1, "the page is open")
            os.kill(os.getpid(), signal.SIGTERM)

        with mock.patch("chorus.simulation.gossip.run.simulate", side_effect=killed):
            status, out, err = self.chorus(*QUICK, "-o", str(output))
        self.assertEqual((status, out, err), (143, "", "chorus: ended by SIGTERM: no report was written\n"))
        self.assertEqual(os.listdir(self.here), [])
        self.assertIs(signal.getsignal(signal.SIGTERM), before)

    def test_who_interrupts_what_is_read_gets_a_line_too(self) -> None:
        with mock.patch("chorus.client.simulate.read", side_effect=KeyboardInterrupt):
            status, _, err = self.chorus(*QUICK)
        self.assertEqual((status, err), (130, "chorus: interrupted: no report was written\n"))

    def test_who_interrupts_its_imports_gets_a_line(self) -> None:
        err = io.StringIO()
        with contextlib.redirect_stderr(err), mock.patch("chorus.client.main.main", side_effect=KeyboardInterrupt):
            self.assertEqual(entry.main(), 130)
        self.assertEqual(err.getvalue(), "chorus: interrupted\n")
        self.assertIn("\n    chorus = chorus.client.entry:main\n", (ROOT / "setup.cfg").read_text())

    def test_figures_that_nobody_can_take_are_a_line_and_the_page_is_written(self) -> None:
        output = self.here / "x.html"
        for words in ([*QUICK, "-o", str(output)], ["simulate", "--list"], ["--version"]):
            with open("/dev/full", "wb") as full:
                done = subprocess.run(
                    [sys.executable, "-m", "chorus.client.main", *words],
                    env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.here)},
                    stdout=full,
                    stderr=subprocess.PIPE,
                    check=False,
                    timeout=60,
                )
            self.assertEqual(
                (done.returncode, done.stderr), (2, b"chorus: cannot write the answer: No space left on device\n")
            )
        self.assertIn("<h1>", output.read_text())

    def test_without_matplotlib_a_line_says_what_to_install(self) -> None:
        with mock.patch.dict(sys.modules, {"matplotlib": None}):
            status, out, err = self.chorus(*QUICK, "-o", str(self.here / "x.html"))
            self.assertEqual((status, out, len(err.splitlines())), (2, "", 1))
            self.assertIn("pip install 'matplotlib>=3.8' ", err)
            extras = (ROOT / "setup.cfg").read_text()
            self.assertIn("\nsimulate =\n    matplotlib >= 3.8\n", extras)
            self.assertEqual(self.chorus(*QUICK, "--no-report")[0], 0, "the figures need no pictures")

    def test_the_hash_table_has_its_figures_its_page_and_its_line(self) -> None:
        page = self.here / "dht.html"
        status, out, err = self.chorus("simulate", "dht-warm", "--nodes", "40", "--output", str(page))
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"\nget, median \(ms\) +[\d.]+\n")
        self.assertIn("again: chorus simulate dht-warm --nodes 40 --seed 1\n", out)
        text = page.read_text()
        self.assertIn(DHT_ALTERNATIVES["get_latency"], text)
        self.assertNotIn(DHT_ALTERNATIVES["copies"], text)

    def test_progress_of_the_hash_table_counts_gets(self) -> None:
        with mock.patch.object(show, "lively", lambda stream: True):
            status, _, err = self.chorus("simulate", "dht-warm", "--nodes", "30", "--no-report")
        self.assertEqual(status, 0)
        self.assertTrue(err.endswith("\r500 of 500 gets\n"), err[-80:])

    def test_the_hash_table_has_its_mistakes(self) -> None:
        status, out, err = self.chorus("simulate", "dht-warm", "--loss", "5%", "--nodes", "7", "--no-report")
        self.assertEqual((status, out), (2, ""))
        self.assertEqual(
            err.splitlines(),
            [
                "chorus: --loss is for networks of gossip, not for dht-warm",
                "chorus: --nodes must be between 30 and 20000, not 7",
            ],
        )
        self.assertIn("no such scenario: dht-x; ", self.chorus("simulate", "dht-x")[2])

    def test_list(self) -> None:
        status, out, _ = self.chorus("simulate", "--list")
        self.assertEqual(status, 0)
        for word in ("calibration", "sybils", "withholding"):
            self.assertIn(word, out)
        document = json.loads(self.chorus("simulate", "--list", "--json")[1])
        self.assertIn("ten-thousand", document["scenarios"])
        self.assertIn("silent", document["attackers"])

    def test_a_list_comes_alone(self) -> None:
        for words, beside in ((("foo",), "foo"), (("sybils", "--nodes", "5"), "sybils, --nodes")):
            status, out, err = self.chorus("simulate", "--list", *words)
            self.assertEqual((status, out, err), (2, "", f"chorus: --list comes alone, without {beside}\n"))

    def test_a_report_is_one_page_with_its_pictures_and_the_line_that_replays_it(self) -> None:
        output = self.here / "report.html"
        words = [*QUICK, "--attackers", "silent:2x4", "--links", "20-40", "--flood-publish", "--seed", "7"]
        status, out, err = self.chorus(*words, "-o", str(output))
        self.assertEqual((status, err), (0, ""))
        page = output.read_text()
        pictures = re.findall(r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)">', page)
        self.assertEqual([name for name, _ in pictures], [html.escape(each) for each in ALTERNATIVES.values()])
        self.assertEqual(len(pictures), 5)
        self.assertIn("docs/simulate.md", page)
        for _, picture in pictures:
            self.assertIn(b"<svg", base64.b64decode(picture))
        self.assertNotRegex(page, r'(src|href)="(?!data:)', "nothing is fetched from elsewhere")
        replay = "chorus simulate calibration --nodes 12 --links 20-40 --seconds 3 --attackers silent:2x4"
        replay += " --flood-publish --seed 7"
        self.assertIn(replay, page)
        self.assertIn(f"again: {replay}\n", out)
        self.assertIn(f"report: {output}\n", out)
        differences = (
            "changed from calibration: nodes 12 instead of 1,000, connections of a node 11 instead of 20, "
            "links 20-40 ms instead of 10-150 ms, attackers silent:2x4 instead of none, publishers 1 instead of 100, "
            "flood publish yes instead of no, publishing 3 s instead of 30 s"
        )
        self.assertIn(f"<p>{differences}</p>", page)
        self.assertIn(f"calibration: {differences}\n", out)
        self.assertNotIn("published simulations", page)
        for name, value in (
            ("nodes", "12"),
            ("connections of a node", "11"),
            ("links", "20-40 ms"),
            ("loss", "0 %"),
            ("churn", "0 % a minute"),
            ("attackers", "silent:2x4"),
            ("publishers", "1"),
            ("rate", "2 messages/s"),
            ("size", "512 bytes"),
            ("publishing", "3 s"),
        ):
            self.assertIn(f"<tr><td>{name}</td><td>{value}</td></tr>", page)
        trace = re.findall(r"trace <code>(\w+)</code>", page)[0]
        again = json.loads(self.chorus(*replay.split()[1:], "--json")[1])
        self.assertEqual(again["trace"], trace, "the line gives the same run")
        self.assertEqual(again["again"], replay)
        self.assertIn(f"\ntrace: {trace}, made with {again['version']}\n", out)
        self.assertRegex(again["version"], r"^chorus \d")
        self.assertRegex(out, r"\nsilent nodes: places in honest meshes, each +[\d.]+\n")
        self.assertNotIn("missed", out)

    def test_json_alone_writes_no_report(self) -> None:
        status, out, _ = self.chorus(*QUICK, "--json", "--churn", "10%", "--loss", "1%", "--rate", "1.5")
        document = json.loads(out)
        self.assertEqual(status, 0)
        scenario = document["scenario"]
        self.assertEqual((scenario["churn"], scenario["links"]["loss"], scenario["rate"]), (0.1, 0.01, 1.5))
        self.assertTrue(scenario["summary"].startswith("changed from calibration: nodes 12 instead of 1,000, "))
        effective = document["parameters"]
        self.assertEqual((effective["nodes"], effective["links_ms"], effective["loss"]), (12, [10, 150], 0.01))
        self.assertEqual((effective["uplink_mbit"], effective["attackers"], effective["size"]), (None, [], 512))
        self.assertEqual(document["wanted"], [], "a changed scenario has no figures to reach")
        self.assertFalse(Path("simulate-calibration-1.html").exists())

    def test_a_single_delay_is_ten_percent_around_it(self) -> None:
        document = json.loads(self.chorus(*QUICK, "--json", "--links", "25")[1])
        self.assertEqual([round(each, 6) for each in document["scenario"]["links"]["delay_ms"]], [22.5, 27.5])

    def test_a_missed_figure_is_exit_status_1(self) -> None:
        from chorus.simulation.gossip import scenarios as gossip_scenarios
        from chorus.simulation.gossip.scenario import Scenario, WantedFigure

        scenario = Scenario(
            name="odd",
            nodes=8,
            degree=4,
            publishers=8,
            seconds=2.0,
            wanted=(WantedFigure("p50_ms", high=1), gossip_scenarios.ONCE),
        )
        with mock.patch.dict(gossip_scenarios.SCENARIOS, {"odd": scenario}):
            status, out, err = self.chorus("simulate", "odd", "--no-report")
            document = json.loads(self.chorus("simulate", "odd", "--json")[1])
        self.assertEqual(status, 1)
        self.assertRegex(err, r"\Achorus: missed: latency, median \(ms\) ≤ 1, but it is [\d.]+\n\Z")
        self.assertRegex(out, r"\nlatency, median \(ms\) +≤ 1 +[\d.]+ +missed\n")
        self.assertRegex(out, r"\ndelivered twice +≤ 0 +0 +met\n")
        self.assertEqual(document["wanted"], ["p50_ms ≤ 1", "delivered_twice ≤ 0"])
        self.assertEqual([each.partition(",")[0] for each in document["missed"]], ["p50_ms ≤ 1"])

    def test_other_commands_import_nothing_of_the_simulation(self) -> None:
        program = (
            "import sys\nfrom chorus.client.main import parser\nparser()\n"
            "print([name for name in sys.modules if 'simulation' in name or name.startswith('matplotlib')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            check=True,
            timeout=30,
        )
        self.assertEqual(done.stdout.strip(), b"[]")
