"""Views for a person: tables, facts, JSON, progress bars. On a terminal with rich, elsewhere as plain lines."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Callable, Iterator, Sequence

from chorus.client.output import Follower, lively, note
from chorus.encoding import is_unicode
from chorus.sanitise import json_safe, visible

__all__ = [
    "Follower",
    "bar",
    "counted",
    "document",
    "facts",
    "json_line",
    "lively",
    "moment",
    "note",
    "safe",
    "size",
    "table",
]

FOLDED = 12
"""A column that may break keeps this width, or its own if that is less."""


def document(value: object) -> None:
    """One JSON document on stdout."""
    print(_json(value, indent=2))


def json_line(value: object) -> None:
    print(_json(value), flush=True)


def _json(value: object, indent: int | None = None) -> str:
    """Exact for whoever parses it, and nothing that a terminal obeys or hides."""
    return json_safe(json.dumps(value, indent=indent, ensure_ascii=not is_unicode(sys.stdout)))


def safe(text: object) -> str:
    """A name, or other text on one line, fit for a terminal."""
    return visible(str(text))


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
    texts = [[safe("" if cell is None else cell) for cell in row] for row in rows]
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
    """Columns that fit into `width`, without as few of `spare` as possible; None where even the others do not."""
    for count in range(len(spare) + 1):
        kept = [at for at, column in enumerate(columns) if column not in spare[:count]]
        if sum(widths[at] for at in kept) + 2 * (len(kept) - 1) <= width:
            return kept
    return None


COMMAND = ("command", "")
"""Names of the rows that show commands: of the first, and of those after it."""


def facts(rows: Sequence[tuple[str, object]]) -> None:
    """Names and values; values that are None or empty are left out. Only a command has lines, which stand under its
    first; whatever else holds a line's end is a name that somebody made so."""
    kept = [(name, visible(str(value), lines=name in COMMAND)) for name, value in rows if value not in (None, "", [])]
    width = max(len(name) for name, _ in kept)
    for name, value in kept:
        print(f"{name.ljust(width)}  " + value.replace("\n", "\n" + " " * (width + 2)))


def moment(unix: object) -> str:
    """A time of day with its date, local, and its distance from UTC."""
    if not isinstance(unix, int | float):
        return ""
    return datetime.datetime.fromtimestamp(unix).astimezone().isoformat(" ", "seconds")


def counted(count: int, what: str) -> str:
    """`1 version`, `2 versions`."""
    return f"{count} {what}" + ("" if count == 1 else "s")


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


_STYLES = {
    "completed": "green",
    "ready": "green",
    "running": "cyan",
    "working": "cyan",
    "assigned": "cyan",
    "preparing": "cyan",
    "moved": "cyan",
    "failed": "red",
    "refused": "red",
    "cancelled": "yellow",
    "busy": "yellow",
}
