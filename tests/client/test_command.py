"""The `chorus` command as a process, against the real API on a real socket."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol

from chorus.client.api import NodeApi
from chorus.client.errors import ClientError, NoNode
from chorus.identity import Identity
from chorus.messages import PAYLOADS
from chorus.messages.schema import envelope_schema, payload_schema
from chorus.multiformats.multiaddr import Multiaddr
from chorus.security.membership import Wishes
from chorus.services.cluster import ClusterService
from chorus.services.endpoints.health import HealthService
from chorus.services.listening import ListenAddress
from tests.http.wire import TOKEN, ApiCase
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[2]
ALL = PAYLOADS.items()


class Run(ProcessProtocol):
    def __init__(self) -> None:
        self.parts = {1: b"", 2: b""}
        self.ended: Deferred[Run] = Deferred()
        self.status = -1
        self._waiting: list[tuple[bytes, Deferred[None]]] = []

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.parts[childFD] += data
        for item in list(self._waiting):
            if item[0] in self.parts[1] + self.parts[2]:
                self._waiting.remove(item)
                item[1].callback(None)

    def processEnded(self, reason: Any) -> None:
        self.status = reason.value.exitCode if reason.value.exitCode is not None else -1
        self.ended.callback(self)

    def until(self, text: bytes) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        self._waiting.append((text, deferred))
        self.childDataReceived(1, b"")
        return deferred

    @property
    def out(self) -> str:
        return self.parts[1].decode()

    @property
    def err(self) -> str:
        return self.parts[2].decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class CommandCase(ApiCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = Path(self.mktemp()).absolute()
        self.data.mkdir(parents=True)
        self.announce_port()
        (self.data / "api-token").write_text(TOKEN + "\n")
        (self.data / "api-token").chmod(0o600)
        self.env = {"CHORUS_DATA_DIR": str(self.data), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/"}
        # Outside of any work tree: whose that is, is the packer's concern, not that of these tests.
        self.outside = Path(tempfile.mkdtemp(prefix="chorus-command-"))
        self.addCleanup(shutil.rmtree, self.outside)
        self.project = self.outside / "project"
        (self.project / "src").mkdir(parents=True)
        (self.project / "src/a.py").write_text("print('a')\n")

    def announce_port(self) -> None:
        (self.data / "ports.json").write_text(json.dumps({"api_host": "0.0.0.0", "api": self.service.port}))

    def start(self, *words: str, stdin: bytes = b"", **env: str) -> Run:
        run = Run()
        command = [sys.executable, "-m", "chorus.client.main", *words]
        process = reactor.spawnProcess(run, sys.executable, command, {**self.env, **env}, str(self.data))
        process.write(stdin)
        process.closeStdin()
        self.addCleanup(lambda: process.signalProcess("KILL") if process.pid else None)
        return run

    async def chorus(self, *words: str, **more: Any) -> Run:
        return await self.start(*words, **more).ended

    async def good(self, *words: str, **more: Any) -> Run:
        run = await self.chorus(*words, **more)
        self.assertEqual(run.status, 0, run.err)
        return run

    async def bad(self, status: int, *words: str, **more: Any) -> str:
        """The one line of a failure."""
        run = await self.chorus(*words, **more)
        self.assertEqual((run.status, run.out, run.err.count("\n")), (status, "", 1), run.err + run.out)
        self.assertTrue(run.err.startswith("chorus: "))
        return run.err


class Submitting(CommandCase):
    async def test_a_directory_and_a_command(self) -> None:
        run = await self.good(
            *("task", "submit", str(self.project), "--title", "T", "--env", "A=b=c", "--artifact", "**"),
            *("--require-role", "developer", "--require-expertise", "python", "--timeout", "60", "--image", "img:1"),
            *("--language", "python", "--priority", "9", "--", "make", "--json", "test"),
        )
        task = self.tasks.tasks[run.out.strip()]
        spec: Any = task["spec"]
        self.assertEqual(spec["commands"], [["make", "--json", "test"]])
        self.assertEqual((spec["title"], spec["env"], spec["artifacts"]), ("T", {"A": "b=c"}, ["**"]))
        self.assertEqual(spec["required"], {"role": "developer", "expertise": ["python"], "capabilities": []})
        self.assertEqual((spec["limits"]["timeout_s"], spec["image"], spec["priority"]), (60.0, "img:1", 9))
        with tarfile.open(fileobj=io.BytesIO(self.blobs.blobs[spec["input"]["sha256"]])) as tar:
            self.assertEqual(tar.getnames(), ["src", "src/a.py"])

    async def test_one_word_is_a_shell_line(self) -> None:
        run = await self.good("task", "submit", str(self.project), "--json", "--", "make a && make b")
        self.assertEqual(run.json["spec"]["commands"], ["make a && make b"])
        self.assertEqual(run.json["title"], "project")

    async def test_a_specification_from_stdin(self) -> None:
        spec = json.dumps({"commands": ["true"], "title": "from the file", "priority": 1}).encode()
        run = await self.good("task", "submit", "--spec", "-", "--priority", "2", "--json", stdin=spec)
        self.assertEqual((run.json["title"], run.json["spec"]["priority"]), ("from the file", 2))

    async def test_an_archive_is_sent_as_it_is(self) -> None:
        with tarfile.open(self.data / "x.tar", "w:gz") as tar:
            tar.add(self.project, "p")
        sent = (self.data / "x.tar").read_bytes()
        run = await self.good("task", "submit", str(self.data / "x.tar"), "--json", "--", "true")
        self.assertEqual(self.blobs.blobs[run.json["spec"]["input"]["sha256"]], sent)

    async def test_a_zip_archive_is_sent_as_it_is(self) -> None:
        with zipfile.ZipFile(self.data / "x.zip", "w") as archive:
            archive.write(self.project / "src/a.py", "a.py")
        sent = (self.data / "x.zip").read_bytes()
        run = await self.good("task", "submit", str(self.data / "x.zip"), "--json", "--", "true")
        self.assertEqual(self.blobs.blobs[run.json["spec"]["input"]["sha256"]], sent)
        self.assertEqual(run.json["title"], "x.zip")

    async def packed(self, *options: str) -> list[str]:
        run = await self.good("task", "submit", str(self.project), *options, "--json", "--", "true")
        with tarfile.open(fileobj=io.BytesIO(self.blobs.blobs[run.json["spec"]["input"]["sha256"]])) as tar:
            return [name for name in tar.getnames() if tar.getmember(name).isfile()]

    def make_work_tree(self) -> None:
        subprocess.run(["git", "-C", str(self.project), "init", "-q", "--template="], check=True)

    async def test_what_of_a_work_tree_is_packed(self) -> None:
        (self.project / ".gitignore").write_text("vendor/\n.env\n")
        for name in (".env", "vendor/.env", "vendor/lib.py"):
            (self.project / name).parent.mkdir(exist_ok=True)
            (self.project / name).write_text("x")
        self.make_work_tree()
        own, vendor = [".gitignore", "src/a.py"], ["vendor/.env", "vendor/lib.py"]
        self.assertEqual(await self.packed(), own)
        self.assertEqual(await self.packed("--include", "vendor"), [*own, *vendor])
        self.assertEqual(
            await self.packed("--include", "vendor/lib.py", "--include", ".env"), [".env", *own, vendor[1]]
        )
        self.assertEqual(await self.packed("--all-files"), [".env", *own, *vendor])
        self.assertIn(".git/HEAD", await self.packed("--with-git"))
        (self.project / ".git/HEAD").unlink()
        sent = len(self.blobs.blobs)
        self.assertIn("--all-files", await self.bad(2, "task", "submit", str(self.project), "--", "true"))
        self.assertEqual(len(self.blobs.blobs), sent, "nothing was sent")

    async def test_a_shell(self) -> None:
        run = await self.good("task", "submit", "--shell", "bash", "--json", "--", "a | b")
        self.assertEqual((run.json["spec"]["shell"], run.json["spec"]["commands"]), ("bash", ["a | b"]))
        self.assertIn("shell    bash\n", (await self.good("task", "show", run.json["id"])).out)
        text = await self.bad(2, "task", "submit", "--shell", "fish", "--", "x")
        self.assertEqual(text, "chorus: --shell: 'fish' is not one of sh, bash, dash, zsh\n")

    async def test_a_folder_of_any_name(self) -> None:
        folder = os.fsencode(self.outside) + b"/two\nlines\t\xe9"
        os.mkdir(folder)
        (Path(os.fsdecode(folder)) / "x").write_text("x")
        run = await self.good("task", "submit", os.fsdecode(folder), "--json", "--", "ls")
        self.assertEqual(run.json["title"], "two lines \ufffd")

    async def test_a_file_that_is_no_archive(self) -> None:
        text = await self.bad(2, "task", "submit", str(self.project / "src/a.py"), "--", "true")
        self.assertIn("a.py is not a tar archive", text)
        self.assertEqual(self.blobs.blobs, {})

    async def test_a_command_without_its_dashes(self) -> None:
        for words, meant in (
            (("--title", "src", "src", "src", "x", "a b"), "--title src src -- src x 'a b'"),
            (("--watch", ".", "python3", "t.py", "--json"), "--watch . -- python3 t.py --json"),
        ):
            run = await self.chorus("task", "submit", *words)
            self.assertEqual((run.status, self.tasks.tasks), (2, {}))
            self.assertIn(f"a command comes after --: chorus task submit {meant}\n", run.err)
        for words in (("--titel", "T"), ("--titel", "T", "--", "x"), ("y", "--", "x")):
            run = await self.chorus("task", "submit", ".", *words)
            self.assertEqual(run.status, 2)
            self.assertIn("unrecognized arguments: " + words[0], run.err)
            self.assertTrue(run.err.startswith("usage: chorus task submit "), run.err)
        run = await self.chorus("peers", "--", "true")
        self.assertEqual(run.status, 2)
        self.assertTrue(run.err.startswith("usage: chorus peers "), run.err)

    async def test_watch(self) -> None:
        run = self.start("task", "submit", str(self.project), "--watch", "--", "true")
        await run.until(b"submitted")
        (task_id,) = self.tasks.tasks
        self.tasks.add(task_id, "output", {"stream": "stdout", "offset": 0, "text": "hello\n"})
        await run.until(b"hello")
        self.tasks.end(task_id, "completed", "exit", exit_code=0)
        await run.ended
        self.assertEqual((run.status, run.out), (0, "hello\n"))
        self.assertIn(f"chorus: {task_id} completed (exit 0)", run.err)

    async def test_what_the_node_refuses(self) -> None:
        text = await self.bad(2, "task", "submit", str(self.project), "--priority", "77", "--", "true")
        self.assertIn("priority: is 77, must be from 0 to 9", text)
        for option, value, said in (
            ("--timeout", "-1", "is -1"),
            ("--memory", "999999999", "is 999999999"),
            ("--cpu", "0", "is 0"),
            ("--require-expertise", "two words", "'two words' is not a word"),
            ("--artifact", "/abs", "must be relative"),
            ("--env", "1=2", ""),
            ("--language", "a b", ""),
        ):
            text = await self.bad(2, "task", "submit", option, value, "--", "true")
            self.assertTrue(text.startswith(f"chorus: {option}: {said}"), text)
        run = await self.chorus("task", "submit", "--cpu", "nan", "--", "true")
        self.assertIn("argument --cpu: invalid number value: 'nan'", run.err)
        body = b'{"limits": {"timeout_s": -1}, "commands": ["x"]}'
        text = await self.bad(2, "task", "submit", "--spec", "-", stdin=body)
        self.assertTrue(text.startswith("chorus: limits.timeout_s: "), text)
        text = await self.bad(2, "task", "submit", "--spec", "-", stdin=b'{"comands": ["x"], "commands": ["x"]}')
        self.assertIn("did you mean commands?", text)
        text = await self.bad(2, "task", "submit", "--spec", "-", stdin=b'{"title": "x", "comands": ["x"]}')
        self.assertIn("did you mean commands?", text)
        self.assertIn("commands", await self.bad(2, "task", "submit", "--spec", "-", stdin=b'{"title": "x"}'))

    async def test_wrong_use(self) -> None:
        for words, said in (
            (("task", "submit", str(self.project)), "say what to run"),
            (("task", "submit", "", "--", "ls"), "PATH is empty"),
            (("task", "submit", "--spec", "", "--", "ls"), "--spec is empty"),
            (("task", "submit", str(self.data / "none"), "--", "x"), "is not a directory"),
            (("task", "submit", "make test"), "a command comes after --"),
            (("task", "submit", "--spec", "none.json"), "cannot read none.json"),
            (("task", "submit", "--env", "A", "--", "x"), "write NAME=VALUE"),
            (("task", "show", "../../etc"), "is not a task id"),
            (("task", "show", "0" * 26), "no task has this id"),
            (("task", "list", "--limit", "0"), "--limit"),
        ):
            self.assertIn(said, await self.bad(2, *words))
        self.assertEqual((self.tasks.tasks, self.blobs.blobs), ({}, {}), "nothing was sent")

    async def test_an_input_over_the_limit(self) -> None:
        with (self.project / "big").open("wb") as file:
            file.truncate(5 * 1024 * 1024)
        self.assertIn(
            "larger than the node takes: the body is over 4194304 bytes",
            await self.bad(2, "task", "submit", str(self.project), "--", "x"),
        )

    async def test_an_empty_directory(self) -> None:
        (self.outside / "empty").mkdir()
        self.assertIn("holds no files", await self.bad(2, "task", "submit", str(self.outside / "empty"), "--", "x"))


class Looking(CommandCase):
    async def test_list(self) -> None:
        self.assertEqual((await self.good("task", "list")).out, "no tasks\n")
        made = [self.tasks.make(title=f"t{n}") for n in range(3)]
        self.tasks.end(made[0], "failed", "timeout")
        lines = (await self.good("task", "list")).out.splitlines()
        self.assertEqual(lines[0].split(), ["id", "state", "reason", "agent", "created", "title"])
        self.assertTrue(any(line.startswith(f"{made[0]}  failed     timeout") for line in lines))
        found = (await self.good("task", "list", "--state", "failed", "--json")).json
        self.assertEqual([task["id"] for task in found["tasks"]], [made[0]])
        found = (await self.good("--json", "task", "list", "--limit", "2")).json
        self.assertEqual((len(found["tasks"]), found["next"]), (2, sorted(made)[1]))

    async def test_a_task_without_a_title_is_listed_by_its_command(self) -> None:
        self.tasks.make(commands=[["python3", "-c", "print(1)"], "true"])
        self.tasks.make(commands=["x" * 100])
        out = (await self.good("task", "list")).out
        self.assertIn("  python3 -c 'print(1)'\n", out)
        self.assertIn(f"  {'x' * 79}…\n", out)

    async def test_more_than_a_page(self) -> None:
        for _ in range(203):
            self.tasks.make()
        self.assertEqual(len((await self.good("task", "list", "--limit", "500", "--json")).json["tasks"]), 203)

    async def test_show_and_cancel(self) -> None:
        task_id = self.tasks.make(
            title="the title",
            commands=["make a\nmake b", ["echo", "a b"]],
            limits={"timeout_s": 60},
            required={"role": "developer", "expertise": ["python", "c"]},
        )
        out = (await self.good("task", "show", task_id)).out
        self.assertIn("the title", out)
        self.assertIn("command   make a\n          make b\n          echo 'a b'\n", out)
        self.assertIn("limits    time 60 s, cores 1, memory 1024 MB, ", out)
        self.assertIn("required  role developer, expertise python c\n", out)
        self.assertNotIn("required", (await self.good("task", "show", self.tasks.make())).out)
        self.assertEqual((await self.good("task", "show", task_id.upper(), "--json")).json["id"], task_id)
        self.assertEqual((await self.good("task", "cancel", task_id, "--reason", "a b")).out, f"{task_id} cancelled\n")
        self.assertEqual(self.tasks.cancels, [(task_id, "api", "a b")])

    async def test_cancel_several(self) -> None:
        made = [self.tasks.make() for _ in range(2)]
        run = await self.chorus("task", "cancel", made[0], "0" * 26, made[1])
        self.assertEqual((run.status, run.out), (2, f"{made[0]} cancelled\n{made[1]} cancelled\n"))
        self.assertIn(f"chorus: {'0' * 26}: no task has this id", run.err)
        self.assertEqual(
            [row["id"] for row in (await self.good("task", "cancel", "--json", *made)).json["tasks"]], made
        )
        self.assertEqual((await self.good("task", "cancel", "--json", made[0])).json["id"], made[0])

    async def test_the_beginning_of_an_id(self) -> None:
        first, second = self.tasks.make(), self.tasks.make()
        common = next(at for at, pair in enumerate(zip(first, second, strict=True)) if len(set(pair)) == 2)
        self.assertEqual((await self.good("task", "show", first[: common + 1].upper(), "--json")).json["id"], first)
        self.assertIn(f"2 tasks begin with {first[:4]}: ", await self.bad(2, "task", "cancel", first[:4]))
        self.assertEqual(self.tasks.cancels, [])
        self.assertIn("no task begins with 0000", await self.bad(2, "task", "show", "0000"))
        for text in (first[:3], first + "0", "u000", "list"):
            self.assertIn("is not a task id", await self.bad(2, "task", "show", text))

    async def test_the_beginning_of_the_id_that_a_task_depends_on(self) -> None:
        first, second = self.tasks.make(), self.tasks.make()
        common = next(at for at, pair in enumerate(zip(first, second, strict=True)) if len(set(pair)) == 2)
        words = ("task", "submit", "--json", "--depends-on", second, "--depends-on", first[: common + 1], "--", "true")
        self.assertEqual((await self.good(*words)).json["depends_on"], [second, first])
        text = await self.bad(2, "task", "submit", str(self.project), "--depends-on", "0000", "--", "true")
        self.assertIn("no task begins with 0000", text)
        self.assertEqual(self.blobs.blobs, {}, "nothing was sent")

    async def test_times_say_their_zone(self) -> None:
        self.tasks.make()
        for zone, shown in (("UTC", r"\+00:00"), ("XYZ-5:30", r"\+05:30")):
            self.assertRegex((await self.good("task", "list", TZ=zone)).out, r"\d\d:\d\d:\d\d" + shown)

    async def test_status(self) -> None:
        status = self.node.status()
        status["addresses"] = ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"]
        status["tasks"] = {"running_here": 0, "maximum_here": 4, "unfinished": 7}
        status["sandbox"] = {
            **{"usable": True, "mode": "auto", "active": 0, "detail": "bubblewrap", "images": ["a:1", "b:2"]},
            **{"backends": {"docker": "no engine", "bubblewrap": None}, "warm": {"a:1": 2, "b:2": 0}},
        }
        self.patch(self.node, "status", lambda: status)
        self.assertEqual(
            (await self.good("status")).out.split("up ")[1].splitlines()[1:],
            [
                "addresses  /ip4/127.0.0.1/tcp/1",
                "           /ip4/10.0.0.1/tcp/1",
                "peers      1",
                "tasks      0 of at most 4 running here, 7 unfinished in all",
                "sandbox    bubblewrap",
                "           not docker: no engine",
                "images     a:1 b:2",
                "warm       2 of a:1",
            ],
        )
        status["sandbox"] = {"usable": False, "detail": "open mode runs no tasks"}
        out = (await self.good("status")).out
        self.assertTrue(out.endswith("sandbox    none is usable\n           open mode runs no tasks\n"), out)

    async def test_peers_and_status(self) -> None:
        out = (await self.good("peers")).out
        self.assertIn("node-2  developer  ready  0.4 ms   1.5    outbound   /ip4/127.0.0.1/tcp/9001", out)
        self.assertEqual((await self.good("peers", "--json")).json, {"peers": self.node.peers()})
        self.assertIn("sandbox    usable", (await self.good("status")).out)
        self.assertEqual((await self.good("status", "--json")).json, self.node.status())

    async def test_a_node_that_has_not_joined_says_so(self) -> None:
        status = self.node.status() | {"peers": 0, "alone": "this node has not joined: \x1b]0;refused"}
        self.patch(self.node, "status", lambda: status)
        self.assertIn("peers      0: this node has not joined: \\x1b]0;refused\n", (await self.good("status")).out)
        self.patch(self.node, "peers", list)
        self.assertEqual((await self.good("peers")).out, "no peers: this node has not joined: \\x1b]0;refused\n")
        status["alone"] = None
        self.assertEqual((await self.good("peers")).out, "no peers\n")

    async def test_openapi(self) -> None:
        self.assertEqual((await self.good("openapi")).json["openapi"], "3.1.0")

    async def test_version_and_help(self) -> None:
        self.assertRegex((await self.good("--version")).out, r"\Achorus 0\.\S+ \(build: ")
        self.assertIn("exit status:", (await self.good("--help")).out)

    async def test_a_reader_that_has_enough(self) -> None:
        run = self.start("openapi")
        run.transport.closeStdout()
        await run.ended
        self.assertEqual((run.status, run.err), (0, ""))


class Messages(CommandCase):
    """`chorus messages` asks nobody: there is neither a node nor a data directory."""

    async def words(self, *words: str) -> Run:
        return await self.good("messages", *words, CHORUS_DATA_DIR="/nowhere")

    async def test_list(self) -> None:
        lines = (await self.words()).out.splitlines()
        self.assertEqual(len(lines), 1 + len(PAYLOADS))
        self.assertEqual([line.split()[0] for line in lines[1:]], list(PAYLOADS))
        found = (await self.words("--json")).json["types"]
        self.assertEqual({each["type"]: tuple(each["topics"]) for each in found}, {n: p.TOPICS for n, p in ALL})

    async def test_a_type(self) -> None:
        run = await self.words("helprequest")
        self.assertIn("hmmm/meta-discussion/v1", run.out)
        self.assertRegex(run.out, r"(?m)^question +text of 1 to 2048 bytes +refused +What it needs to know\.$")
        self.assertEqual((await self.words("HelpRequest", "--json")).json, payload_schema(PAYLOADS["HelpRequest"]))

    async def test_the_envelope(self) -> None:
        self.assertRegex((await self.words("envelope")).out, r"(?m)^from +a peer id")
        self.assertEqual((await self.words("Envelope", "--json")).json, envelope_schema())

    async def test_a_type_that_is_none(self) -> None:
        self.assertIn("did you mean HelpRequest?", await self.bad(2, "messages", "HelpRequst"))
        self.assertNotIn("mean", await self.bad(2, "messages", "zzz"))


class Watching(CommandCase):
    async def test_json_lines(self) -> None:
        task_id = self.tasks.make()
        self.tasks.end(task_id, "failed", "exit")
        run = await self.chorus("task", "watch", task_id, "--json")
        self.assertEqual(run.status, 1)
        self.assertEqual([json.loads(line)["id"] for line in run.out.splitlines()], [1, 2])

    async def test_interrupted(self) -> None:
        for more in ((), ("--json",)):
            task_id = self.tasks.make()
            run = self.start("task", "watch", task_id, *more)
            await run.until(b"submitted")
            run.transport.signalProcess("INT")
            await run.ended
            self.assertEqual(run.status, 130)
            self.assertIn("chorus: the task goes on: ", run.err)
            self.assertIn(f"`chorus task watch {task_id}` shows it, `chorus task cancel {task_id}` ends it", run.err)

    async def test_output_that_was_cut(self) -> None:
        task_id = self.tasks.make()
        output = {"stdout": {"bytes": 16_000_000, "sha256": None}, "stderr": {"bytes": 1, "sha256": None}}
        self.tasks.end(task_id, "completed", "exit", truncated=["stdout"], output=output)
        self.assertIn("chorus: stdout was cut at 16.0 MB\n", (await self.good("task", "watch", task_id)).err)

    async def test_without_a_summary(self) -> None:
        task_id = self.tasks.make()
        self.tasks.end(task_id, "completed", "exit", artifacts=[{"path": "a", "sha256": "0" * 64, "size": 1}])
        self.assertIn(f"chorus task fetch {task_id}", (await self.good("task", "watch", task_id)).err)
        run = await self.good("task", "watch", task_id, "--no-summary")
        self.assertTrue(run.err.endswith("chorus: completed: exit\n"), run.err)

    async def test_a_node_that_restarts(self) -> None:
        task_id = self.tasks.make()
        run = self.start("task", "watch", task_id)
        self.tasks.add(task_id, "output", {"stream": "stdout", "offset": 0, "text": "one "})
        await run.until(b"one ")
        await self.service.stopService()
        await run.until(b"waiting for the node")
        # It comes back on another port.
        self.service.startService()
        self.announce_port()
        self.tasks.add(task_id, "output", {"stream": "stdout", "offset": 4, "text": "two"})
        self.tasks.end(task_id, "completed", "exit")
        await run.ended
        self.assertEqual((run.status, run.out), (0, "one two"))

    async def test_one_that_has_ended(self) -> None:
        task_id = self.tasks.make()
        self.tasks.end(task_id, "cancelled", "cancelled")
        self.assertEqual((await self.chorus("task", "watch", task_id, "--after", "2")).status, 1)


class Fetching(CommandCase):
    def setUp(self) -> None:
        super().setUp()
        self.task = self.tasks.make()
        content = os.urandom(600_000)
        rows = [{"path": "d/a.bin", "sha256": self.blobs.put(content), "size": len(content)}]
        log = {"bytes": 3, "sha256": self.blobs.put(b"log")}
        self.tasks.end(
            self.task,
            "completed",
            "exit",
            artifacts=rows,
            output={"stdout": log, "stderr": {"bytes": 0, "sha256": None}},
        )
        self.content = content

    async def test_artifacts(self) -> None:
        run = await self.good("task", "fetch", self.task, "--output", "o", "--logs", "--json")
        self.assertEqual((self.data / "o/d/a.bin").read_bytes(), self.content)
        self.assertEqual((self.data / "o/stdout.log").read_bytes(), b"log")
        self.assertEqual([each["path"] for each in run.json["files"]], ["o/d/a.bin", "o/stdout.log"])
        self.assertIn("would be overwritten", await self.bad(2, "task", "fetch", self.task, "-o", "o"))
        await self.good("task", "fetch", self.task, "-o", "o", "--force")
        self.assertEqual(sorted(os.listdir(self.data / "o")), ["d", "stdout.log"])

    async def test_an_artifact_that_is_not_what_it_should_be(self) -> None:
        for digest in self.blobs.blobs:
            self.blobs.blobs[digest] = b"x" + self.blobs.blobs[digest][1:]
        self.assertIn("did not arrive whole", await self.bad(1, "task", "fetch", self.task, "-o", "o"))
        self.assertEqual([path for path in (self.data / "o").rglob("*") if path.is_file()], [])

    async def test_a_name_that_leaves_the_directory(self) -> None:
        self.tasks.tasks[self.task]["artifacts"][0]["path"] = "../../x"  # type: ignore[index, call-overload]
        self.assertIn("leaves the directory", await self.bad(2, "task", "fetch", self.task, "-o", "o"))

    async def test_a_file_is_no_directory(self) -> None:
        (self.data / "README.md").write_text("mine")
        for more in ((), ("--force",)):
            text = await self.bad(2, "task", "fetch", self.task, "-o", "README.md", *more)
            self.assertIn("README.md is a file; --output names a directory", text)
        self.assertEqual((self.data / "README.md").read_text(), "mine")

    async def test_none(self) -> None:
        task = self.tasks.make()
        for more in ((), ("-o", "-"), ("--json",), ("--logs",)):
            text = await self.bad(1, "task", "fetch", task, *more)
            self.assertIn(
                f"the task has not ended yet (submitted), nothing is fetched: `chorus task watch {task}`", text
            )
        self.tasks.end(task, "completed", "exit")
        self.assertEqual((await self.good("task", "fetch", task)).out, "the task left no artifacts\n")
        self.assertFalse((self.data / f"chorus-{task}").exists())

    async def test_modes_times_links_and_folders(self) -> None:
        document = self.tasks.tasks[self.task]
        document["artifacts"][0] |= {"mode": 0o755, "mtime": 1e9}  # type: ignore[index, operator]
        document["entries"] = [{"path": "d/link", "target": "a.bin"}, {"path": "empty", "mode": 0o700, "mtime": 2e9}]
        run = await self.good("task", "fetch", self.task, "-o", "o")
        self.assertIn("o/d/link -> a.bin", run.out)
        self.assertIn("o/empty/", run.out)
        self.assertEqual((self.data / "o/d/link").read_bytes(), self.content)
        self.assertEqual(stat.S_IMODE((self.data / "o/d/a.bin").stat().st_mode), 0o755)
        self.assertEqual((self.data / "o/d/a.bin").stat().st_mtime, 1e9)
        self.assertTrue((self.data / "o/empty").is_dir())
        found = (await self.good("task", "fetch", self.task, "-o", "again", "--json")).json
        self.assertEqual(found["entries"][1], {"path": "again/d/link", "target": "a.bin"})
        self.assertEqual(found["missing"], {"total": 0, "reasons": []})
        shown = (await self.good("task", "show", self.task)).out
        self.assertIn("d/link -> a.bin", shown)
        self.assertIn("empty/ (empty)", shown)
        self.assertIn("3 artifacts: chorus task fetch", (await self.good("task", "watch", self.task)).err)

    async def test_a_tar_archive_on_stdout(self) -> None:
        self.tasks.tasks[self.task]["entries"] = [{"path": "link", "target": "d/a.bin"}]
        run = await self.good("task", "fetch", self.task, "--output", "-", "--logs")
        self.assertEqual(run.err, "")
        with tarfile.open(fileobj=io.BytesIO(run.parts[1])) as tar:
            self.assertEqual(tar.getnames(), ["d/a.bin", "stdout.log", "link"])
            self.assertEqual(tar.extractfile("link").read(), self.content)  # type: ignore[union-attr]
        self.assertEqual([path.name for path in self.data.iterdir() if path.name in ("-", "o")], [])
        text = await self.bad(2, "task", "fetch", self.task, "--output", "-", "--json")
        self.assertIn("--json and --output - both want stdout", text)
        self.tasks.tasks[self.task]["truncated"] = ["stdout"]
        run = await self.good("task", "fetch", self.task, "--output", "-", "--logs")
        self.assertEqual(run.err, "chorus: stdout was cut at 3 B\n")
        self.assertEqual((await self.good("task", "fetch", self.task, "--output", "-")).err, "")

    async def test_what_is_missing_is_said_everywhere(self) -> None:
        """In every view, with its number; and only where it is asked for does it change nothing but the words."""
        reasons = ["1500 files match, over the limit of 1000", "latest: a link that leads out"]
        self.tasks.tasks[self.task].update(artifacts_skipped=reasons, artifacts_skipped_total=501)
        for words in (
            ("task", "fetch", self.task, "-o", "o"),
            ("task", "fetch", self.task, "-o", "-"),
            ("task", "fetch", self.task, "-o", "json", "--json"),
            ("task", "watch", self.task),
            ("task", "watch", self.task, "--no-summary"),
            ("task", "watch", self.task, "--json"),
        ):
            run = await self.chorus(*words)
            self.assertEqual(run.status, 1, words)
            told = [line for line in run.err.splitlines() if "missing" in line]
            self.assertEqual(told, [*(f"chorus: missing: {each}" for each in reasons), "chorus: missing: 501 in all"])
        self.assertEqual((self.data / "o/d/a.bin").read_bytes(), self.content, "what is there is fetched")
        shown = (await self.good("task", "show", self.task)).out
        rows = [line.partition(" ")[2].strip() for line in shown.splitlines() if line.startswith("missing ")]
        self.assertEqual(rows, [*reasons, "501 in all"])
        document = (await self.good("task", "show", self.task, "--json")).json
        self.assertEqual((document["artifacts_skipped_total"], document["artifacts_skipped"]), (501, reasons))

    async def test_a_file_that_the_node_could_not_get(self) -> None:
        rows = self.tasks.tasks[self.task]["artifacts"]
        rows.append({"path": "b", "sha256": "0" * 64, "size": 1})  # type: ignore[union-attr]
        self.tasks.tasks[self.task]["artifacts_absent"] = 1
        run = await self.chorus("task", "watch", self.task)
        self.assertEqual(run.status, 1)
        self.assertIn("chorus: missing: 1 file is still with the agent", run.err)
        for where in ("o", "-"):
            run = await self.chorus("task", "fetch", self.task, "-o", where)
            self.assertEqual((run.status, run.err.count("\n")), (1, 1), run.err)
            self.assertTrue(run.err.startswith("chorus: missing: b: "), run.err)
        self.assertEqual(sorted(os.listdir(self.data / "o")), ["d"])


class Node(CommandCase):
    async def test_no_node(self) -> None:
        (self.data / "ports.json").unlink()
        text = await self.bad(3, "status")
        self.assertIn(f"no node runs with the data directory {self.data}; start one with `twistd chorus agent`", text)

    async def test_a_node_that_is_gone(self) -> None:
        await self.service.stopService()
        self.assertIn("no node answers at http://127.0.0.1:", await self.bad(3, "status"))

    async def test_a_wrong_token(self) -> None:
        for more in ({"CHORUS_API_TOKEN": "wrong"},):
            self.assertIn("does not accept the token", await self.bad(4, "status", **more))
        self.assertIn("does not accept the token", await self.bad(4, "status", "--token", "wrong"))

    async def test_no_token(self) -> None:
        (self.data / "api-token").unlink()
        self.assertIn("say --token or CHORUS_API_TOKEN", await self.bad(4, "status"))

    async def test_by_address(self) -> None:
        address = f"127.0.0.1:{self.service.port}"
        env = {"CHORUS_DATA_DIR": "/nonexistent"}
        await self.good("status", "--api", f"http://{address}/", "--token", TOKEN, **env)
        await self.good("--api", address, "--token", TOKEN, "status", **env)
        await self.good("status", CHORUS_API=address, CHORUS_API_TOKEN=TOKEN, **env)
        await self.good("status", CHORUS_API=address, CHORUS_API_TOKEN_FILE=str(self.data / "api-token"), **env)

    async def test_what_is_no_address(self) -> None:
        for text in ("ftp://x", "http://", "http://x:y", "http://127.0.0.1:1/path"):
            self.assertIn("is not the address of an API", await self.bad(2, "status", "--api", text))

    async def test_the_health_port(self) -> None:
        health = HealthService(self.node, (), ListenAddress("CHORUS_HEALTH", "127.0.0.1", 0), reactor)
        health.startService()
        self.addCleanup(health.stopService)
        text = await self.bad(2, "status", "--api", f"http://127.0.0.1:{health.port}")
        self.assertIn("is a node's health port; its API has another", text)

    async def test_tls_where_there_is_none(self) -> None:
        text = await self.bad(3, "status", "--api", f"https://127.0.0.1:{self.service.port}")
        self.assertIn("a node's port speaks plain HTTP, say http://", text)

    async def test_tls_answered_by_a_reset(self) -> None:
        class Resetting(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.abortConnection()

        port = reactor.listenTCP(0, Factory.forProtocol(Resetting), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        text = await self.bad(3, "status", "--api", f"https://127.0.0.1:{port.getHost().port}")
        self.assertIn("a node's port speaks plain HTTP, say http://", text)

    async def test_an_unknown_variable(self) -> None:
        run = await self.good("status", CHORUS_API_TOKN="x", CHORUS_P2P_BIND="127.0.0.1")
        self.assertEqual(run.err, "chorus: CHORUS_API_TOKN is no variable of CHORUS; did you mean CHORUS_API_TOKEN?\n")

    async def test_a_token_that_no_other_machine_can_use(self) -> None:
        identity = Identity.load_or_create(self.data / "identity")
        cluster = ClusterService.open(self.data, identity, Wishes())
        cluster.keep()
        for host, warned in (("127.0.0.1", True), ("10.0.0.1", False)):
            cluster.publish_addresses([Multiaddr.tcp("127.0.0.1", 9), Multiaddr.tcp(host, 9)])
            for more in ((), ("--raw",), ("--json",)):
                run = await self.good("token", *more)
                self.assertEqual(("CHORUS_P2P_BIND" in run.err, run.err.count("\n")), (warned, int(warned)))
                self.assertEqual("no other machine can join it" in run.err, warned)

    async def test_token(self) -> None:
        self.assertIn("no node has been started", await self.bad(2, "token"))


class Finding(PureTestCase):
    def test_addresses(self) -> None:
        data = Path(self.mktemp())
        data.mkdir(parents=True)
        api = NodeApi({"CHORUS_DATA_DIR": str(data)})
        for host, expected in (
            ("127.0.0.1", "http://127.0.0.1:5"),
            ("0.0.0.0", "http://127.0.0.1:5"),
            ("::", "http://[::1]:5"),
            ("fd00::1", "http://[fd00::1]:5"),
        ):
            (data / "ports.json").write_text(json.dumps({"api_host": host, "api": 5}))
            self.assertEqual(api.address(), expected)
        for content in ("", "[]", "{}", '{"api": "x"}'):
            (data / "ports.json").write_text(content)
            with self.assertRaisesRegex(ClientError, "is damaged"):
                api.address()
        (data / "ports.json").unlink()
        with self.assertRaises(NoNode):
            api.address()
