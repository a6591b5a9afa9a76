"""Writes log events: lines for people, or one JSON object a line (CHORUS_LOG_FORMAT), from CHORUS_LOG_LEVEL.

twistd decides where (stdout, `--logfile`, rotation); this only changes the words. The `event` field, where there is
one, is a stable name that operators can search for (docs/events.md).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import sys
import traceback
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from constantly import NamedConstant  # type: ignore[import-untyped]
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    LogPublisher,
    formatEvent,
    globalLogPublisher,
)
from zope.interface import implementer

from chorus.twisted_private import file_of, has_observers, log_files

if TYPE_CHECKING:
    from twisted.python.failure import Failure

MAX_FIELD = 8192
"""Characters of one field; a log line is no place for a payload."""
MAX_TRACEBACK = 32 * 1024
QUIET = ("twisted", "log_legacy", "zeroconf", "asyncio")
"""Namespaces of libraries: from `warn` up alone, unless everything is asked for by `debug`."""
SPEAKS = "twisted.scripts"
"""Of those, twistd itself: its greeting is the first sign of a start, and says the versions."""
_OURS = frozenset({"isError", "failure", "why", "system", "time", "message", "format", "text"})


def install(level: str, format: str, publisher: LogPublisher = globalLogPublisher) -> None:
    """Put our words in place of twistd's, into the same file; stdout where there is none. `level` and `format` are the
    settings' words. Observers that write no file (trial's, a test's) stay as they are."""
    files = log_files(publisher)
    for each in files:
        publisher.removeObserver(each)
        publisher.addObserver(observer(file_of(each), level, format))
    if publisher is globalLogPublisher and not has_observers(publisher):
        publisher.addObserver(observer(sys.stdout, level, format))


def take_over(level: str, format: str, publisher: LogPublisher = globalLogPublisher) -> None:
    """`install` as soon as the log is open: twistd opens it after the service is made, and writes lines of its own
    before the service is started."""
    publisher.addObserver(_TakeOver(level, format, publisher))


def observer(file: IO[Any], level: str, format: str) -> ILogObserver:
    """An observer that writes to `file`, filtered."""
    lines: Callable[[LogEvent], str | None] = json_line if format == "json" else text_line
    predicate = LogLevelFilterPredicate(LogLevel.levelWithName(level))
    if level != "debug":
        least = max(LogLevel.warn, LogLevel.levelWithName(level), key=_rank)
        for namespace in QUIET:
            predicate.setLogLevelForNamespace(namespace, least)
        predicate.setLogLevelForNamespace(SPEAKS, LogLevel.levelWithName(level))
    filtered: ILogObserver = FilteringLogObserver(_Guarded(FileLogObserver(file, lines)), [predicate])
    return filtered


@implementer(ILogObserver)
class _TakeOver:
    """Sees the first event before twistd's observer, which came later, and so can put another into its place."""

    def __init__(self, level: str, format: str, publisher: LogPublisher) -> None:
        self._words = level, format
        self._publisher = publisher
        self._done = False

    def __call__(self, event: LogEvent) -> None:
        # It stays: to leave the list while an event goes along it would hide that event from the next one.
        if not self._done and log_files(self._publisher):
            self._done = True
            install(*self._words, self._publisher)


@implementer(ILogObserver)
class _Guarded:
    """A full disk or a closed pipe under the log must not reach whoever logged."""

    def __init__(self, inner: FileLogObserver) -> None:
        self._inner = inner

    def __call__(self, event: LogEvent) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._inner(event)


def text_line(event: LogEvent) -> str:
    """`2026-11-21T03:00:01.123Z info task.submitted task 01h… accepted`, then a traceback if there is one."""
    name = event.get("event")
    head = f"{_time(event)} {_level(event):<5} "
    text = head + (f"{_clean(str(name), False)} " if name else "") + _clean(_message(event), False) + "\n"
    trace = _traceback(event)
    return text + (_clean(trace, True).rstrip("\n") + "\n" if trace else "")


def json_line(event: LogEvent) -> str:
    """{time, level, event, logger, message, …fields, traceback?} on one line."""
    document: dict[str, object] = {
        "time": _time(event),
        "level": _level(event),
        "event": event.get("event"),
        "logger": event.get("log_namespace"),
        "message": _cut(_message(event), MAX_FIELD),
    }
    for name, value in event.items():
        if not name.startswith("log_") and name not in document and name not in _OURS:
            document[name] = _field(value)
    if trace := _traceback(event):
        document["traceback"] = trace
    return json.dumps({key: value for key, value in document.items() if value is not None}, default=str) + "\n"


def _message(event: LogEvent) -> str:
    text = formatEvent(event)
    failure: Failure | None = event.get("log_failure")
    if failure is not None and failure.getErrorMessage() not in text:
        text = (
            f"{text}: {type(failure.value).__name__}: {failure.getErrorMessage()}"
            if text
            else failure.getErrorMessage()
        )
    return text


def _field(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    try:
        return _cut(str(value), MAX_FIELD)
    except Exception:
        return f"<{type(value).__name__}>"


def _traceback(event: LogEvent) -> str:
    failure: Failure | None = event.get("log_failure")
    if failure is None:
        return ""
    try:
        return _cut(failure.getTraceback(), MAX_TRACEBACK)
    except Exception:
        return _cut("".join(traceback.format_exception_only(failure.type, failure.value)), MAX_TRACEBACK)


def _clean(text: str, lines: bool) -> str:
    """Without control characters, so that what a peer sent cannot forge lines or drive a terminal."""
    return "".join(
        char if char.isprintable() or (lines and char == "\n") else char.encode("unicode_escape").decode()
        for char in text
    )


def _cut(text: str, maximum: int) -> str:
    return text if len(text) <= maximum else text[:maximum] + "…"


def _time(event: LogEvent) -> str:
    moment = datetime.datetime.fromtimestamp(event.get("log_time", 0.0), datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return level.name if isinstance(level, NamedConstant) else "info"


def _rank(level: NamedConstant) -> int:
    return [each.name for each in LogLevel.iterconstants()].index(level.name)
