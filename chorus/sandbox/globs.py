"""Matches a path against all patterns at once, usually with one look-up a character; the work is bounded.

`*` and `?` within one name, `**` across folders, `[…]` classes; a folder's name means all below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_WORK = 40_000_000
"""Units of work for which patterns may be matched in one walk; one is a character whose step is known, some fifty
nanoseconds. A hundred thousand names of the longest kind are 25 million characters."""
STEP_WORK = 40
WORD_BITS = 64
"""A step that is taken for the first time: so many units, and one for each word of a set of states."""
CLASS_WORK = 8
"""Units of asking one `[…]` about a character for the first time."""
MAX_STEPS_BYTES = 8 * 1024 * 1024
"""Of known steps, about; beyond that they are forgotten and taken anew."""
STEP_BYTES = 400
"""Of one known step beside its set of states."""
MAX_CHARACTERS = 1000
"""Different ones of which it is known which places take them."""

OUTPUT_PREFIXES = ("/workspace/output/", "./")


class _Row(dict[str, "_Row"]):
    """A set of states, and what it comes to after each character that it has met."""

    __slots__ = ("_globs", "states")

    def __init__(self, globs: Globs, states: int) -> None:
        super().__init__()
        self._globs = globs
        self.states = states

    def __missing__(self, char: str) -> _Row:
        if not self.states:
            return self
        after = self[char] = self._globs.step(self, char)
        return after


class Globs:
    """Linear in the path whatever the patterns are: both come from whoever wrote the task.

    A set of states is an integer with a bit for each place in a pattern, so that all of them move on with a few
    operations. What they come to is remembered, within bounds. Patterns and names can be made for each other so that
    hardly any step is taken twice: `exhausted` says when that has cost enough.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._size = 0
        self._start = self._accept = 0
        self._any = self._star = self._deep = 0
        self._folders = self._within = 0
        self._literals: dict[str, int] = {}
        self._classes: dict[re.Pattern[str], int] = {}
        self._consumes: dict[str, int] = {}
        self._ends: list[tuple[str, int]] = []
        for pattern in patterns:
            self._add(pattern)
        self._rows: dict[int, _Row] = {}
        self._steps = 0
        self._most_steps = MAX_STEPS_BYTES // (STEP_BYTES + self._size // 8)
        self._step_work = STEP_WORK + self._size // WORD_BITS
        self.work = 0
        """Units so far."""
        self.start = self._closed(self._start)
        """States before the first character. States are 0 where no pattern can match, whatever follows."""

    def matches(self, path: str) -> bool:
        return self.accepts(self.feed(self.start, path))

    def accepts(self, states: int) -> bool:
        return bool(states & self._accept)

    def idle(self, seen: int) -> list[str]:
        """Patterns that accept none of the `seen` states, which are those of all paths together."""
        return [pattern for pattern, ends in self._ends if not seen & ends]

    @property
    def exhausted(self) -> bool:
        return self.work > MAX_WORK

    def feed(self, states: int, text: str) -> int:
        """The states after `text`, a further piece of the path."""
        self.work += len(text)
        row = self._row(states)
        for char in text:
            row = row[char]
        return row.states

    def step(self, row: _Row, char: str) -> _Row:
        """One that is not known yet."""
        self.work += self._step_work
        if self._steps >= self._most_steps:
            self._rows.clear()
            row.clear()
            self._steps = 0
        self._steps += 1
        return self._row(self._after(row.states, char))

    def _row(self, states: int) -> _Row:
        row = self._rows.get(states)
        if row is None:
            row = self._rows[states] = _Row(self, states)
        return row

    def _after(self, states: int, char: str) -> int:
        if char == "/":
            after = (states & self._literals.get("/", 0)) << 1 | states & self._deep | (states & self._within) >> 1
        else:
            consumes = self._consumes.get(char)
            if consumes is None:
                if len(self._consumes) >= MAX_CHARACTERS:
                    self._consumes.clear()
                consumes = self._consumes[char] = self._consuming(char)
            after = (states & consumes) << 1 | states & (self._star | self._deep | self._within)
        return self._closed(after)

    def _closed(self, states: int) -> int:
        """With the places reached by letting a `*`, a `**` or a `**/` match nothing more."""
        skips = self._star | self._deep
        while (more := states | (states & skips) << 1 | (states & self._folders) << 2) != states:
            states = more
        return states

    def _consuming(self, char: str) -> int:
        self.work += CLASS_WORK * len(self._classes)
        found = self._any | self._folders | self._literals.get(char, 0)
        for one, places in self._classes.items():
            if one.fullmatch(char):
                found |= places
        return found

    def _place(self) -> int:
        self._size += 1
        return 1 << self._size - 1

    def _add(self, given: str) -> None:
        pattern = given
        for prefix in OUTPUT_PREFIXES:
            pattern = pattern.removeprefix(prefix)
        pattern = pattern.rstrip("/")
        self._start |= 1 << self._size
        at = 0
        while at < len(pattern):
            if pattern.startswith("**/", at):
                while pattern.startswith("**/", at):
                    at += 3
                self._folders |= self._place()
                self._within |= self._place()
            elif pattern[at] == "*":
                run = at
                while pattern.startswith("*", at) and not pattern.startswith("**/", at):
                    at += 2 if pattern.startswith("**", at) else 1
                if at - run > 1:
                    self._deep |= self._place()
                else:
                    self._star |= self._place()
            elif pattern[at] == "?":
                self._any |= self._place()
                at += 1
            elif (one := _name_class(pattern, at)) is not None:
                self._classes[one[0]] = self._classes.get(one[0], 0) | self._place()
                at = one[1]
            else:
                self._literals[pattern[at]] = self._literals.get(pattern[at], 0) | self._place()
                at += 1
        # Matched; and after a slash, whatever lies below what matched.
        end, below = self._place(), self._place()
        self._literals["/"] = self._literals.get("/", 0) | end
        self._deep |= below
        self._size += 1  # where `below` would skip to
        self._accept |= end | below
        self._ends.append((given, end | below))


def _name_class(pattern: str, at: int) -> tuple[re.Pattern[str], int] | None:
    """The `[…]` at this place, as an expression for one character that is no slash, and where it ends. None where there
    is none, or one such as [z-a], which matches nothing but itself."""
    if pattern[at] != "[" or (end := pattern.find("]", at + 2)) < 0:
        return None
    body = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[").replace("&&", "&\\&")
    body = body.replace("||", "|\\|").replace("--", "-\\-").replace("~~", "~\\~")
    if not body.startswith("!"):
        body = body if body[0] != "^" else "\\" + body
        text = f"(?!/)[{body}]"
    else:
        text = f"[^/{body[1:]}]"
    try:
        return re.compile(text, re.DOTALL), end + 1
    except re.error:
        return None
