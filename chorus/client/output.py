"""Prints a task's output live, and the command's own lines beside it; the two never share a line.

On a terminal output goes through `chorus.sanitise`, one state for each of its streams, and what has no line end yet is
shown at once. A status row stands below it where the terminal can take it back, and only below a finished line.
Elsewhere bytes pass as they are.
"""

from __future__ import annotations

import base64
import codecs
import os
import re
import stat
import sys
import unicodedata
from typing import IO, Any

from chorus.client.watch import TERMINAL, Event
from chorus.sanitise import RESET, Sanitiser, visible

CLEAR = "\r\x1b[K"
"""Takes the row back."""
WIDTH = 80
"""Of a terminal that does not say it."""
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")


def note(text: str) -> None:
    """A line for the person, beside the results. Further lines of it are indented: none can pass for another one."""
    print("chorus: " + visible(text, lines=True).replace("\n", "\n        "), file=sys.stderr, flush=True)


def lively(stream: IO[str]) -> bool:
    """True if what was written to `stream` can be changed later. Terminals that cannot (`TERM=dumb`) get lines."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}


class LineSink:
    """Where lines appear one below the other: a terminal, a file or a pipe."""

    def __init__(self, file: IO[bytes], stream: IO[str]) -> None:
        """`stream` is what `file` belongs to."""
        self._file = file
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self.terminal, self.lively = stream.isatty(), lively(stream)
        self._unfinished = False
        self._writers: set[str] = set()
        """The streams that the unfinished line is of."""
        self._status = self._drawn = ""

    def pass_on(self, data: bytes) -> None:
        """Bytes as they are."""
        self._unfinished = not data.endswith(b"\n")
        self._file.write(data)
        self._file.flush()

    def show(self, stream: str, text: str) -> None:
        """Writes sanitised text. A stream takes back no line that another one has written to."""
        first, _, _ = text.partition("\n")
        if self._writers - {stream} and CLEAR in first:
            text = text.replace(CLEAR, "\n", 1)
        _, ended, last = text.rpartition("\n")
        if ended:
            self._writers.clear()
        if _COLOURS.sub("", last):
            self._writers.add(stream)
        self._unfinished = bool(self._writers)
        self._draw(text)

    def status(self, text: str) -> None:
        """Stands below the lines until another one does, or nothing (``)."""
        self._status = text
        if text:
            self.end_line()
        self._draw("")

    def end_line(self) -> None:
        """Ends an unfinished line."""
        if self._unfinished:
            self._unfinished = False
            self._writers.clear()
            self._draw("\n")

    def _draw(self, text: str) -> None:
        text = (CLEAR if self._drawn else "") + text
        self._drawn = "" if self._unfinished else self._status
        text += fitting(self._drawn, self._width() - 1) if self._drawn else ""
        if text:
            self._file.write(text.encode(self._encoding, "replace"))
            self._file.flush()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or WIDTH
        except (OSError, ValueError):
            return WIDTH


class Follower:
    """Shows events as they come: output to stdout and stderr, everything else on stderr, as a status row or in lines.

    `merged`: both streams to stdout, in their order of arrival; so it is anyway where both are one terminal. `summary`
    says that more lines will be written to stderr after it.
    """

    def __init__(
        self, out: IO[bytes] | None = None, err: IO[bytes] | None = None, *, merged: bool = False, summary: bool = True
    ) -> None:
        """`out` and `err` stand in for stdout and stderr."""
        place = LineSink(out or sys.stdout.buffer, sys.stdout)
        shared = out is None and err is None and _same(sys.stdout, sys.stderr)
        beside = place if shared else LineSink(err or sys.stderr.buffer, sys.stderr)
        self._places = {"stdout": place, "stderr": place if merged else beside}
        self._notes = beside
        # Whoever reads our pipe may write to this terminal too (`| tee log`), below the row.
        self._in_row = beside.lively and not _is_pipe(sys.stdout)
        self._elsewhere = err is not None
        """The task's stderr and our lines do not meet."""
        self._streams = {name: _TaskStream(name, self._places[name]) for name in self._places}
        self._summary = summary
        self._away = False
        self.final: dict[str, Any] | None = None
        """The data of the last state, once it is terminal."""

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._notes.status("")
        for place in self._places.values():
            # On a terminal what follows begins a line of its own.
            if place.terminal:
                place.end_line()
        if kind is not None or self._summary:
            self._begin_line()

    def event(self, event: Event) -> None:
        self._away = False
        kind, data = event["type"], event["data"]
        if kind == "output":
            raw = base64.b64decode(data["base64"]) if "base64" in data else data["text"].encode("utf-8", "replace")
            self._streams[data["stream"]].write(raw)
        elif kind == "state":
            self._progress(_state_line(data))
            if data.get("state") in TERMINAL:
                self.final = data
        elif kind == "progress":
            self._progress(_progress_line(data))
        else:
            self._progress(str(data.get("text", "")))

    def lost(self, reason: str) -> None:
        # In lines, once for each time that it is away.
        if self._in_row or not self._away:
            self._progress(f"waiting for the node: {reason}")
        self._away = True

    def _progress(self, text: str) -> None:
        if self._in_row:
            self._notes.status(visible(text))
        else:
            self._begin_line()
            note(text)

    def _begin_line(self) -> None:
        if not self._elsewhere:
            self._notes.end_line()


class _TaskStream:
    """One of a task's two, on its way to a place."""

    def __init__(self, name: str, place: LineSink) -> None:
        self._name = name
        self._place = place
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sanitiser = Sanitiser(CLEAR if place.lively else "\n")

    def write(self, data: bytes) -> None:
        if not self._place.terminal:
            self._place.pass_on(data)
            return
        style = self._sanitiser.style
        if text := self._sanitiser.feed(self._decoder.decode(data)):
            self._place.show(self._name, style + text + (RESET if self._sanitiser.style else ""))


def fitting(text: str, width: int) -> str:
    """The beginning of it that is at most so many columns wide."""
    for at, char in enumerate(text):
        if unicodedata.category(char)[0] != "M":
            width -= 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if width < 0:
            return text[:at]
    return text


def _same(out: IO[str], err: IO[str]) -> bool:
    """True if they lead to one terminal, file or pipe."""
    try:
        return os.path.samestat(os.fstat(out.fileno()), os.fstat(err.fileno()))
    except (OSError, ValueError):
        return False


def _is_pipe(stream: IO[str]) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _state_line(data: dict[str, Any]) -> str:
    if isinstance(retry := data.get("retry"), dict):
        why = str(data.get("detail") or data.get("reason") or "")
        ended = "failed" if data.get("reason") in OWN_FAILURES else "lost its agent"
        return f"{ended}, trying again ({retry.get('number')} of {retry.get('of')}){': ' + why if why else ''}"
    words = [str(data.get("state"))]
    if data.get("agent"):
        words.append(f"on {data.get('agent_id') or data['agent']}")
    if data.get("sandbox"):
        words.append(f"in {data['sandbox']}")
    if (data.get("attempt") or 0) > 1:
        words.append(f"(attempt {data['attempt']})")
    reasons = [str(data[name]) for name in ("reason", "detail") if data.get(name)]
    return " ".join(words) + (f": {', '.join(reasons)}" if reasons else "")


def _progress_line(data: dict[str, Any]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in data.items() if name != "phase" and value is not None)
    return f"{data.get('phase', '')}{': ' + rest if rest else ''}"


OWN_FAILURES = frozenset({"exit", "timeout", "oom", "pids", "disk", "output"})
"""Reasons that are the task's own, not its agent's."""
