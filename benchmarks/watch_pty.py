"""How long after a task wrote a character it is seen on the terminal of whoever watches it.

    python benchmarks/watch_pty.py [--count 100]

Two nodes on loopback: the one that is asked runs no tasks itself. The task (a shell in a sandbox) notes the time and
writes one character, again and again, no line ends; the terminal is a pty of this process. Prints one JSON document.
The clock is the same one, so what is measured is the whole way: pipe, executor, stream, journal of the scheduler, event
stream, client. The pauses differ, so that nothing falls into step with a timer of the nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
MARK = b"#"
WANTED_S = 0.5
"""At the 95th percentile."""
COMMAND = (
    'n=0; while [ $n -lt {count} ]; do n=$((n+1)); date +%s.%N >> "$CHORUS_OUTPUT/times"; printf "#"; '
    "sleep 0.2$((n * 7 % 10)); done"
)


def environment(folder: Path, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("CHORUS_")}
    ports = {f"CHORUS_{name}_PORT": "0" for name in ("P2P", "API", "HEALTH")}
    return {**own, **ports, "CHORUS_DATA_DIR": str(folder), "CHORUS_MDNS_ENABLED": "false", "TERM": "xterm", **more}


@contextmanager
def node(mode: str, env: dict[str, str]) -> Iterator[None]:
    """One that listens."""
    data = Path(env["CHORUS_DATA_DIR"])
    command = [str(BIN / "twistd"), "-n", "--pidfile=", "chorus", mode]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, cwd=data.parent)
    try:
        until = time.monotonic() + 60
        while not (data / "ports.json").exists():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("a node did not start")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def chorus(env: dict[str, str], *words: str) -> str:
    return subprocess.run(
        [str(BIN / "chorus"), *words], env=env, stdout=subprocess.PIPE, encoding="utf-8", check=True
    ).stdout


def watched(env: dict[str, str], folder: Path, count: int) -> tuple[list[float], list[float]]:
    """When each character was written, and when it was seen."""
    master, slave = os.openpty()
    (folder / "in").mkdir()
    (folder / "in" / "file").touch()
    words = ["task", "submit", "--watch", str(folder / "in"), "--", COMMAND.format(count=count)]
    process = subprocess.Popen([str(BIN / "chorus"), *words], env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen: list[float] = []
    try:
        while data := os.read(master, 4096):
            seen += [time.time()] * data.count(MARK)
    except OSError:
        # The other end is closed.
        pass
    if process.wait() != 0:
        raise SystemExit("the task failed")
    task = json.loads(chorus(env, "--json", "task", "list"))["tasks"][0]["id"]
    chorus(env, "task", "fetch", task, "--output", str(folder / "out"))
    return [float(line) for line in (folder / "out" / "times").read_text("utf-8").split()], seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="characters")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as name, ExitStack() as nodes:
        folder = Path(name)
        asked = environment(folder / "asked")
        nodes.enter_context(node("hap", asked))
        token = chorus(asked, "token", "--raw").strip()
        nodes.enter_context(node("agent", environment(folder / "runs", CHORUS_JOIN=token)))
        written, seen = watched(asked, folder, count)
    if len(written) != len(seen):
        raise SystemExit(f"{len(written)} were written, {len(seen)} seen")
    late = sorted(after - before for before, after in zip(written, seen, strict=True))
    p95 = late[min(len(late) - 1, round(0.95 * len(late)))]
    figures = {"p50_ms": statistics.median(late), "p95_ms": p95, "max_ms": late[-1]}
    document = {name: round(1000 * value, 1) for name, value in figures.items()}
    print(json.dumps({"characters": count, **document, "wanted_p95_ms": 1000 * WANTED_S, "ok": p95 <= WANTED_S}))


if __name__ == "__main__":
    main()
