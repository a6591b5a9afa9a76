"""Three agents on loopback, one task: the demonstration that the README names (started by scripts/demo)."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from chorus.sandbox.bubblewrap.launch import conceal
from chorus.sandbox.contract import SandboxUnavailable
from chorus.sandbox.docker.engine import DEFAULT_HOST, Engine, EngineError
from chorus.sandbox.docker.spec import LABEL_AGENT, LABEL_BOX
from chorus.sandbox.files.volumes import remove_tree

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "textstats"
EXAMPLE_COMMAND = "python3 -m unittest discover -v && python3 -m textstats README.md | tee /workspace/output/stats.json"
BIN = Path(sys.executable).parent
START_LIMIT_S = 60.0
"""A node that has not answered by then will not; its log says why."""
SHUTDOWN_S = 3
"""Seconds for a node to stop; its task has been cancelled by then."""
CANCEL_LIMIT_S = 5.0
SAFE_LIMIT_S = 30.0
"""A decision that is not at all machines by then is shown as it is."""
USAGE = "scripts/demo [PATH -- COMMAND…]"
RUN_ROOT = Path("/run/chorus-sandbox")
"""Where agents of root mount their sandboxes."""
KEPT = ("CHORUS_SANDBOX", "CHORUS_DOCKER_HOST", "CHORUS_IMAGE_MAP", "CHORUS_LOG_LEVEL")
"""The caller's variables that reach the three nodes; everything else is the demonstration's own."""


def program(name: str, *words: str) -> list[str]:
    """A command of this environment that imports nothing from where it is started."""
    return [sys.executable, "-I", str(BIN / name), *words]


def inherited() -> dict[str, str]:
    """The caller's environment without what would choose other settings, or other code, for a node."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("CHORUS_", "PYTHON")) or name in KEPT
    }


def say(text: str) -> None:
    # Whoever read this may be gone; what was started is stopped nevertheless.
    with contextlib.suppress(OSError):
        print(f"demo: {text}", flush=True)


class Failed(Exception):
    """One line that says what went wrong."""

    status = 1


class WrongUse(Failed):
    """The words after scripts/demo make no sense."""

    status = 2


class Interrupted(BaseException):
    """The first signal that asks the demonstration to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.told = False


class Signals:
    """The first signal raises `Interrupted` where the demonstration is. The next ones kill the nodes: stopping them
    goes on, and is quick then."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._count = 0
        self._waiting: int | None = None
        self._held = False

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: self.arrived(number))

    def arrived(self, number: int) -> None:
        self._count += 1
        if self._count > 1:
            for node in self.nodes:
                node.kill()
        elif self._held:
            self._waiting = number
        else:
            raise Interrupted(number)

    def end(self) -> None:
        """From now on the demonstration is stopping: every signal kills."""
        self._count = max(self._count, 1)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Between the start of a process and knowing it, nothing is raised."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._waiting is not None:
            raise Interrupted(self._waiting)


SIGNALS = Signals()


class Node:
    """One `twistd chorus agent` process with a data directory of its own."""

    def __init__(self, name: str, folder: Path, **settings: str) -> None:
        self.name = name
        self.killed = False
        self.peer_id = ""
        """Known once another one is connected to it."""
        self.folder = folder / name
        self.folder.mkdir(mode=0o700)
        self.log = self.folder / "agent.log"
        self.env = inherited() | {
            "CHORUS_DATA_DIR": str(self.folder / "data"),
            "CHORUS_AGENT_ID": name,
            "CHORUS_P2P_PORT": "0",
            "CHORUS_API_PORT": "0",
            "CHORUS_HEALTH_PORT": "0",
            "CHORUS_MDNS_ENABLED": "false",
            "CHORUS_SHUTDOWN_S": str(SHUTDOWN_S),
            **settings,
        }
        with SIGNALS.held(), self.log.open("wb") as log:
            self.process = subprocess.Popen(
                program("twistd", "--nodaemon", "--pidfile=", "chorus", "agent"),
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            SIGNALS.nodes.append(self)

    def wait_ready(self) -> None:
        """Until its API answers; `Failed` with the last line of its log when it ended instead."""
        deadline = time.monotonic() + START_LIMIT_S
        ports = self.folder / "data" / "ports.json"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended with status {self.process.returncode}: {self.last_line()}")
            if ports.exists():
                health = json.loads(ports.read_text())["health"]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{health}/healthz", timeout=2):
                        return
                except OSError:
                    pass
            time.sleep(0.05)
        raise Failed(f"{self.name} did not answer within {START_LIMIT_S:.0f} s; its last word: {self.last_line()}")

    def last_line(self) -> str:
        return (self.log.read_text(errors="replace").strip().splitlines() or ["(no output)"])[-1]

    def client(self, *words: str, check: bool = True, capture: bool = True, notes: bool = True) -> str:
        """Run the `chorus` command against this node; what it printed. Without `notes` its stderr counts for a failure
        alone."""
        # In a session of its own: Ctrl-C is for the demonstration, which ends it.
        done = subprocess.run(
            program("chorus", *words),
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE if capture else None,
            stderr=None if notes else subprocess.PIPE,
            text=True,
            check=False,
            start_new_session=True,
        )
        if check and done.returncode != 0:
            why = f": {done.stderr.strip()}" if done.stderr else ""
            command = " ".join(word for word in words[:3] if word != "--json")
            raise Failed(f"chorus {command} ended with status {done.returncode}{why}")
        return done.stdout or ""

    def json(self, *words: str) -> object:
        return json.loads(self.client("--json", *words))

    def cancel(self, task_id: str) -> None:
        """Ask for it, and no more: the node may be ending already."""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                program("chorus", "task", "cancel", task_id),
                cwd=self.folder,
                env=self.env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=CANCEL_LIMIT_S,
                check=False,
                start_new_session=True,
            )

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.process.returncode is None:
            self.killed = True
            self.process.kill()

    def stopped(self) -> None:
        try:
            self.process.wait(SHUTDOWN_S + 7)
        except subprocess.TimeoutExpired:
            say(f"{self.name} did not stop in time and was killed")
            self.kill()
            self.process.wait()

    def sweep(self) -> None:
        """Removes the leftovers of a killed agent: mounts of its bubblewrap sandboxes, and its containers."""
        for place in RUN_ROOT.glob(f"chorus-*-{self.process.pid}-*"):
            conceal(place)
        host = engine_host()
        if host is None or Engine(host).missing() is not None:
            return
        with contextlib.suppress(EngineError, SandboxUnavailable):
            engine = Engine(host)
            for found in engine.labelled(LABEL_AGENT, self.peer_id):
                if found.get("Labels", {}).get(LABEL_BOX, "").startswith(f"{self.folder}/"):
                    engine.remove(found["Id"])


def arguments(words: list[str]) -> tuple[Path, list[str]]:
    """(directory, command): `PATH -- COMMAND…`, or the shipped example."""
    if not words:
        return EXAMPLE, ["/bin/sh", "-c", EXAMPLE_COMMAND]
    if words[0] == "--":
        raise WrongUse(f"the directory is missing before the --; usage: {USAGE}")
    # An unset variable of a script must not mean the current directory.
    if not words[0]:
        raise WrongUse(f"the directory is empty; the current one is written . ; usage: {USAGE}")
    path = Path(words[0]).resolve()
    if not path.is_dir():
        raise WrongUse(f"{path} is not a directory; usage: {USAGE}")
    if words[1:] and "--" not in words:
        raise WrongUse(f"-- is missing before the command: scripts/demo {shlex.join([words[0], '--', *words[1:]])}")
    if len(words) < 3 or words[1] != "--":
        raise WrongUse(f"usage: {USAGE}")
    command = words[2:]
    # One word is a shell line ("make test && make lint"), several are one command's words.
    return path, ["/bin/sh", "-c", command[0]] if len(command) == 1 else command


def known_peers(node: Node) -> int:
    """Peers that the node is connected to and that have said who they are."""
    answer = node.json("peers")
    assert isinstance(answer, dict)
    known = {peer["agent_id"]: peer["peer_id"] for peer in answer["peers"] if peer["agent_id"] and peer["role"]}
    for other in SIGNALS.nodes:
        other.peer_id = known.get(other.name, other.peer_id)
    return len(known)


def mesh(folder: Path) -> list[Node]:
    """Three agents that have found and admitted each other; node-1 founds the cluster, the others join it."""
    nodes = [Node("node-1", folder, CHORUS_AGENT_ROLE="reviewer")]
    nodes[0].wait_ready()
    check_sandbox(nodes[0])
    # That no other machine can join is as it should be here.
    token = nodes[0].client("token", "--raw", notes=False).strip()
    say(f"node-1 founded a cluster (process {nodes[0].process.pid})")
    for name in ("node-2", "node-3"):
        nodes.append(Node(name, folder, CHORUS_AGENT_ROLE="developer", CHORUS_JOIN=token))
    for node in nodes[1:]:
        node.wait_ready()
        say(f"{node.name} joins with node-1's token (process {node.process.pid})")
    deadline = time.monotonic() + START_LIMIT_S
    while (counts := [known_peers(node) for node in nodes]) != [2, 2, 2]:
        if time.monotonic() > deadline:
            raise Failed(f"the three did not all find each other (peers: {counts})")
        time.sleep(0.2)
    say("all three found and authenticated each other:")
    nodes[0].client("peers", capture=False)
    return nodes


def stop(nodes: list[Node]) -> None:
    for node in nodes:
        node.stop()
    for node in nodes:
        node.stopped()
    for node in nodes:
        if node.killed:
            node.sweep()


def engine_host() -> str | None:
    """The container engine that the nodes use; None where they use none."""
    if os.environ.get("CHORUS_SANDBOX") == "bubblewrap":
        return None
    return os.environ.get("CHORUS_DOCKER_HOST") or os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def check_engine() -> None:
    """Where nothing but an engine will do, say before anything starts that there is none."""
    if os.environ.get("CHORUS_SANDBOX") == "docker":
        problem = Engine(engine_host()).missing()
        if problem is not None:
            raise Failed(f"CHORUS_SANDBOX=docker: {problem}; or unset it to use bubblewrap")


def check_sandbox(node: Node) -> None:
    """Without a sandbox the task would wait for ever: say now what is missing."""
    status = node.json("status")
    assert isinstance(status, dict)
    if not status["sandbox"]["usable"]:
        raise Failed(f"nothing on this machine can run a task safely: {status['sandbox']['detail']}")


def run_task(nodes: list[Node], path: Path, command: list[str], results: Path) -> int:
    """Submit through node-1, watch it live, and say what came of it. Returns the command's exit status."""
    say(f"submitting {path} through node-1: {' '.join(command)}")
    # Of the shipped example everything may go; in another user's checkout git would not say what it ignores.
    everything = ["--all-files"] if path == EXAMPLE else []
    submitted = nodes[0].json(
        "task", "submit", str(path), *everything, "--title", path.name, "--require-role", "developer",
        "--artifact", "**", "--", *command,
    )  # fmt: skip
    assert isinstance(submitted, dict)
    task_id = str(submitted["id"])
    try:
        # Its summary would say how to fetch what is gone with the agents.
        nodes[0].client("task", "watch", task_id, "--no-summary", check=False, capture=False)
    except Interrupted as interrupted:
        say("stopping, with the task cancelled; another interrupt kills the agents")
        interrupted.told = True
        nodes[0].cancel(task_id)
        raise
    task = nodes[0].json("task", "show", task_id)
    assert isinstance(task, dict)
    runner = next((n.name for n in nodes if n.name == task.get("agent_id")), task.get("agent_id"))
    say(f"state      {task['state']} ({task['reason']})" + (f": {task['detail']}" if task.get("detail") else ""))
    say(f"exit code  {task['exit_code']}")
    say(f"ran on     {runner} (peer {task['agent']}), submitted through node-1")
    image = f", image {task['image']}" if task.get("image") else ""
    say(f"sandbox    {task['sandbox']}{image}")
    for caveat in task.get("caveats") or []:
        say(f"           not held by this sandbox: {caveat}")
    for artifact in task.get("artifacts") or []:
        say(f"artifact   {artifact['path']} ({artifact['size']} bytes)")
    if task.get("artifacts") or task.get("entries"):
        # Where something is missing it says so, and fetches the rest.
        missing = bool(task.get("artifacts_skipped_total"))
        nodes[0].client("task", "fetch", task_id, "--output", str(results), check=not missing)
        say(f"fetched    {results}")
    show_decision(nodes, task_id, str(runner))
    exit_code = task["exit_code"]
    return exit_code if isinstance(exit_code, int) else 1


def show_decision(nodes: list[Node], task_id: str, runner: str) -> None:
    """The signed record of the task, read back where the task neither was submitted nor ran."""
    reader = next(node for node in nodes[1:] if node.name != runner)
    deadline = time.monotonic() + SAFE_LIMIT_S
    while True:
        task = nodes[0].json("task", "show", task_id)
        decision = task["decision"] if isinstance(task, dict) else None
        if decision is None or decision["state"] == "safe" or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if decision is None:
        say("decision   none: its agent has no role to write under yet")
        return
    say(f"decision   {decision['address']}")
    say(f"           {decision['state']}: encrypted at {decision['holders']} of {decision['wanted']} machines")
    say(f"{reader.name} reads it, verified by hash and signature:")
    reader.client("ucxl", "get", decision["address"], capture=False)
    say("its history:")
    reader.client("ucxl", "history", decision["address"], capture=False)


def main(words: list[str]) -> int:
    path, command = arguments(words)
    check_engine()
    begun = time.monotonic()
    folders: list[Path] = []
    SIGNALS.install()
    try:
        with SIGNALS.held():
            folders += [Path(tempfile.mkdtemp(prefix=f"chorus-demo-{what}")) for what in ("", "results-")]
        results = folders[1] / "artifacts"
        say("starting three agents on loopback")
        exit_code = run_task(mesh(folders[0]), path, command, results)
        if results.exists():
            folders.pop()
        return exit_code
    except Interrupted as interrupted:
        if not interrupted.told:
            say("stopping; another interrupt kills the agents")
        return 128 + interrupted.number
    finally:
        SIGNALS.end()
        stop(SIGNALS.nodes)
        for folder in folders:
            remove_tree(folder)
        if SIGNALS.nodes:
            say(f"stopped {len(SIGNALS.nodes)} agents ({time.monotonic() - begun:.0f} s in all)")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        sys.exit(failure.status)
