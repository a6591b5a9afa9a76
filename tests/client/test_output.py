"""What a person sees of a watched task on a terminal (a real pty), and what pipes get."""

from __future__ import annotations

import base64
import io
import os
import sys
from typing import Any

from chorus.client import show
from chorus.client.output import Follower, LineSink, fitting
from tests.client.terminal import Terminal
from tests.client.test_watch import event
from tests.support import PureTestCase


class OnATerminal(PureTestCase):
    term = "xterm"
    encoding = "utf-8"

    def setUp(self) -> None:
        self.terminal = Terminal(self.encoding)
        self.addCleanup(self.terminal.close)
        self.patch(sys, "stdout", self.terminal.slave)
        self.patch(sys, "stderr", self.terminal.slave)
        self.patch(os, "environ", {**os.environ, "TERM": self.term})
        self.number = 0

    def follower(self, **more: Any) -> Follower:
        self.followed = Follower(**more)
        return self.followed

    def say(self, text: str | bytes, stream: str = "stdout") -> list[str]:
        data = {"text": text} if isinstance(text, str) else {"base64": base64.b64encode(text).decode()}
        return self.event("output", stream=stream, offset=0, **data)

    def event(self, kind: str, **data: object) -> list[str]:
        self.number += 1
        self.followed.event(event(self.number, kind, **data))
        return self.terminal.rows()


class Live(OnATerminal):
    def test_an_unfinished_line_is_seen_at_once(self) -> None:
        with self.follower():
            self.assertEqual(self.event("state", state="running"), ["running"])
            self.assertEqual(self.say("#"), ["#"])
            self.assertEqual(self.say("#"), ["##"])
            self.assertEqual(self.say("\nnext"), ["##", "next"])
        self.assertEqual(self.terminal.rows(), ["##", "next", ""])

    def test_the_status_row_stands_below_finished_lines_alone(self) -> None:
        with self.follower():
            self.event("state", state="running", agent="12D3", agent_id="node-2")
            self.assertEqual(self.say("one\n"), ["one", "running on node-2"])
            self.assertEqual(self.say("two"), ["one", "two"])
            self.assertEqual(self.say("\n"), ["one", "two", "running on node-2"])
            self.say("three")
            self.followed.lost("it closed")
            self.assertEqual(self.terminal.rows()[2:], ["three", "waiting for the node: it closed"])
            self.assertEqual(self.say(" and more\n")[2:], ["three", " and more", "waiting for the node: it closed"])
        self.assertEqual(self.terminal.rows(), ["one", "two", "three", " and more", ""])

    def test_a_progress_line_changes_in_its_place(self) -> None:
        with self.follower():
            self.say("first\n")
            for done in (10, 20, 30):
                self.assertEqual(self.say(f"\r{done}%"), ["first", f"{done}%"])
            self.assertEqual(self.say("\r100% of it"), ["first", "100% of it"])
            self.assertEqual(self.say("\rok"), ["first", "ok"])
            self.assertEqual(self.say("\r\nlast\r\n"), ["first", "ok", "last", ""])
            self.assertEqual(self.say("half\r"), ["first", "ok", "last", "half"])

    def test_a_carriage_return_overwrites_nothing_of_others(self) -> None:
        with self.follower() as follower:
            self.say("50%")
            follower.lost("it closed")
            self.event("state", state="running")
            self.assertEqual(self.say("\r60%\r70%"), ["50%", "70%"])
            self.say("\nout")
            self.assertEqual(self.say("err\rfake", "stderr")[2:], ["outerr", "fake"])
            self.assertEqual(self.say("\rouch")[3:], ["fake", "ouch"])

    def test_both_streams_in_their_order(self) -> None:
        with self.follower():
            for number, stream in enumerate(("stdout", "stderr", "stdout", "stdout", "stderr")):
                self.say(f"{number}\n", stream)
            self.say("a ", "stdout")
            self.assertEqual(self.say("b\n", "stderr"), [*"01234", "a b", ""])

    def test_nothing_of_a_task_drives_the_terminal(self) -> None:
        hostile = "a\x1b[2J\x1b]0;t\x07\x1b[1A\x9b2J\x08\u202eb\x1b[31"
        with self.follower():
            self.assertEqual(self.say(hostile), ["ab"])
            self.assertEqual(self.say("mred", "stderr"), ["abmred"], "a state of each stream")
            self.assertEqual(self.say("mred\n"), ["abmredred", ""])
            self.event("state", state="running", agent_id="n\r\x1b[2Jx\n", agent="p")
        self.assertNotIn("x", self.terminal.rows()[0])

    def test_colours_end_with_their_piece_and_go_on_with_the_next(self) -> None:
        raw = io.BytesIO()
        place = LineSink(raw, self.terminal.slave)
        with self.follower() as follower:
            follower._streams["stdout"]._place = place
            self.say("\x1b[31mred")
            self.say("more\x1b[0m plain\n")
        self.assertEqual(raw.getvalue(), b"\x1b[31mred\x1b[0m\x1b[31mmore\x1b[0m plain\n")

    def test_characters_that_are_cut(self) -> None:
        with self.follower():
            self.say("日".encode()[:2])
            self.assertEqual(self.say("日".encode()[2:] + b"\xff"), ["日\ufffd"])

    def test_a_long_status_keeps_to_one_row(self) -> None:
        with self.follower():
            self.assertEqual(self.event("note", text="日" * 100), ["日" * 19])
            self.assertEqual(self.say("x\n")[0], "x")
        self.assertEqual(
            [fitting("日本x", width) for width in (0, 1, 2, 3, 4, 5)], ["", "", "日", "日", "日本", "日本x"]
        )
        self.assertEqual(fitting("e\u0301x", 1), "e\u0301")


class BesideAPipe(OnATerminal):
    def test_no_row_where_another_program_may_write(self) -> None:
        """`chorus task watch ID | tee log`."""
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        with open(write, "w", encoding="utf-8") as pipe:
            self.patch(sys, "stdout", pipe)
            with self.follower():
                self.assertEqual(self.event("state", state="running"), ["chorus: running", ""])
                self.say("to the pipe")
                self.assertEqual(self.say("err", "stderr"), ["chorus: running", "err"])
                self.assertEqual(self.event("note", text="x")[1:], ["err", "chorus: x", ""])
            self.assertEqual(os.read(read, 100), b"to the pipe")


class Dumb(OnATerminal):
    term = "dumb"

    def test_lines_of_ours_begin_lines(self) -> None:
        with self.follower() as follower:
            self.event("state", state="running")
            self.say("one")
            follower.lost("it closed")
            self.assertEqual(
                self.say("\rtwo\rthree"),
                ["chorus: running", "one", "chorus: waiting for the node: it closed"[:40], "", "two", "three"],
            )


class Latin(OnATerminal):
    encoding = "latin-1"

    def test_what_it_lacks_is_replaced(self) -> None:
        with self.follower():
            self.event("note", text="日")
            self.assertEqual(self.say("é日\n"), ["é?", "?"])


class OnPipes(PureTestCase):
    def pipes(self, *, one: bool) -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
        """What stdout and stderr are for it, into one file or into two."""
        files = []
        for name in ("out", "out" if one else "err"):
            path = os.path.join(self.path, name)
            file = open(path, "a", encoding="utf-8")  # noqa: SIM115
            self.addCleanup(file.close)
            files.append(file)
        self.patch(sys, "stdout", files[0])
        self.patch(sys, "stderr", files[1])
        return files[0], files[1]

    def setUp(self) -> None:
        self.path = self.mktemp()
        os.makedirs(self.path)

    def content(self, name: str) -> bytes:
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()

    def run_through(self, **more: Any) -> None:
        with Follower(**more) as follower:
            follower.event(event(1, "output", stream="stderr", offset=0, text="\x1b[2Jone"))
            follower.event(event(2, "state", state="running"))
            follower.event(event(3, "output", stream="stdout", offset=0, base64="/w=="))
            follower.event(event(4, "output", stream="stderr", offset=0, text=" two"))

    def test_bytes_as_they_are_and_lines_of_ours_apart(self) -> None:
        self.pipes(one=False)
        self.run_through()
        self.assertEqual((self.content("out"), self.content("err")), (b"\xff", b"\x1b[2Jone\nchorus: running\n two\n"))

    def test_scripts_get_no_byte_more_at_the_end(self) -> None:
        self.pipes(one=False)
        self.run_through(summary=False)
        self.assertEqual(self.content("err"), b"\x1b[2Jone\nchorus: running\n two")

    def test_merged(self) -> None:
        self.pipes(one=False)
        self.run_through(merged=True)
        self.assertEqual((self.content("out"), self.content("err")), (b"\x1b[2Jone\xff two", b"chorus: running\n"))

    def test_both_into_one(self) -> None:
        self.pipes(one=True)
        self.run_through()
        self.assertEqual(self.content("out"), b"\x1b[2Jone\nchorus: running\n\xff two\n")


class Views(PureTestCase):
    """Names and prose of others in every view."""

    NAME = "a\rb\n\x1b[8m\x9b2J\u202e\u200dc"
    SHOWN = "a\\rb\\n\\x1b[8m\\x9b2J\\u202e\\u200dc"

    def printed(self, stream: str, call: Any, *args: Any, **more: Any) -> str:
        file = io.StringIO()
        self.patch(sys, stream, file)
        call(*args, **more)
        return file.getvalue()

    def test_tables(self) -> None:
        out = self.printed("stdout", show.table, ("x", "y"), [(self.NAME, 1), ("z", self.NAME)], "none")
        self.assertEqual(
            out,
            f"x{' ' * 40}y\n{self.SHOWN}  1\nz{' ' * 40}{self.SHOWN}\n".replace(" " * 40, " " * (len(self.SHOWN) + 1)),
        )

    def test_facts_keep_their_lines_apart(self) -> None:
        out = self.printed("stdout", show.facts, [("command", self.NAME), ("state", "x")])
        self.assertEqual(out, "command  a\\rb\n         \\x1b[8m\\x9b2J\\u202e\\u200dc\nstate    x\n")

    def test_only_a_command_has_lines(self) -> None:
        for name in ("artifact", "missing", "title", "detail", "agent", "depends on"):
            out = self.printed("stdout", show.facts, [(name, self.NAME)])
            self.assertEqual(out, f"{name}  {self.SHOWN}\n")

    def test_notes_cannot_pass_for_others(self) -> None:
        out = self.printed("stderr", show.note, "no\nchorus: all is well\r\x9b")
        self.assertEqual(out, "chorus: no\n        chorus: all is well\\r\\x9b\n")

    def test_documents(self) -> None:
        for call in (show.document, show.json_line):
            out = self.printed("stdout", call, {"title": self.NAME})
            self.assertIn("a\\rb\\n\\u001b[8m\\u009b2J\\u202e\\u200dc", out)
