from __future__ import annotations

import base64
import json
import subprocess

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus import strictjson
from chorus.tasks import ids, spec
from chorus.tasks.spec import LimitPolicy, SpecError, TaskSpec, body_digest
from chorus.tasks.terms import Limits
from tests.support import PureTestCase

ID = "01m7y109w7zejyyn11r87hr1g0"
SHA = "ab" * 32


class SpecTests(PureTestCase):
    def refuse(self, body: object, field: str, *words: str, policy: LimitPolicy | None = None) -> None:
        with self.assertRaises(SpecError) as caught:
            TaskSpec.parse(body, policy)
        self.assertEqual(caught.exception.field, field)
        self.assertEqual(caught.exception.http_status, 422)
        self.assertNotIn("\n", str(caught.exception))
        self.assertLess(len(str(caught.exception)), 400)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def refuse_with(self, field: str, value: object, path: str | None = None, *words: str) -> None:
        self.refuse({"commands": ["true"], field: value}, path if path is not None else field, *words)

    def accept(self, **fields: object) -> TaskSpec:
        return TaskSpec.parse({"commands": ["true"], **fields})

    def test_smallest(self) -> None:
        task = TaskSpec.parse({"commands": ["make test"]})
        self.assertEqual(task.argv(), (("/bin/sh", "-c", "make test"),))
        self.assertEqual(task.limits, Limits())
        self.assertEqual((task.priority, task.retries), (5, 0))

    def test_every_field(self) -> None:
        body = {
            "title": "Tests of the parser",
            "description": "Run them.\nAll.",
            "project": "team/tool",
            "repository": "https://example.org/team/tool.git",
            "input": {"sha256": SHA},
            "shell": "bash",
            "language": "python",
            "image": "registry.example.org:5000/chorus-python-dev@sha256:" + "0" * 64,
            "commands": ["python3 -m unittest", ["echo", "", "ä"]],
            "env": {"LANG": "C.UTF-8", "_X1": ""},
            "limits": {"cpu": 2, "memory_mb": 64.0, "pids": 8, "disk_mb": 9, "timeout_s": 1.5, "output_mb": 1},
            "artifacts": ["**/*.xml", "report/index.html"],
            "required": {"role": "developer", "expertise": ["python", "c++"], "capabilities": ["gpu/cuda-12"]},
            "priority": 9,
            "depends_on": [ID],
            "retries": 2,
            "idempotency_key": "build-7",
            "ai": {"provider": "ollama", "model": "qwen:7b", "max_iterations": 5},
        }
        task = TaskSpec.parse(body)
        self.assertEqual(sorted(body), sorted(field.name for field in attrs.fields(TaskSpec)))
        written = task.to_json()
        self.assertEqual(TaskSpec.from_json(json.loads(task.canonical())), task)
        for name, value in body.items():
            self.assertEqual(written[name], value, name)

    def test_body_and_unknown_fields(self) -> None:
        for body in ([], None, "x", 3):
            self.refuse(body, "", "must be an object")
        self.refuse({"comands": ["x"]}, "comands", "did you mean commands?")
        self.refuse_with("limits", {"memory": 5}, "limits.memory", "did you mean memory_mb?")
        self.refuse_with("required", {"Rolle": "x"}, "required.Rolle", "did you mean role?")
        self.refuse_with("input", {"sha": SHA}, "input.sha", "sha256")
        self.refuse_with("ai", {"zzz": 1}, "ai.zzz", "known fields are provider")
        self.refuse({"x" * 10000: 1}, "x" * 64)
        self.refuse({"a\nb": 1}, "'a\\nb'")

    def test_null_is_absent(self) -> None:
        absent = {field.name: None for field in attrs.fields(TaskSpec)} | {"commands": ["true"]}
        self.assertEqual(TaskSpec.parse(absent), self.accept())

    def test_commands(self) -> None:
        self.refuse({}, "commands", "at least one")
        self.assertEqual(TaskSpec.parse({"ai": {}}).commands, ())
        self.refuse({"commands": "true"}, "commands", "list")
        for bad in ("", "  ", [], [""], [1], 5, None, {}, "a\0b", ["a", "b\0"], "\ud800"):
            with self.subTest(bad=bad), self.assertRaises(SpecError) as caught:
                TaskSpec.parse({"commands": ["ok", bad]})
            self.assertTrue(caught.exception.field.startswith("commands[1]"))
        self.refuse({"commands": ["x"] * (spec.MAX_COMMANDS + 1)}, "commands", str(spec.MAX_COMMANDS))
        self.refuse({"commands": ["x" * (spec.MAX_COMMAND + 1)]}, "commands[0]", str(spec.MAX_COMMAND))
        self.refuse({"commands": [["x"] * (spec.MAX_ARGUMENTS + 1)]}, "commands[0]", str(spec.MAX_ARGUMENTS))
        self.refuse({"commands": ["x" * spec.MAX_COMMAND] * 5}, "commands", str(spec.MAX_COMMANDS_TOTAL))

    def test_sizes_of_texts(self) -> None:
        for field, maximum in (
            ("title", spec.MAX_TITLE),
            ("description", spec.MAX_DESCRIPTION),
            ("project", spec.MAX_PROJECT),
            ("image", spec.MAX_IMAGE),
            ("language", spec.MAX_WORD),
            ("idempotency_key", spec.MAX_IDEMPOTENCY_KEY),
        ):
            with self.subTest(field=field):
                self.accept(**{"image": "x", field: "a" * maximum})
                self.refuse_with(field, "a" * (maximum + 1), field, str(maximum))
                self.refuse_with(field, 7, field, "string")
        self.refuse_with("title", "ä" * (spec.MAX_TITLE // 2 + 1), "title", "bytes")
        self.refuse_with("repository", "https://e.org/" + "a" * spec.MAX_REPOSITORY, "repository")

    def test_forms(self) -> None:
        self.refuse_with("title", "two\nlines", "title", "one line")
        self.refuse_with("project", "../x")
        self.refuse_with("idempotency_key", "a b")
        self.refuse_with("repository", "https://me:secret@example.org/x.git", "repository", "password")
        self.refuse_with("repository", "file:///etc/passwd")
        self.accept(repository="git@example.org:team/tool.git")
        for image in ("-x", "a b", "UPPER", "a@sha256:12", "a:" + "t" * 129):
            self.refuse_with("image", image)
        for image in ("python", "python:3.12-slim", "localhost:5000/a/b_c:1", "a@sha256:" + "0" * 64):
            self.accept(image=image)

    def test_unknown_languages(self) -> None:
        for known in ("python", "Py", "c++", "base"):
            self.assertEqual(self.accept(language=known).language, known)
        self.refuse_with("language", "pyton", "language", "did you mean python?", "name an image")
        self.refuse_with("language", "haskell", "language", "is not known. Known are rust, go")
        task = self.accept(language="haskell", image="haskell:9")
        # What was admitted somewhere stays readable everywhere.
        self.assertEqual(TaskSpec.from_json({**task.to_json(), "image": None}).language, "haskell")

    def test_password_is_not_echoed(self) -> None:
        with self.assertRaises(SpecError) as caught:
            self.accept(repository="https://me:hunter2@example.org/x.git")
        self.assertNotIn("hunter2", str(caught.exception))

    def test_a_repository_of_a_megabyte_costs_no_more_than_its_length(self) -> None:
        for text in ("a://" + ":" * (1 << 20), "a" * (1 << 20), "a://x:" + "y" * (1 << 20) + "@h"):
            self.assert_cheap(lambda text=text: self.refuse_with("repository", text), 20)

    def test_input(self) -> None:
        data = b"x" * spec.MAX_INLINE
        task = self.accept(input={"inline": base64.b64encode(data).decode()})
        assert task.input is not None
        self.assertEqual(task.input.inline, data)
        stored = task.with_input_blob()
        assert stored.input is not None
        self.assertEqual((stored.input.sha256, stored.input.inline), (task.input.digest, None))
        self.assertIs(stored.with_input_blob(), stored)
        self.refuse_with("input", {"inline": base64.b64encode(data + b"x").decode()}, "input.inline", "blob")
        self.refuse_with("input", {"inline": "=" * 9_000_000}, "input.inline", "the most is")
        self.refuse_with("input", {"inline": "a-_b"}, "input.inline", "base64")
        self.refuse_with("input", {}, "input", "exactly one")
        self.refuse_with("input", {"inline": "aGk=", "sha256": SHA}, "input", "exactly one")
        for bad in ("AB" * 32, "ab" * 31, "ab" * 33, 5):
            self.refuse_with("input", {"sha256": bad}, "input.sha256")

    def test_totals_exactly_at_their_limits(self) -> None:
        """A byte more is refused, the limit itself is not."""

        def env(more: int) -> dict[str, str]:
            last = spec.MAX_ENV_TOTAL - 4 * len("A0xx") - 3 * spec.MAX_ENV_VALUE + more
            return {f"A{i}": "x" * (last if i == 3 else spec.MAX_ENV_VALUE) for i in range(4)}

        def commands(more: int) -> list[str]:
            last = spec.MAX_COMMANDS_TOTAL - 3 * (spec.MAX_COMMAND + 1) - 1 + more
            return ["x" * spec.MAX_COMMAND] * 3 + ["x" * last]

        def artifacts(more: int) -> list[str]:
            return ["/".join(["*"] * (spec.MAX_ARTIFACT_WILDCARDS + more))]

        for field, make, where in (
            ("env", env, "env"),
            ("commands", commands, "commands"),
            ("artifacts", artifacts, "artifacts[0]"),
        ):
            TaskSpec.parse({"commands": ["true"], field: make(0)})
            with self.assertRaises(SpecError) as caught:
                TaskSpec.parse({"commands": ["true"], field: make(1)})
            self.assertTrue(str(caught.exception).startswith(where), str(caught.exception))

    def test_env(self) -> None:
        self.refuse_with("env", [], "env", "object")
        for name in ("", "1A", "A B", "A=B", "Ä", "A\0"):
            self.refuse_with("env", {name: "x"}, "env")
        self.refuse_with("env", {"A": 1}, "env.A", "string")
        self.refuse_with("env", {"A": "x\0"}, "env.A", "NUL")
        self.refuse_with("env", {"A" * (spec.MAX_ENV_NAME + 1): ""}, "env", str(spec.MAX_ENV_NAME))
        self.refuse_with("env", {"A": "x" * (spec.MAX_ENV_VALUE + 1)}, "env.A", str(spec.MAX_ENV_VALUE))
        self.refuse_with("env", {f"A{i}": "" for i in range(spec.MAX_ENV + 1)}, "env", str(spec.MAX_ENV))
        self.refuse_with("env", {f"A{i}": "x" * spec.MAX_ENV_VALUE for i in range(4)}, "env", str(spec.MAX_ENV_TOTAL))
        # Each costs its name, its bytes in UTF-8 and two more: to the byte.
        full = {f"A{i}": "x" * spec.MAX_ENV_VALUE for i in range(3)} | {"B": "ä" * (spec.MAX_ENV_VALUE // 2 - 8) + "x"}
        self.assertEqual(sum(len(name) + len(text.encode()) + 2 for name, text in full.items()), spec.MAX_ENV_TOTAL)
        self.accept(env=full)
        self.refuse_with("env", {**full, "B": full["B"] + "x"}, "env", str(spec.MAX_ENV_TOTAL + 1))

    def test_shell(self) -> None:
        line, words = "a | b", ("echo", "$0")
        for fields in ({}, {"shell": None}, {"shell": "sh"}):
            self.assertEqual(self.accept(commands=[line], **fields).argv(), (("/bin/sh", "-c", line),))
        for name in spec.SHELLS[1:]:
            task = self.accept(commands=[line, list(words)], shell=name)
            start, run = task.argv()
            self.assertEqual((start[:2], start[3:], run), (("/bin/sh", "-c"), (name, line), words))
            self.assertEqual(TaskSpec.from_json(task.to_json()), task)
        self.assertNotIn("shell", self.accept().to_json())
        for wrong in ("", "fish", "/bin/bash", "bash -x", "Bash", 1, ["bash"], {}, True):
            self.refuse_with("shell", wrong, "shell", "is not one of sh, bash, dash, zsh")

    def test_the_shell_that_is_asked_for_runs(self) -> None:
        def run(name: str, line: str) -> tuple[int, str, str]:
            argv = TaskSpec((line,), shell=name).argv()[0]
            done = subprocess.run(argv, capture_output=True, env={"PATH": "/nothing", "found": "mine"}, check=False)
            return done.returncode, done.stdout.decode(), done.stderr.decode()

        self.assertEqual(
            run("bash", "[[ $BASH_VERSION ]] && a=(1 2) && echo ${#a[@]} $found; exit 3"), (3, "2 mine\n", "")
        )
        self.assertEqual(run("dash", 'echo "${BASH_VERSION-none}"'), (0, "none\n", ""))
        status, out, err = run("nosuchshell", "echo")
        self.assertEqual((status, out), (127, ""))
        self.assertIn("this sandbox has no nosuchshell", err)

    def test_limits(self) -> None:
        policy = LimitPolicy(default=Limits(cpu=4.0, pids=10), maximum=Limits(cpu=2.0, memory_mb=512))
        task = TaskSpec.parse({"commands": ["x"], "limits": {"memory_mb": 512}}, policy)
        self.assertEqual((task.limits.cpu, task.limits.memory_mb, task.limits.pids), (2.0, 512, 10))
        for name in ("cpu", "memory_mb", "pids", "disk_mb", "timeout_s", "output_mb"):
            most = getattr(policy.maximum, name)
            for bad in (most + 1, 0, -1, True, "1", [], float("nan"), float("inf"), 10**400):
                with self.subTest(name=name, bad=bad):
                    self.refuse({"commands": ["x"], "limits": {name: bad}}, f"limits.{name}", policy=policy)
        self.refuse({"commands": ["x"], "limits": {"pids": 5.5}}, "limits.pids", "whole number")
        self.refuse({"commands": ["x"], "limits": {"cpu": 3}}, "limits.cpu", "0.01", "2", policy=policy)

    def test_a_stored_task_outlives_a_stricter_policy(self) -> None:
        task = self.accept(limits={"memory_mb": 4096})
        self.assertEqual(TaskSpec.from_json(task.to_json()), task)

    def test_artifacts(self) -> None:
        self.assertEqual(self.accept().artifacts, ("**",))
        self.assertEqual(self.accept(artifacts=None).artifacts, ("**",))
        self.assertEqual(self.accept(artifacts=[]).artifacts, ())
        self.assertEqual(TaskSpec.from_json(self.accept(artifacts=[]).to_json()).artifacts, ())
        for bad in ("", "/etc/passwd", "..", "a/../b", "a/..", "a\\b", "a//b", "a\nb", "a" * (spec.MAX_ARTIFACT + 1)):
            self.refuse_with("artifacts", ["ok", bad], "artifacts[1]")
        self.accept(artifacts=["..a", "a..b/*", "**/x", "dir/"])
        most = spec.MAX_ARTIFACT_WILDCARDS
        self.accept(artifacts=["*a" * most, "**/" * most + "x", "?" * most, "[a]" * most])
        for bad in ("*a" * (most + 1), "**/" * (most + 1) + "x", "?*[a]" * (most // 3 + 1)):
            self.refuse_with("artifacts", ["ok", bad], "artifacts[1]", "wildcards")
        self.refuse_with("artifacts", ["a", "a"], "artifacts[1]", "twice")
        self.refuse_with("artifacts", [str(i) for i in range(spec.MAX_ARTIFACTS + 1)], "artifacts")

    def test_required(self) -> None:
        self.refuse_with("required", {"expertise": "python"}, "required.expertise", "list")
        self.refuse_with("required", {"capabilities": ["a b"]}, "required.capabilities[0]")
        self.refuse_with("required", {"role": ""}, "required.role")
        too_many = [f"w{i}" for i in range(spec.MAX_REQUIRED + 1)]
        self.refuse_with("required", {"expertise": too_many}, "required.expertise", str(spec.MAX_REQUIRED))

    def test_small_numbers(self) -> None:
        for bad in (-1, 10, "1", True, 2.5, None.__class__):
            self.refuse_with("priority", bad)
        for bad in (-1, spec.MAX_RETRIES + 1, False):
            self.refuse_with("retries", bad)
        for bad in (0, spec.MAX_AI_ITERATIONS + 1):
            self.refuse_with("ai", {"max_iterations": bad}, "ai.max_iterations")
        self.refuse_with("ai", {"model": "x" * (spec.MAX_AI_NAME + 1)}, "ai.model")

    def test_depends_on(self) -> None:
        self.refuse_with("depends_on", ["x"], "depends_on[0]", "task id")
        self.refuse_with("depends_on", [ID, ID], "depends_on[1]", "twice")
        many = [ids.make(i, bytes) for i in range(spec.MAX_DEPENDS_ON + 1)]
        self.refuse_with("depends_on", many, "depends_on", str(spec.MAX_DEPENDS_ON))

    def test_digest_is_of_the_body_as_sent(self) -> None:
        self.assertEqual(body_digest({"b": 1, "a": [2]}), body_digest({"a": [2], "b": 1.0}))
        self.assertNotEqual(body_digest({"commands": ["a"]}), body_digest({"commands": ["b"]}))

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=8,
    )
    names = st.sampled_from([field.name for field in attrs.fields(TaskSpec)])

    @settings(deadline=None, max_examples=150)
    @given(st.dictionaries(names, json_values))
    def test_any_body_is_read_or_refused(self, body: dict[str, object]) -> None:
        try:
            task = TaskSpec.parse({"commands": ["true"]} | body)
        except SpecError as refusal:
            self.assertNotIn("\n", str(refusal))
        else:
            self.assertEqual(TaskSpec.from_json(task.to_json()), task)
            strictjson.loads(task.canonical())

    good = st.fixed_dictionaries(
        {"commands": st.lists(st.from_regex(r"[^\x00\ud800-\udfff]*[a-z]", fullmatch=True), min_size=1, max_size=3)},
        optional={
            "env": st.dictionaries(
                st.from_regex(r"[A-Z_]{1,5}", fullmatch=True),
                st.from_regex(r"[^\x00\ud800-\udfff]{0,9}", fullmatch=True),
            ),
            "limits": st.fixed_dictionaries({}, optional={"cpu": st.floats(0.01, 64), "pids": st.integers(4, 4096)}),
            "input": st.binary(max_size=99).map(lambda data: {"inline": base64.b64encode(data + b"x").decode()}),
            "priority": st.integers(0, 9),
            "required": st.just({"expertise": ["python"]}),
        },
    )

    @settings(deadline=None, max_examples=100)
    @given(good)
    def test_round_trip(self, body: dict[str, object]) -> None:
        task = TaskSpec.parse(body)
        self.assertEqual(TaskSpec.from_json(strictjson.loads(task.canonical())), task)


class IdTests(PureTestCase):
    def test_ids_sort_by_time(self) -> None:
        made = [ids.make(now, lambda n: b"\xff" * n) for now in (0, 1, 1.001, 1e9, 2e9)]
        self.assertEqual(made, sorted(made))
        self.assertTrue(all(ids.is_task_id(each) for each in made))

    def test_not_ids(self) -> None:
        for bad in (None, 1, "", ID[:-1], ID + "0", ID.upper(), "8" + ID[1:], ID[:-1] + "l", ID + "\n", "../" + ID[3:]):
            self.assertFalse(ids.is_task_id(bad), bad)
