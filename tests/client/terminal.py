"""A terminal for tests: a real pty, and the rows that somebody would see on it."""

from __future__ import annotations

import os
import re
import termios
import unicodedata
from typing import IO

COLUMNS = 40
_TOKEN = re.compile(r"\x1b\[[0-9;:]*m|\x1b\[K|\r|\n|\t|.", re.DOTALL)


class Terminal:
    """`slave` is the text stream of a program that writes to it; `rows` what is seen after it was read."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (24, COLUMNS))
        os.set_blocking(self._master, False)
        self.slave: IO[str] = open(slave, "w", encoding=encoding, errors="replace")  # noqa: SIM115
        self._encoding = encoding
        self._screen = Screen()

    def rows(self) -> list[str]:
        try:
            while data := os.read(self._master, 65536):
                self._screen.take(data.decode(self._encoding))
        except BlockingIOError:
            pass
        return self._screen.rows()

    def close(self) -> None:
        self.slave.close()
        os.close(self._master)


class Screen:
    """What a program may ask of it is what we ask: the row anew, its erasure, colours. All else fails."""

    def __init__(self) -> None:
        self._rows: list[list[str]] = [[]]
        self._column = 0

    def take(self, text: str) -> None:
        for token in _TOKEN.findall(text):
            if token == "\r":
                self._column = 0
            elif token == "\n":
                self._rows.append([])
            elif token == "\x1b[K":
                del self._rows[-1][self._column :]
            elif not token.startswith("\x1b["):
                self._put(token)

    def _put(self, char: str) -> None:
        if char != "\t" and unicodedata.category(char) in {"Cc", "Cs"}:
            raise AssertionError(f"{char!r} reached the terminal")
        if self._column == COLUMNS:
            self._rows.append([])
            self._column = 0
        row = self._rows[-1]
        row += " " * (self._column + 1 - len(row))
        row[self._column] = char
        self._column += 1

    def rows(self) -> list[str]:
        return ["".join(row) for row in self._rows]
