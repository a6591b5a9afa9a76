"""The `chorus` command as a process on a pty, and in locales that are not UTF-8."""

from __future__ import annotations

import hashlib
import json
import os
import sys

from twisted.internet import reactor

from tests.client.terminal import Screen
from tests.client.test_command import CommandCase, Run

ODD = "日本 \x9b2J\u202e e\u0301"
LOCALES: tuple[dict[str, str], ...] = (
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"},
)


class OnAPty(CommandCase):
    timeout = 120

    def on_pty(self, *words: str, **env: str) -> Run:
        run = Run()
        command = [sys.executable, "-m", "chorus.client.main", *words]
        full = {**self.env, "TERM": "xterm", **env}
        process = reactor.spawnProcess(run, sys.executable, command, full, str(self.data), usePTY=True)
        self.addCleanup(lambda: process.signalProcess("KILL") if process.pid else None)
        return run

    async def test_output_is_seen_before_its_line_ends(self) -> None:
        task_id = self.tasks.make()
        run = self.on_pty("task", "watch", task_id)
        for number in range(3):
            self.tasks.add(task_id, "output", {"stream": "stderr", "offset": number, "text": f"{number}#"})
            # The next one is not written before this one was seen.
            await run.until(f"{number}#".encode())
        self.tasks.add(task_id, "output", {"stream": "stdout", "offset": 0, "text": "\r10%\r20%\ndone\n"})
        self.tasks.end(task_id, "completed", "exit")
        await run.ended
        self.assertEqual(run.status, 0)
        screen = Screen()
        screen.take(run.out)
        self.assertEqual(screen.rows()[1:3], ["20%", "done"])

    async def test_interrupted_by_its_key(self) -> None:
        task_id = self.tasks.make()
        run = self.on_pty("task", "watch", task_id)
        self.tasks.add(task_id, "output", {"stream": "stdout", "offset": 0, "text": "unfinished"})
        await run.until(b"unfinished")
        run.transport.write(b"\x03")
        await run.ended
        self.assertEqual(run.status, 130)
        self.assertIn("\nchorus: the task goes on: ", run.out.replace("\r\n", "\n"))

    async def test_documents_and_tables(self) -> None:
        task_id = self.tasks.make(title=ODD)
        for words in (("task", "list"), ("task", "show", task_id), ("task", "show", task_id, "--json")):
            run = self.on_pty(*words)
            await run.ended
            self.assertEqual(run.status, 0, run.out)
            self.assertEqual({char for char in run.out if char in ODD} & {"\x9b", "\u202e"}, set())
            self.assertIn("日本", run.out)
        self.assertEqual(json.loads(run.out)["title"], ODD)


class ReadInPart(CommandCase):
    timeout = 120

    async def test_whoever_has_enough_of_it_may_go(self) -> None:
        task_id = self.tasks.make(title="x" * 100)
        for number in range(40):
            self.tasks.add(task_id, "output", {"stream": "stdout", "offset": 0, "text": f"{number} " + "y" * 9000})
        self.tasks.end(task_id, "completed", "exit")
        for words in (
            f"task watch {task_id}",
            f"task watch {task_id} 2>&1",
            f"task watch {task_id} --json",
            "task list",
        ):
            run = Run()
            line = f"set -o pipefail; {sys.executable} -m chorus.client.main {words} | head -c 1"
            reactor.spawnProcess(run, "bash", ["bash", "-c", line], self.env, str(self.data))
            await run.ended
            self.assertEqual((run.status, len(run.out), "Traceback" in run.err), (0, 1, False), words + run.err)


class InOtherLocales(CommandCase):
    timeout = 120

    async def test_what_is_printed(self) -> None:
        task_id = self.tasks.make(title=ODD, commands=["x" * 100])
        self.tasks.end(task_id, "completed", "exit", detail=ODD)
        for env in LOCALES:
            run = await self.start("task", "list", **env).ended
            shown = "日本" if "PYTHONIOENCODING" not in env else "??"
            self.assertEqual((run.status, run.err, shown in run.out), (0, "", True), env)
            document = (await self.good("task", "show", task_id, "--json", **env)).json
            self.assertEqual(document["title"], ODD, env)
        await self.good("task", "watch", task_id, **LOCALES[0])
        self.assertIn("'?' is no", await self.bad(2, "messages", "日", **LOCALES[0]))

    async def test_what_is_sent_is_utf_8(self) -> None:
        (self.project / "é日.txt").write_text("x", encoding="utf-8")
        for env in LOCALES:
            run = await self.good("task", "submit", str(self.project), "--title", "日", "--json", "--", "echo é", **env)
            self.assertEqual((run.json["title"], run.json["spec"]["commands"]), ("日", ["echo é"]), env)
        self.assertEqual(len(self.blobs.blobs), 1, "the same archive from each of them")

    async def test_files_that_are_fetched_have_their_names(self) -> None:
        name = hashlib.sha256(b"content").hexdigest()
        self.blobs.blobs[name] = b"content"
        task_id = self.tasks.make()
        self.tasks.end(task_id, "completed", "exit", artifacts=[{"path": "日.txt", "sha256": name, "size": 7}])
        for env in LOCALES[1:]:
            await self.good("task", "fetch", task_id, "--force", **env)
            self.assertEqual(os.listdir(os.fsencode(self.data / f"chorus-{task_id}")), ["日.txt".encode()])
