"""What a backlog costs a node: 50 tasks beside 2,000 that nobody can take, and lists of 200 long tasks.

    python -m benchmarks.backlog [--runs 5] [--waiting 2000] [--tasks 50]

Starts two whole nodes with bubblewrap, one of them with the backlog, and has them run the tasks in turns, so that both
see the same machine. Prints one JSON document: medians of the runs, the ratio of each pair, the memory of both nodes,
and what 20 readers who do not read a list of 200 tasks of 64 KiB do to `/healthz`.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.integration.agents import until
from tests.integration.nodes import Node

READERS = 20
PAGE = 200
LIMIT_S = 600.0


def submit(node: Node, number: int, **body: Any) -> list[str]:
    encoded = json.dumps({"commands": ["true"], **body}).encode()
    found = []
    for _ in range(number):
        status, _, task = node.answer("POST", "/v1/tasks", encoded, **{"Content-Type": "application/json"})
        assert status == 202, task
        found.append(task["id"])
    return found


def timed(node: Node, tasks: int) -> float:
    """Seconds from the first submission to the last end."""
    begun = time.monotonic()
    left = set(submit(node, tasks))

    def over() -> bool:
        page = node.get(f"/v1/tasks?state=completed&limit={PAGE}")["tasks"]
        left.difference_update(task["id"] for task in page)
        return not left

    until("the tasks' ends", over, LIMIT_S)
    return time.monotonic() - begun


def resident_mb(node: Node) -> float:
    assert node.process is not None
    status = Path(f"/proc/{node.process.pid}/status").read_text(encoding="utf-8")
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)


def health(node: Node, seconds: float) -> float:
    """The worst time of an answer of `/healthz`, in milliseconds."""
    worst, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        node.probe("/healthz")
        worst = max(worst, time.monotonic() - begun)
    return round(worst * 1e3, 1)


def lists(node: Node) -> dict[str, float]:
    """Of a node with a page of long tasks."""
    submit(node, PAGE, title="t" * 250, description="x" * 64 * 1024, required={"role": "nobody"})
    with node.request("GET", f"/v1/tasks?limit={PAGE}") as response:
        size = len(response.read())
    quiet = health(node, 2.0)
    sockets = []
    for _ in range(READERS):
        reader = socket.create_connection(("127.0.0.1", int(node.ports["api"])))
        head = f"GET /v1/tasks?limit={PAGE} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {node.token}\r\n\r\n"
        reader.sendall(head.encode())
        sockets.append(reader)
    busy = health(node, 3.0)
    for reader in sockets:
        reader.close()
    return {"page_kib": round(size / 1024, 1), "healthz_quiet_ms": quiet, "healthz_with_readers_ms": busy}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    settings = {"CHORUS_SANDBOX": "bubblewrap", "CHORUS_MDNS_ENABLED": "false"}
    nodes = {name: Node(folder, name, **settings) for name in ("without", "with")}
    times: dict[str, list[float]] = {name: [] for name in nodes}
    try:
        for node in nodes.values():
            node.start()
            timed(node, 5)
        before = resident_mb(nodes["with"])
        submit(nodes["with"], options.waiting, required={"role": "nobody"})
        for run in range(options.runs):
            for name in sorted(nodes, reverse=bool(run % 2)):
                times[name].append(timed(nodes[name], options.tasks))
        ratios = [one / other for one, other in zip(times["with"], times["without"], strict=True)]
        return {
            "seconds": {name: round(statistics.median(found), 2) for name, found in times.items()},
            "ratio": round(statistics.median(ratios), 2),
            "memory_mb": {"before": before, "after": resident_mb(nodes["with"])},
            "list": lists(nodes["without"]),
        }
    finally:
        for node in nodes.values():
            node.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--waiting", type=int, default=2000)
    parser.add_argument("--tasks", type=int, default=50)
    with tempfile.TemporaryDirectory(prefix="chorus-backlog-") as folder:
        print(json.dumps(measure(parser.parse_args(), Path(folder)), indent=2))


if __name__ == "__main__":
    main()
