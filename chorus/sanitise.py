"""Makes foreign text fit for a terminal: texts of tasks, models and peers, file names, titles (spec/portal.md 7).

Pure, and the one place for it. `Sanitiser` takes a stream of output apart piece by piece: colours, tabs and line ends
stay, all that could drive a terminal or hide text is taken away. `visible` is for names and prose: it leaves an escape
(`\\x1b`) where the other takes away, so that two names that differ look different. `json_safe` is for JSON documents,
whose data stay exact.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from functools import lru_cache
from typing import Final

MAX_SGR: Final = 32
"""Characters of a colour sequence, `ESC [` and `m` included: a 24-bit colour with bold and underline takes 23."""
MAX_STRING: Final = 4096
"""Characters of an OSC, DCS, APC, PM or SOS string or of a CSI sequence without an end; so much is dropped, and what
follows is text again. Else one lost byte would swallow all that comes after it."""
MAX_MARKS: Final = 8
"""Combining marks on one character; languages need up to four, a tower of them covers the lines above."""
MAX_LINE: Final = 64 * 1024
"""Bytes of a line in UTF-8; a longer one is broken. Terminals and pagers hold lines as a whole."""
MAX_NAME: Final = 4096
"""Characters of a name on one line; a path has no more."""
MAX_STYLE: Final = 8
"""Colour sequences in force at once that are remembered, the latest of them."""
RESET: Final = "\x1b[0m"

_EMOJI = "\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
"""Blocks whose symbols a zero-width joiner may join."""
_PLAIN = (
    "\x20-\x7e\xa0-\xac\xae-\u02ff\u0370-\u0482\u048a-\u058f\u1e00-\u200a\u2010-\u2027\u202f-\u205f\u20a0-\u20cf"
    "\u2100-\u218f\u2400-\u25ff\u27c0-\u2aff\u3000-\u3029\u3030-\u3098\u309b-\u3163\u3165-\ua48f\uac00-\ud7a3\uff01-\uff9f"
)
"""Blocks without marks, controls or emoji: the fast way. All else is looked at one by one."""
_RUN = re.compile(f"[\t\n{_PLAIN}]+")
_ODD = re.compile(f"[^\t\n{_PLAIN}]")
_ODD_OR_SPACE = re.compile(f"[^{_PLAIN}]")
_IS_EMOJI = re.compile(f"[{_EMOJI}]")
_JOINER = "\u200d"
_SELECTOR = "\ufe0f"
"""Asks for the coloured form of the symbol before it."""
_SEEN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Format characters that are drawn: signs around Arabic, Syriac and Kaithi numbers."""
_IGNORABLE = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufdd0-\ufdef"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U00013430-\U0001345f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Drawn as nothing, or not by themselves: Unicode's Default_Ignorable_Code_Point (variation selectors, blank letters,
tags, and places that are kept for more of them), noncharacters, and the blocks of format characters."""
_DROPPED = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x8f\x91-\x97\x99\x9a\x9c\xad\u061c\u200b\u200c\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff0-\ufffb\U000e0000-\U000e00ff]+"
)
"""Hidden from a stream whatever is around them, many at once: the fast way of hostile text."""
_ABORTED = re.compile("(?:(?:\x1b\\[|\x9b)[\x20-\x3f]{0,99}(?=[\x1b\x80-\x9f]))++")
"""CSI sequences of which each is cut off by the next."""
_CSI_BODY = re.compile(r"[\x20-\x3f]*")
_COLOUR = re.compile(r"\x1b\[([0-9;:]{0,29})m")
_OSC_END = re.compile("[\x07\x18\x1a\x1b\x9c]")
_STRING_END = re.compile("[\x18\x1a\x1b\x9c]")
_INTRODUCERS = {"\x90": "P", "\x98": "X", "\x9b": "[", "\x9d": "]", "\x9e": "^", "\x9f": "_"}
"""C1 controls that stand for ESC and this."""
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f"
"""The blocks that towers are made of."""
_TOO_MANY = re.compile(f"(?<=[{_MARKS}]{{{MAX_MARKS}}})[{_MARKS}]")


class _State(enum.Enum):
    TEXT = enum.auto()
    ESCAPE = enum.auto()
    INTERMEDIATE = enum.auto()
    CSI = enum.auto()
    STRING = enum.auto()


class _Effect(enum.Enum):
    """Of a colour on those in force."""

    RESET = enum.auto()
    REPLACE = enum.auto()
    ADD = enum.auto()
    HIDE = enum.auto()


class Sanitiser:
    """One stream of text. The joined results of `feed` are the same however the text is cut into chunks.

    A carriage return begins the line anew, so `progress` takes its place once more text follows: a line end, or what
    takes the line back on a terminal that can (and never more than that line). One before a line end is nothing.
    """

    def __init__(self, progress: str = "\n") -> None:
        self._progress = progress
        self._out: list[str] = []
        self._state = _State.TEXT
        self._osc = False
        self._held: str | None = None
        """A CSI sequence so far, while it may still be a colour."""
        self._length = 0
        """Of the sequence so far."""
        self._line = 0
        """Bytes of the line so far."""
        self._returned = False
        """A carriage return that nothing has followed yet."""
        self._marks = 0
        self._after_emoji = False
        self._joining = False
        """A joiner after an emoji, which waits for another one."""
        self._style: list[str] = []

    @property
    def style(self) -> str:
        """The colours in force: to be said again before the next piece, where a reset followed this one."""
        return "".join(self._style)

    def feed(self, text: str) -> str:
        """The part of it that may be shown."""
        at, end = 0, len(text)
        while at < end:
            if self._state is _State.TEXT:
                at = self._text(text, at)
            elif self._state is _State.STRING:
                at = self._string(text, at)
            elif self._state is _State.CSI:
                at = self._csi(text, at)
            else:
                at = self._escape(text, at)
        out, self._out = self._out, []
        return "".join(out)

    def end(self) -> str:
        """The stream is over, and what is unfinished dropped: a reset, where colours are in force."""
        return RESET if self._style else ""

    # Text

    def _text(self, text: str, at: int) -> int:
        if run := _RUN.match(text, at):
            self._marks, self._after_emoji, self._joining = 0, False, False
            self._lines(run[0])
            return run.end()
        if dropped := _DROPPED.match(text, at) or _ABORTED.match(text, at):
            return dropped.end()
        char = text[at]
        if char == "\x1b":
            if colour := _COLOUR.match(text, at):
                self._colour(colour[0])
                return colour.end()
            self._state, self._length = _State.ESCAPE, 0
        elif char == "\r":
            self._returned = True
            self._marks, self._after_emoji, self._joining = 0, False, False
        elif char in _INTRODUCERS:
            self._begin(_INTRODUCERS[char], None)
        else:
            self._odd(char)
        return at + 1

    def _odd(self, char: str) -> None:
        """A character that is none of the plain ones, and no control that begins something."""
        if char == _JOINER:
            self._joining = self._after_emoji
        elif _IS_EMOJI.match(char):
            self._put(char, _JOINER if self._joining else "")
            self._marks, self._after_emoji, self._joining = 0, True, False
        elif (category := unicodedata.category(char))[0] == "M":
            if self._marks < MAX_MARKS:
                whole = self._put(char)
                self._marks += 1
                self._after_emoji, self._joining = whole and self._after_emoji and char == _SELECTOR, False
        elif not _hidden(char, category):
            self._put("\ufffd" if category == "Cs" else char)
            self._marks, self._after_emoji, self._joining = 0, False, False

    def _lines(self, run: str) -> None:
        """Plain characters, tabs and line ends."""
        if self._returned:
            self._return(run[0])
        size = len(run) if run.isascii() else len(run.encode())
        if self._line + size <= MAX_LINE:
            self._out.append(run)
            last = run.rfind("\n")
            self._line = self._line + size if last < 0 else len(run[last + 1 :].encode())
            return
        for number, line in enumerate(run.split("\n")):
            if number:
                self._out.append("\n")
                self._line = 0
            self._broken(line.encode())

    def _broken(self, line: bytes) -> None:
        """A line or the rest of one, broken where it is too long."""
        at = 0
        while self._line + len(line) - at > MAX_LINE:
            cut = at + MAX_LINE - self._line
            while cut > at and line[cut] & 0xC0 == 0x80:
                cut -= 1
            self._out.append(line[at:cut].decode() + "\n")
            self._line, at = 0, cut
        self._out.append(line[at:].decode())
        self._line += len(line) - at

    def _put(self, char: str, joiner: str = "") -> bool:
        """One character, after what joins it to the one before; false where the line had to end between them."""
        if self._returned:
            self._return(char)
        size = len((joiner + char).encode())
        fits = self._line + size <= MAX_LINE
        if not fits:
            joiner, size = "\n", len(char.encode())
            self._line = 0
        self._out.append(joiner + char)
        self._line += size
        return fits

    def _return(self, following: str) -> None:
        self._returned = False
        if following[0] != "\n" and self._line:
            # Taking a line back must not paint it in the text's colours.
            style = self.style if self._progress != "\n" else ""
            self._out.append(RESET + self._progress + style if style else self._progress)
            self._line = 0

    # Sequences

    def _begin(self, introducer: str, held: str | None) -> None:
        self._length, self._held, self._osc = 0, held, introducer == "]"
        self._state = _State.CSI if introducer == "[" else _State.STRING

    def _escape(self, text: str, at: int) -> int:
        char = text[at]
        plain = self._state is _State.ESCAPE
        if plain and char in "[]PX^_":
            self._begin(char, "\x1b[")
        elif plain and char == "\x1b":
            pass
        elif " " <= char <= "/" and self._length < MAX_STRING:
            self._state, self._length = _State.INTERMEDIATE, self._length + 1
        elif "0" <= char <= "~":
            self._state = _State.TEXT
        else:
            self._state = _State.TEXT
            return at
        return at + 1

    def _csi(self, text: str, at: int) -> int:
        body = _CSI_BODY.match(text, at, at + MAX_STRING - self._length)
        assert body is not None
        self._length += len(body[0])
        if self._held is not None:
            self._held = self._held + body[0] if len(self._held) + len(body[0]) < MAX_SGR else None
        at = body.end()
        if self._length >= MAX_STRING:
            self._state = _State.TEXT
        elif at < len(text):
            self._state = _State.TEXT
            if "@" <= text[at] <= "~":
                if self._held is not None and _COLOUR.fullmatch(colour := self._held + text[at]):
                    self._colour(colour)
                return at + 1
        return at

    def _string(self, text: str, at: int) -> int:
        limit = at + MAX_STRING - self._length
        end = (_OSC_END if self._osc else _STRING_END).search(text, at, limit)
        if end is not None:
            # ESC \ ends it; ESC and anything else ends it too, and begins something.
            self._state = _State.ESCAPE if end[0] == "\x1b" else _State.TEXT
            self._length = 0
            return end.end()
        if limit <= len(text):
            self._state = _State.TEXT
            return limit
        self._length += len(text) - at
        return len(text)

    def _colour(self, sequence: str) -> None:
        self._after_emoji = self._joining = False
        effect = _effect(sequence)
        if effect is _Effect.RESET:
            if self._style:
                self._out.append(RESET)
                self._style = []
        elif effect is not _Effect.HIDE and self._line + len(sequence) <= MAX_LINE:
            self._out.append(sequence)
            self._line += len(sequence)
            kept = self._style if effect is _Effect.ADD else []
            self._style = [*kept, sequence][-MAX_STYLE:]


def sanitise(text: str) -> str:
    """A whole text; see `Sanitiser`."""
    sanitiser = Sanitiser()
    return sanitiser.feed(text) + sanitiser.end()


def visible(text: str, *, lines: bool = False) -> str:
    """Names and prose: everything that would drive a terminal, hide, or is not drawn by itself (a variation selector)
    is shown as an escape, colours too; with `lines`, line ends and tabs stay. Bytes of file names that are no UTF-8
    become `\\xff`."""
    odd = _ODD if lines else _ODD_OR_SPACE
    if not lines:
        text = text[: MAX_NAME + 1]
    if odd.search(text):
        text = odd.sub(_escaped, _whole(text))
    if not lines and len(text) > MAX_NAME:
        text = text[:MAX_NAME] + "…"
    return sanitise(text)


def json_safe(text: str) -> str:
    """A JSON document in other words: what a terminal would obey or hide is written as `\\u…`, which means the same."""
    return _TOO_MANY.sub(lambda match: _json_escape(match[0]), _ODD.sub(_json_escaped, text))


def _whole(text: str) -> str:
    """File names in a locale that is not UTF-8 arrive as surrogates: as text where they are UTF-8 after all."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    if char == _JOINER and _stands_between_emoji(match.string, match.start()):
        return char
    return _escape(char)


@lru_cache(maxsize=4096)
def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode() if _blank(char) else char


def _stands_between_emoji(text: str, at: int) -> bool:
    return bool(_IS_EMOJI.match(text[at - 1 : at]) and _IS_EMOJI.match(text[at + 1 : at + 2]))


def _json_escaped(match: re.Match[str]) -> str:
    return _json_escape_if_blank(match[0])


@lru_cache(maxsize=4096)
def _json_escape_if_blank(char: str) -> str:
    return _json_escape(char) if _blank(char) else char


def _json_escape(char: str) -> str:
    code = ord(char)
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def _blank(char: str) -> bool:
    """True if a name, or a document, could have it or not and look the same."""
    category = unicodedata.category(char)
    return category == "Cs" or _hidden(char, category) or bool(_IGNORABLE.match(char))


def _hidden(char: str, category: str) -> bool:
    """Controls, and format characters that are not drawn: bidirectional, joiners, tags, spaces without width; those of
    Unicode's later versions too."""
    if category == "Cn":
        return bool(_IGNORABLE.match(char))
    return category in {"Cc", "Zl", "Zp"} or (category == "Cf" and char not in _SEEN)


@lru_cache(maxsize=256)
def _effect(sequence: str) -> _Effect:
    words = sequence[2:-1].split(";")
    if _conceals(words):
        return _Effect.HIDE
    if not any(word.strip("0") for word in words):
        return _Effect.RESET
    return _Effect.ADD if words[0].strip("0") else _Effect.REPLACE


def _conceals(words: list[str]) -> bool:
    """True if parameters of SGR hide text (8), or may for a terminal that reads an odd colour in another way."""
    at = 0
    while at < len(words):
        number = int(words[at].partition(":")[0] or "0")
        if number == 8:
            return True
        if number not in {38, 48, 58} or ":" in words[at]:
            at += 1
            continue
        # 38;5;8 and 38;2;8;8;8 are colours.
        length = {"5": 3, "2": 5}.get(words[at + 1] if at + 1 < len(words) else "")
        if length is None or at + length > len(words) or any(":" in word for word in words[at : at + length]):
            return True
        at += length
    return False
