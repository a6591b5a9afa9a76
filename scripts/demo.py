"""Three agents on loopback, one task: the demonstration that the README names (started by scripts/demo)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "textstats"
EXAMPLE_COMMAND = "python3 -m unittest discover -v && python3 -m textstats README.md | tee /workspace/output/stats.json"
BIN = Path(sys.executable).parent
START_LIMIT_S = 60.0
"""A node that has not answered by then will not; its log says why."""
KEPT = ("CHORUS_SANDBOX", "CHORUS_DOCKER_HOST", "CHORUS_IMAGE_MAP", "CHORUS_LOG_LEVEL")
"""What of the caller's configuration reaches the three nodes; everything else is the demonstration's own."""


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


class Failed(Exception):
    """One line that says what went wrong."""


class Node:
    """One `twistd chorus agent` process with a data directory of its own."""

    def __init__(self, name: str, folder: Path, **settings: str) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(mode=0o700)
        self.log = self.folder / "agent.log"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_") or k in KEPT} | {
            "CHORUS_DATA_DIR": str(self.folder / "data"),
            "CHORUS_AGENT_ID": name,
            "CHORUS_P2P_PORT": "0",
            "CHORUS_API_PORT": "0",
            "CHORUS_HEALTH_PORT": "0",
            "CHORUS_MDNS_ENABLED": "false",
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "twistd"), "--nodaemon", "--pidfile=", "chorus", "agent"],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Until its API answers; `Failed` with the last line of its log when it ended instead."""
        deadline = time.monotonic() + START_LIMIT_S
        ports = self.folder / "data" / "ports.json"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                lines = self.log.read_text(errors="replace").strip().splitlines() or ["(no output)"]
                raise Failed(f"{self.name} ended with status {self.process.returncode}: {lines[-1]}")
            if ports.exists():
                health = json.loads(ports.read_text())["health"]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{health}/healthz", timeout=2):
                        return
                except OSError:
                    pass
            time.sleep(0.05)
        raise Failed(f"{self.name} did not answer within {START_LIMIT_S:.0f} s; its log is {self.log}")

    def client(self, *words: str, check: bool = True, capture: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the `chorus` command against this node."""
        done = subprocess.run(
            [str(BIN / "chorus"), *words],
            env=self.env,
            stdout=subprocess.PIPE if capture else None,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise Failed(f"chorus {' '.join(words[:2])} ended with status {done.returncode}")
        return done

    def json(self, *words: str) -> object:
        return json.loads(self.client("--json", *words).stdout)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stopped(self) -> None:
        try:
            self.process.wait(35)
        except subprocess.TimeoutExpired:
            say(f"{self.name} did not stop in time and was killed")
            self.process.kill()
            self.process.wait()


def arguments(words: list[str]) -> tuple[Path, list[str]]:
    """(directory, command): `PATH -- COMMAND…`, or the shipped example."""
    if not words:
        return EXAMPLE, ["/bin/sh", "-c", EXAMPLE_COMMAND]
    if "--" not in words or words.index("--") != 1 or len(words) < 3:
        raise Failed("usage: scripts/demo [PATH -- COMMAND…]")
    path = Path(words[0])
    if not path.is_dir():
        raise Failed(f"{path} is not a directory")
    command = words[2:]
    # One word is a shell line ("make test && make lint"), several are one command's words.
    return path.resolve(), ["/bin/sh", "-c", command[0]] if len(command) == 1 else command


def known_peers(node: Node) -> int:
    """Peers that the node is connected to and that have said who they are."""
    answer = node.json("peers")
    assert isinstance(answer, dict)
    return sum(1 for peer in answer["peers"] if peer["agent_id"] and peer["role"])


def mesh(folder: Path) -> list[Node]:
    """Three agents that have found and admitted each other; node-1 founds the cluster, the others join it."""
    nodes: list[Node] = []
    try:
        nodes.append(Node("node-1", folder, CHORUS_AGENT_ROLE="reviewer"))
        nodes[0].wait_ready()
        token = nodes[0].client("token", "--raw").stdout.strip()
        say(f"node-1 founded a cluster (process {nodes[0].process.pid})")
        for name in ("node-2", "node-3"):
            nodes.append(Node(name, folder, CHORUS_AGENT_ROLE="developer", CHORUS_JOIN=token))
        for node in nodes[1:]:
            node.wait_ready()
            say(f"{node.name} joins with node-1's token (process {node.process.pid})")
        deadline = time.monotonic() + START_LIMIT_S
        while (counts := [known_peers(node) for node in nodes]) != [2, 2, 2]:
            if time.monotonic() > deadline:
                raise Failed(f"the three did not all find each other (peers: {counts}); logs are in {folder}")
            time.sleep(0.2)
        say("all three found and authenticated each other:")
        nodes[0].client("peers", capture=False)
    except BaseException:
        stop(nodes)
        raise
    return nodes


def stop(nodes: list[Node]) -> None:
    for node in nodes:
        node.stop()
    for node in nodes:
        node.stopped()


def check_sandbox(node: Node) -> None:
    """Without a sandbox the task would wait for ever: say now what is missing."""
    status = node.json("status")
    assert isinstance(status, dict)
    if not status["sandbox"]["usable"]:
        raise Failed(f"nothing on this machine can run a task safely: {status['sandbox']['detail']}")


def run_task(nodes: list[Node], path: Path, command: list[str], results: Path) -> int:
    """Submit through node-1, watch it live, and say what came of it. Returns the command's exit status."""
    say(f"submitting {path} through node-1: {' '.join(command)}")
    submitted = nodes[0].json(
        "task", "submit", str(path), "--title", path.name, "--require-role", "developer", "--artifact", "**",
        "--", *command,
    )  # fmt: skip
    assert isinstance(submitted, dict)
    task_id = str(submitted["id"])
    nodes[0].client("task", "watch", task_id, check=False, capture=False)
    task = nodes[0].json("task", "show", task_id)
    assert isinstance(task, dict)
    runner = next((n.name for n in nodes if n.name == task.get("agent_id")), task.get("agent_id"))
    api = json.loads((nodes[0].folder / "data" / "ports.json").read_text())["api"]
    say(f"state      {task['state']} ({task['reason']})" + (f": {task['detail']}" if task.get("detail") else ""))
    say(f"exit code  {task['exit_code']}")
    say(f"ran on     {runner} (peer {task['agent']}), submitted through node-1")
    image = f", image {task['image']}" if task.get("image") else ""
    say(f"sandbox    {task['sandbox']}{image}")
    for caveat in task.get("caveats") or []:
        say(f"           not held by this sandbox: {caveat}")
    for artifact in task.get("artifacts") or []:
        say(f"artifact   {artifact['path']} ({artifact['size']} bytes)")
        say(f"           http://127.0.0.1:{api}/v1/blobs/{artifact['sha256']}")
    say(f"result     http://127.0.0.1:{api}/v1/tasks/{task_id} (while the nodes run)")
    if task.get("artifacts"):
        nodes[0].client("task", "fetch", task_id, "--output", str(results))
        say(f"fetched    {results}")
    exit_code = task["exit_code"]
    return exit_code if isinstance(exit_code, int) else 1


def main(words: list[str]) -> int:
    path, command = arguments(words)
    folder = Path(tempfile.mkdtemp(prefix="chorus-demo-"))
    results = Path(tempfile.mkdtemp(prefix="chorus-demo-results-")) / "artifacts"
    nodes: list[Node] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun = time.monotonic()
    try:
        say("starting three agents on loopback")
        nodes = mesh(folder)
        check_sandbox(nodes[1])
        return run_task(nodes, path, command, results)
    finally:
        stop(nodes)
        if nodes:
            say(f"stopped all three ({time.monotonic() - begun:.0f} s in all)")
        if not results.exists():
            results.parent.rmdir()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as failure:
        sys.exit(f"demo: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
