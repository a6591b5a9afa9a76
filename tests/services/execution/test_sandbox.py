"""The sandbox service over backends that are made up: choosing, counting, health, what an earlier process left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from chorus.sandbox.contract import Choice, ImageMissing, Job, OutputSink, RunResult, SandboxUnavailable
from chorus.sandbox.images import ImageMap
from chorus.sandbox.selection import Mode
from chorus.services.execution.sandbox import PROBE_INTERVAL_S, SandboxService, clean_scratch
from chorus.tasks.terms import Reason
from tests.sandbox.support import shell
from tests.support import PureTestCase


class FakeRun:
    def __init__(self) -> None:
        self.result: Deferred[RunResult] = Deferred()
        self.calls: list[str] = []

    def cancel(self, reason: Reason) -> None:
        self.calls.append(f"cancel {reason}")

    def detach(self) -> None:
        self.calls.append("detach")

    def end(self, reason: Reason = Reason.EXIT) -> None:
        self.result.callback(RunResult(reason, 0, "", "fake", None, 1.0, 2.0))


class Fake:
    def __init__(self, name: str, problem: str | None = None, images: tuple[str, ...] = ()) -> None:
        self.name = name
        self.problem = problem
        self.images = images
        self.runs: list[FakeRun] = []
        self.adoptable: list[tuple[str, str]] = []
        self.answer: Deferred[str | None] | None = None
        self.closed = False

    def probe(self) -> Deferred[str | None]:
        return self.answer if self.answer is not None else succeed(self.problem)

    def has_image(self, job: Job) -> Deferred[bool]:
        if self.name == "bubblewrap":
            return succeed(job.image is None)
        return succeed(ImageMap().image_for(job.language, job.image) in self.images)

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> FakeRun:
        self.runs.append(FakeRun())
        return self.runs[-1]

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]:
        if self.problem is not None:
            return fail(SandboxUnavailable(self.problem))
        return succeed([key for key in self.adoptable if keep(*key)])

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> FakeRun | None:
        return self.start(job, scratch, sink)

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)


PYTHON = ("chorus-python-dev",)
PY = shell("true", language="python")


class Case(PureTestCase):
    def service(
        self, mode: Mode = "auto", docker: Fake | None = None, bubblewrap: Fake | None = None, **fields: Any
    ) -> Any:
        self.docker = docker or Fake("docker", images=PYTHON)
        self.bubblewrap = bubblewrap or Fake("bubblewrap")
        backends = {"docker": self.docker, "bubblewrap": self.bubblewrap}
        return SandboxService(self.clock(), backends, mode=mode, now=lambda: 5.0, **fields)  # type: ignore[arg-type]


class Choosing(Case):
    def test_table(self) -> None:
        gone, none = Fake("docker", "no engine: install docker.io"), Fake("bubblewrap", "no bwrap: install bubblewrap")
        full, empty, here = Fake("docker", images=PYTHON), Fake("docker"), Fake("bubblewrap")
        docker, bubble = Choice("docker", "chorus-python-dev"), Choice("bubblewrap", None)
        rust = shell("true", language="rust")
        named = shell("true", language="python", image="python:3")
        for mode, engine, other, job, expected in [
            ("auto", full, here, PY, docker),
            ("auto", full, none, PY, docker),
            ("auto", full, here, rust, bubble),
            ("auto", empty, here, PY, bubble),
            ("auto", gone, here, PY, bubble),
            ("auto", gone, none, PY, SandboxUnavailable),
            ("auto", empty, none, PY, ImageMissing),
            ("auto", full, here, named, ImageMissing),
            ("auto", gone, here, named, ImageMissing),
            ("docker", full, here, PY, docker),
            ("docker", empty, here, PY, ImageMissing),
            ("docker", gone, here, PY, SandboxUnavailable),
            ("bubblewrap", full, here, PY, bubble),
            ("bubblewrap", full, none, PY, SandboxUnavailable),
            ("bubblewrap", full, here, named, ImageMissing),
        ]:
            chosen = self.service(mode, engine, other).choose(job)
            if isinstance(expected, Choice):
                self.assertEqual(self.successResultOf(chosen), expected)
            else:
                self.failureResultOf(chosen, expected)

    def test_the_words_say_what_to_do(self) -> None:
        nothing = self.service(docker=Fake("docker", "no engine: A"), bubblewrap=Fake("bubblewrap", "no bwrap: B"))
        self.assertEqual(
            self.failureResultOf(nothing.choose(PY)).getErrorMessage(), "no sandbox: no engine: A; or no bwrap: B"
        )
        lacking = self.service("docker", Fake("docker")).choose(PY)
        self.assertIn("chorus-python-dev is not present; build it", self.failureResultOf(lacking).getErrorMessage())

    def test_never_a_bare_process(self) -> None:
        service = self.service(docker=Fake("docker", "a"), bubblewrap=Fake("bubblewrap", "b"))
        result = self.successResultOf(service.start(PY, Path("s"), lambda *_: None).result)
        self.assertEqual((result.reason, result.sandbox, result.started_at), (Reason.SANDBOX_UNAVAILABLE, "none", 5.0))

    def test_image_missing_is_a_result_with_its_name(self) -> None:
        service = self.service("docker", Fake("docker"))
        result = self.successResultOf(service.start(PY, Path("s"), lambda *_: None).result)
        self.assertEqual((result.reason, result.image), (Reason.IMAGE_MISSING, "chorus-python-dev"))


class Running(Case):
    def test_counts(self) -> None:
        service = self.service()
        run = service.start(PY, Path("s"), lambda *_: None)
        self.assertEqual(service.active, 1)
        self.docker.runs[0].end(Reason.OOM)
        self.assertEqual(self.successResultOf(run.result).reason, Reason.OOM)
        self.assertEqual((service.active, service.started_total, service.ended_total), (0, 1, {"oom": 1}))

    def test_cancel_and_detach_are_passed_on(self) -> None:
        service = self.service()
        run = service.start(PY, Path("s"), lambda *_: None)
        run.cancel(Reason.CANCELLED)
        run.detach()
        self.assertEqual(self.docker.runs[0].calls, ["cancel cancelled", "detach"])

    def test_cancel_before_the_choice(self) -> None:
        service = self.service()
        self.docker.answer = Deferred()
        run = service.start(PY, Path("s"), lambda *_: None)
        run.cancel(Reason.LEASE_LOST)
        run.cancel(Reason.CANCELLED)
        self.docker.answer.callback(None)
        self.assertEqual(self.successResultOf(run.result).reason, Reason.LEASE_LOST)
        self.assertEqual(self.docker.runs, [])

    def test_a_backend_that_breaks(self) -> None:
        service = self.service()
        self.docker.answer = fail(RuntimeError("bug"))
        result = self.successResultOf(service.start(PY, Path("s"), lambda *_: None).result)
        self.assertEqual(result.reason, Reason.SANDBOX_UNAVAILABLE)
        self.flushLoggedErrors(RuntimeError)


class Taking(Case):
    def test_adopts_from_the_backend_that_kept_it(self) -> None:
        service = self.service()
        self.docker.adoptable = [("t", "f"), ("u", "f")]
        kept = self.successResultOf(service.reconcile(lambda task, fence: task == "t"))
        self.assertEqual(kept, [("t", "f")])
        job = shell("true", task_id="t", fence="f")
        self.assertIsNotNone(service.adopt(job, Path("s"), lambda *_: None, 0, 0))
        self.assertEqual(service.active, 1)
        self.assertIsNone(service.adopt(job, Path("s"), lambda *_: None, 0, 0))

    def test_a_backend_that_is_away_is_passed_over(self) -> None:
        service = self.service(docker=Fake("docker", "gone"))
        self.assertEqual(self.successResultOf(service.reconcile(lambda *_: True)), [])

    def test_boxes_of_a_killed_agent(self) -> None:
        root = Path(self.mktemp())
        for name in ("a/scratch/box/fs", "b/scratch/box/fs", "b/scratch/artifacts/box", "c/box"):
            (root / name).mkdir(parents=True)
        self.assertEqual(clean_scratch(root, {root / "a/scratch/box"}), 2)
        left = sorted(str(path.relative_to(root)) for path in root.rglob("box"))
        self.assertEqual(left, ["a/scratch/box", "b/scratch/artifacts/box"])
        self.assertEqual(clean_scratch(root / "nowhere", set()), 0)


class Health(Case):
    def test_start_looks_and_looks_again(self) -> None:
        service = self.service()
        clock = service._next_look._clock
        self.assertFalse(service.usable)
        self.successResultOf(service.startService())
        status = service.status()
        self.assertEqual((status.usable, status.images, status.detail), (True, PYTHON, "docker, bubblewrap"))
        self.docker.problem = self.bubblewrap.problem = "gone"
        clock.advance(PROBE_INTERVAL_S)
        self.assertEqual((service.usable, service.status().to_json()["detail"]), (False, "gone; gone"))
        self.bubblewrap.problem = None
        clock.advance(PROBE_INTERVAL_S)
        self.assertTrue(service.usable)
        self.successResultOf(service.stopService())
        self.assertTrue(self.docker.closed and self.bubblewrap.closed)

    def test_only_the_backends_of_the_mode(self) -> None:
        service = SandboxService(self.clock(), {"bubblewrap": Fake("bubblewrap")}, mode="bubblewrap")  # type: ignore[dict-item]
        self.successResultOf(service.startService())
        self.assertEqual(service.status().backends, {"bubblewrap": None})
        self.successResultOf(service.stopService())
