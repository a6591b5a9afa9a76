"""UTF-8 for file names, file contents and printed text, whatever the locale says."""

from __future__ import annotations

import codecs
import io
import locale
import os
import sys
from typing import TextIO


def begin() -> None:
    """For the first lines of a program. A locale of another encoding makes it start anew in Python's UTF-8 mode (same
    process, same arguments): names of files would be read and made in that encoding, and nothing else can change it.
    Then `speak`."""
    if codecs.lookup(sys.getfilesystemencoding()).name != "utf-8" and not sys.flags.utf8_mode:
        # The option, since an interpreter may have been told to ignore its variables.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    speak()


def speak() -> None:
    """Let whatever is printed be printed: in UTF-8 to files and pipes, on a terminal in its own encoding; what that one
    lacks is replaced. PYTHONIOENCODING has the last word on the encoding."""
    sys.stdout, sys.stderr = _open(sys.stdout), _open(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=_encoding(stream), errors="replace")


def is_unicode(stream: TextIO) -> bool:
    """True if the encoding takes every character."""
    name = getattr(stream, "encoding", None) or "utf-8"
    return codecs.lookup(name).name.startswith("utf")


def _open(stream: TextIO | None) -> TextIO:
    """None is what Python makes of a descriptor that was closed (`>&-`)."""
    return stream if stream is not None else open(os.devnull, "w", encoding="utf-8")


def _encoding(stream: io.TextIOWrapper) -> str:
    wanted = "" if sys.flags.ignore_environment else os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    if wanted:
        return stream.encoding
    # Terminals in the C locale are those of containers and cron, which show UTF-8.
    own = codecs.lookup(locale.getencoding()).name if stream.isatty() else "utf-8"
    return "utf-8" if own == "ascii" else own
