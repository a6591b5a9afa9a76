"""How long a task with many small files takes to its first command, beside `tar -x` of the same files.

    python benchmarks/many_files.py [--files 10500] [--rounds 3] [--dir DIR]

Prints one JSON document. One agent on its own, and each round: `tar -x` of the archive; a task through the API whose
input is there already, from its submission to the first command; `chorus task submit` of the folder, which packs and
uploads it as well. The first command prints the time on its clock, which is the host's. Ratios are medians of the
rounds' own ratios; wanted: a task's at most 6.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WANTED = 6.0
"""Times `tar -x`."""
FILES_A_FOLDER = 14
START_S = 120.0
TASK_S = 600.0
NOW = "date +%s.%N"


def make_files(folder: Path, files: int) -> int:
    """A tree like that of installed packages; how many entries it has."""
    rng = random.Random(1)
    for number in range(files):
        part = number // FILES_A_FOLDER
        place = folder / f"node_modules/package{part // 6}/lib/part{part}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file{number}.js").write_bytes(rng.randbytes(rng.randrange(200, 4000)))
    return sum(len(folders) + len(names) for _, folders, names in os.walk(folder))


class Agent:
    """One agent in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        settings = {"P2P_PORT": "0", "API_PORT": "0", "HEALTH_PORT": "0", "MDNS_ENABLED": "false"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHORUS_")}
        own = {f"CHORUS_{name}": value for name, value in settings.items()}
        self.env = {**kept, **own, "CHORUS_DATA_DIR": str(self.data)}
        with (folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "chorus", "agent"],
                cwd=folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + START_S
        while not (self.data / "ports.json").exists():
            if time.monotonic() > end or self.process.poll() is not None:
                raise SystemExit(
                    f"the agent did not start: {(folder / 'agent.log').read_text(encoding='utf-8')[-2000:]}"
                )
            time.sleep(0.1)
        self.port = int(json.loads((self.data / "ports.json").read_text(encoding="utf-8"))["api"])
        self.token = (self.data / "api-token").read_text(encoding="utf-8").strip()

    def request(self, method: str, path: str, body: bytes, kind: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TASK_S)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                raise SystemExit(f"{method} {path}: {answer.status} {text.decode(errors='replace')[:500]}")
            return json.loads(text)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def extracted(archive: Path, folder: Path) -> float:
    into = folder / "extracted"
    into.mkdir()
    began = time.perf_counter()
    subprocess.run(["tar", "-xf", archive, "-C", into], check=True)
    took = time.perf_counter() - began
    shutil.rmtree(into)
    return took


def through_api(agent: Agent, sha256: str) -> float:
    body = {"commands": [NOW], "input": {"sha256": sha256}}
    began = time.time()
    task = agent.request("POST", "/v1/tasks", json.dumps(body).encode(), "application/json")["id"]
    end = time.monotonic() + TASK_S
    while time.monotonic() < end:
        document = agent.request("GET", f"/v1/tasks/{task}", b"", "application/json")
        if document["state"] in ("completed", "failed", "cancelled"):
            break
        time.sleep(0.2)
    if document["state"] != "completed":
        raise SystemExit(f"the task is {document['state']}: {document['detail']}")
    return _output(agent, document) - began


def _output(agent: Agent, document: Any) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=TASK_S)
    with contextlib.closing(connection):
        path = f"/v1/blobs/{document['output']['stdout']['sha256']}"
        connection.request("GET", path, headers={"Authorization": f"Bearer {agent.token}"})
        return float(connection.getresponse().read())


def by_command(agent: Agent, source: Path) -> float:
    command = [str(Path(sys.executable).with_name("chorus")), "task", "submit", "--watch", str(source), "--", NOW]
    began = time.time()
    done = subprocess.run(command, env=agent.env, capture_output=True, check=True, timeout=TASK_S)
    return float(done.stdout.splitlines()[0]) - began


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Agent]:
    agent = Agent(folder)
    try:
        yield agent
    finally:
        agent.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="where everything is made (default: a temporary directory)")
    options = parser.parse_args()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="chorus-many-files-", dir=options.dir) as name:
        folder, source, archive = Path(name), Path(name) / "source", Path(name) / "source.tar"
        source.mkdir()
        entries = make_files(source, options.files)
        subprocess.run(["tar", "-cf", archive, "-C", source, "."], check=True)
        with running(folder) as agent:
            sha256 = agent.request("PUT", "/v1/blobs", archive.read_bytes(), "application/octet-stream")["sha256"]
            for _ in range(options.rounds):
                plain = extracted(archive, folder)
                api, command = through_api(agent, sha256), by_command(agent, source)
                rounds.append({"tar_s": plain, "api_s": api, "command_s": command})
    ratios = {kind: statistics.median(each[kind] / each["tar_s"] for each in rounds) for kind in ("api_s", "command_s")}
    print(json.dumps({"entries": entries, "wanted": WANTED, "rounds": rounds, "ratios": ratios}, indent=2))


if __name__ == "__main__":
    main()
