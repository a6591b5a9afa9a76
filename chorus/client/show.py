"""What a person sees: tables, progress, a task's output. On a terminal with rich, elsewhere as plain lines."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from chorus.client.watch import TERMINAL, Event

if TYPE_CHECKING:
    from rich.status import Status

# Control characters other than line ends and tabs, and escapes other than colours: a task's output must not drive the
# terminal of whoever looks at it.
_UNSAFE = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
FOLDED = 12
"""A column that may break keeps this width, or its own if that is less."""
MAX_HELD_LINE = 64 * 1024
"""A line without an end is shown in pieces of this size."""


def document(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def json_line(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def note(text: str) -> None:
    """A line for the person, beside the results."""
    print(f"chorus: {safe(text)}", file=sys.stderr, flush=True)


def safe(text: str) -> str:
    """Fit for a terminal."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def lively(stream: IO[str]) -> bool:
    """Whether what was written to `stream` can be changed later. Terminals that cannot (`TERM=dumb`) get lines."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    empty: str,
    *,
    folds: bool = False,
    spare: Sequence[str] = (),
) -> None:
    """Rows under their columns; `empty` where there are none.

    On a terminal that is too narrow the columns of `spare` are left out, the first of them first; if that is not
    enough, each row becomes a block of names and values, so that nothing that people copy is broken. `folds`: the last
    column may break.
    """
    texts = [[safe("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not texts:
        print(empty)
        return
    widths = [max(len(column), *(len(row[at]) for row in texts)) for at, column in enumerate(columns)]
    if lively(sys.stdout):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        if folds:
            widths[-1] = min(widths[-1], FOLDED)
        kept = _fitting(columns, widths, console.width, spare)
        if kept is None:
            for number, row in enumerate(texts):
                print(end="\n" if number else "")
                facts(list(zip(columns, row, strict=True)))
            return
        shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for at in kept:
            shown.add_column(columns[at], min_width=widths[at], no_wrap=not (folds and at == len(columns) - 1))
        for row in texts:
            shown.add_row(*(Text(row[at], style=_STYLES.get(row[at], "")) for at in kept))
        console.print(shown)
        return
    for row in [list(columns), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _fitting(columns: Sequence[str], widths: Sequence[int], width: int, spare: Sequence[str]) -> list[int] | None:
    """Which columns fit into `width`, without as few of `spare` as possible; None where even the others do not."""
    for count in range(len(spare) + 1):
        kept = [at for at, column in enumerate(columns) if column not in spare[:count]]
        if sum(widths[at] for at in kept) + 2 * (len(kept) - 1) <= width:
            return kept
    return None


def facts(rows: Sequence[tuple[str, object]]) -> None:
    """Names and values; values that are None or empty are left out. Further lines of a value stand under its first."""
    kept = [(name, safe(str(value))) for name, value in rows if value not in (None, "", [])]
    width = max(len(name) for name, _ in kept)
    for name, value in kept:
        print(f"{name.ljust(width)}  " + value.replace("\n", "\n" + " " * (width + 2)))


def moment(unix: object) -> str:
    """A time of day with its date, local, and its distance from UTC."""
    if not isinstance(unix, int | float):
        return ""
    return datetime.datetime.fromtimestamp(unix).astimezone().isoformat(" ", "seconds")


def size(count: int) -> str:
    """`12.3 MB`."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


@contextlib.contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr while the block runs, where that is a terminal; yields what advances it."""
    if not lively(sys.stderr):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.update(task, advance=count)


class Follower:
    """Shows events as they come: output to stdout and stderr, everything else as a progress line on stderr."""

    def __init__(self, out: IO[bytes] | None = None, err: IO[bytes] | None = None) -> None:
        self._out = out or sys.stdout.buffer
        self._err = err or sys.stderr.buffer
        self._held = {"stdout": b"", "stderr": b""}
        self._terminal, self._live = sys.stderr.isatty(), lively(sys.stderr)
        self._status: Status | None = None
        self._away = False
        self.final: dict[str, Any] | None = None
        """The data of the last state, once it is terminal."""

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._hide()
        for name in ("stdout", "stderr"):
            held, self._held[name] = self._held[name], b""
            if held:
                # On a terminal what follows begins a line of its own.
                self._write(name, held + b"\n" if self._terminal else held)

    def event(self, event: Event) -> None:
        self._away = False
        kind, data = event["type"], event["data"]
        if kind == "output":
            raw = base64.b64decode(data["base64"]) if "base64" in data else data["text"].encode("utf-8", "replace")
            self._output(data["stream"], raw)
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
        if self._live or not self._away:
            self._progress(f"waiting for the node: {reason}")
        self._away = True

    def _output(self, stream: str, data: bytes) -> None:
        if not self._terminal:
            self._write(stream, data)
            return
        # Whole lines, so that what is told beside them never lands in one.
        whole, _, rest = (self._held[stream] + data).rpartition(b"\n")
        if len(rest) > MAX_HELD_LINE:
            whole, rest = whole + b"\n" + rest if whole else rest, b""
        self._held[stream] = rest
        if whole:
            self._hide()
            self._write(stream, whole + b"\n")
            self._show()

    def _write(self, stream: str, data: bytes) -> None:
        file, terminal = (self._err, sys.stderr) if stream == "stderr" else (self._out, sys.stdout)
        if terminal.isatty():
            data = safe(data.decode("utf-8", "replace")).encode()
        file.write(data)
        file.flush()

    def _progress(self, text: str) -> None:
        if not self._live:
            note(text)
            return
        if self._status is None:
            from rich.console import Console
            from rich.status import Status as RichStatus

            self._status = RichStatus("", console=Console(stderr=True))
        from rich.text import Text

        self._status.update(Text(safe(text)))
        self._status.start()

    def _hide(self) -> None:
        if self._status is not None:
            self._status.stop()

    def _show(self) -> None:
        if self._status is not None:
            self._status.start()


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
    told = [str(data[name]) for name in ("reason", "detail") if data.get(name)]
    return " ".join(words) + (f": {', '.join(told)}" if told else "")


def _progress_line(data: dict[str, Any]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in data.items() if name != "phase" and value is not None)
    return f"{data.get('phase', '')}{': ' + rest if rest else ''}"


OWN_FAILURES = frozenset({"exit", "timeout", "oom", "pids", "disk", "output"})
"""Reasons that are the task's own, not its agent's."""

_STYLES = {
    "completed": "green",
    "ready": "green",
    "running": "cyan",
    "working": "cyan",
    "assigned": "cyan",
    "preparing": "cyan",
    "failed": "red",
    "refused": "red",
    "cancelled": "yellow",
    "busy": "yellow",
}
