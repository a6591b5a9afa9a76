"""Publishing decisions from one of three nodes on loopback: seconds until each is safe at all three, and announced.

    python -m benchmarks.publishing [--decisions 200] [--size 1000]

From before the signature (the question whether another head exists, signature, encryption, three records at three
nodes, each durable there, announcement) to the last confirmation, as the node's own histogram has it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from chorus.services.cluster import load_token
from tests.integration.agents import until
from tests.integration.nodes import Node

NAME = "chorus_decision_publish_seconds"
PAUSE_S = 0.1
"""Between two decisions, and between two looks whether one is safe."""


def mesh(folder: Path, nodes: list[Node]) -> None:
    nodes.append(Node(folder, "one").start())
    token = load_token(nodes[0].data).text()
    for name in ("two", "three"):
        nodes.append(Node(folder, name, CHORUS_JOIN=token).launch())
    for node in nodes:
        node.wait()
    for node in nodes:
        until("a role", lambda node=node: node.get("/ucxi/v1/status")["role"] == "developer")  # type: ignore[misc]
        until("servers", lambda node=node: node.get("/ucxi/v1/status")["servers"] == 3)  # type: ignore[misc]


def publish(node: Node, count: int, size: int) -> None:
    for number in range(count):
        draft = {"kind": "design", "summary": f"decision {number}", "task": f"t{number}", "rationale": "x" * size}
        body = json.dumps(draft).encode()
        status, _, answer = node.answer("POST", "/ucxi/v1/decisions", body, **{"Content-Type": "application/json"})
        assert status == 201, answer
        # Questions cost the node about as much as the answer that is measured.
        time.sleep(PAUSE_S)
        until("a safe decision", lambda: node.get("/ucxi/v1/status")["pending"] == 0, every=PAUSE_S)


def buckets(node: Node) -> dict[float, float]:
    """Decisions up to so many seconds."""
    return {float(labels[0]): value for (name, labels), value in node.metrics().items() if name == f"{NAME}_bucket"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--decisions", type=int, default=200)
    parser.add_argument("--size", type=int, default=1000, help="bytes of each rationale")
    options = parser.parse_args()
    folder, nodes = Path(tempfile.mkdtemp(prefix="chorus-publishing-")), list[Node]()
    try:
        mesh(folder, nodes)
        publish(nodes[0], 20, options.size)
        before = buckets(nodes[0])
        cpu = [node.cpu_s() for node in nodes]
        publish(nodes[0], options.decisions, options.size)
        found = {bound: count - before[bound] for bound, count in buckets(nodes[0]).items()}
        for share in (0.5, 0.95, 0.99):
            bound = next(bound for bound, count in sorted(found.items()) if count >= share * options.decisions)
            print(f"p{share * 100:g}: at most {bound * 1000:g} ms")
        used = [(node.cpu_s() - was) * 1000 / options.decisions for node, was in zip(nodes, cpu, strict=True)]
        print(f"processor time of a decision: {', '.join(f'{each:.1f} ms' for each in used)} (author first)")
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
