"""How long a sandbox takes to its first output: warm, cold and bubblewrap, beside a bare `docker run`.

The bare run is of the same image.

    DOCKER_HOST=unix:///… python benchmarks/sandbox.py [--image chorus-python-dev] [--count 30]

Prints one JSON document. The kinds take turns within each round, so that all of them see the same machine; every start
runs `python3 -c 'print("x")'`, and its time is from the call to the first byte of output (a bare run: to the end of its
line). Ratios are medians of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from chorus.reactor import install

install()

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402
from twisted.internet.task import deferLater, react  # noqa: E402

from chorus.sandbox.bubblewrap.backend import Bubblewrap  # noqa: E402
from chorus.sandbox.contract import Backend, Job  # noqa: E402
from chorus.sandbox.docker.backend import Docker  # noqa: E402
from chorus.sandbox.settings import SandboxSettings  # noqa: E402
from chorus.tasks.terms import Limits, Reason  # noqa: E402

COMMAND = ("python3", "-c", "print('x')")
WANTED = {"warm": 0.300, "cold": 1.5}
"""Seconds at the 95th percentile."""


def job(number: int) -> Job:
    limits = Limits(timeout_s=30)
    return Job(f"bench-{number}", 1, f"0.1.{number}", "bench", (COMMAND,), {}, limits, "python", None, None, ())


async def first_output(backend: Backend, number: int, folder: Path) -> tuple[float, float]:
    """(seconds to the first output, seconds to the result)."""
    seen: list[float] = []
    began = time.perf_counter()
    run = backend.start(job(number), folder / str(number), lambda *_: seen.append(time.perf_counter()))
    result = await run.result
    if result.reason is not Reason.EXIT or result.exit_code != 0 or not seen:
        raise SystemExit(f"the run failed: {result}")
    return seen[0] - began, time.perf_counter() - began


def bare(host: str, image: str) -> float:
    began = time.perf_counter()
    with subprocess.Popen(
        ["docker", "-H", host, "run", "--rm", "--network", "none", image, *COMMAND], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        took = time.perf_counter() - began
        process.stdout.read()
    return took


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    last = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return {
        "p50_ms": round(1000 * statistics.median(ordered), 1),
        "p95_ms": round(1000 * last, 1),
        "max_ms": round(1000 * ordered[-1], 1),
    }


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    load = os.getloadavg()[0]
    backends: dict[str, Backend] = {}
    if arguments.host:
        for kind, warm in (("warm", {arguments.image: 1}), ("cold", {})):
            settings = SandboxSettings(docker_host=arguments.host, warm=warm)
            docker = Docker(reactor, f"bench-{kind}", state=folder / kind, settings=settings)
            problem = await docker.probe()
            if problem is not None:
                raise SystemExit(problem)
            if not await docker.has_image(job(0)):
                raise SystemExit(f"the engine has no {arguments.image}: deploy/images/build python")
            await docker.reconcile(lambda task, fence: False)
            backends[kind] = docker
    bubblewrap = Bubblewrap(reactor, "bench")
    if await bubblewrap.probe() is None:
        backends["bubblewrap"] = bubblewrap
    firsts: dict[str, list[float]] = {kind: [] for kind in [*backends, *(["docker_run"] if arguments.host else [])]}
    wholes: dict[str, list[float]] = {kind: [] for kind in backends}
    number = 0
    for _ in range(arguments.count):
        if "warm" in backends:
            while not backends["warm"].pool.waiting.get(arguments.image):  # type: ignore[attr-defined]
                await deferLater(reactor, 0.05)
            # The pool has just started a container: a task that comes later finds the machine quiet.
            await deferLater(reactor, 0.2)
        for kind, backend in backends.items():
            number += 1
            first, whole = await first_output(backend, number, folder)
            firsts[kind].append(first)
            wholes[kind].append(whole)
        if arguments.host:
            firsts["docker_run"].append(bare(arguments.host, arguments.image))
    for backend in [*backends.values(), *([] if "bubblewrap" in backends else [bubblewrap])]:
        await backend.close()
    found: dict[str, Any] = {
        "image": arguments.image,
        "count": arguments.count,
        "cores": os.cpu_count(),
        "load_before": load,
        "first_output": {kind: summary(values) for kind, values in firsts.items()},
        "to_result": {kind: summary(values) for kind, values in wholes.items()},
    }
    if arguments.host:
        found["of_docker_run"] = {
            kind: round(
                statistics.median(mine / its for mine, its in zip(firsts[kind], firsts["docker_run"], strict=True)), 3
            )
            for kind in backends
        }
        found["holds"] = {
            kind: found["first_output"][kind]["p95_ms"] < 1000 * seconds for kind, seconds in WANTED.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", default="chorus-python-dev")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--host", default=os.environ.get("CHORUS_TEST_DOCKER_HOST") or os.environ.get("DOCKER_HOST"))
    arguments = parser.parse_args()

    async def run() -> None:
        folder = Path(tempfile.mkdtemp(prefix="chorus-bench-"))
        try:
            json.dump(await measure(arguments, folder), sys.stdout, indent=2)
            print()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    react(lambda _: Deferred.fromCoroutine(run()))


if __name__ == "__main__":
    main()
