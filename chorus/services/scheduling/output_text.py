"""Output as JSON: text where it is UTF-8 and not longer so than base64 (pure)."""

from __future__ import annotations

MIN_BASE64 = 256
"""Bytes of text under which it stays text, however many control characters it holds: a few coloured words are text."""


def as_text(data: bytes) -> str | None:
    """None for what is no UTF-8, and for so many control characters that base64 is smaller."""
    size = len(data)
    if size >= MIN_BASE64 and size + escapes(data) > (size + 2) // 3 * 4:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def escapes(data: bytes) -> int:
    """Bytes that JSON text adds to UTF-8: a NUL becomes six, a line's end two."""
    plain = len(data.translate(None, _LONG))
    short = len(data) - len(data.translate(None, _SHORT))
    return 5 * (len(data) - plain) + short


_SHORT = b'\b\t\n\f\r"\\'
"""JSON writes each as a backslash and one character."""
_LONG = bytes(byte for byte in range(0x20) if byte not in _SHORT)
"""JSON writes each as \\u00xx."""


def unfinished(data: bytes) -> int:
    """How many bytes at the end (0 to 3) begin a UTF-8 character whose rest is missing."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if 0xF0 <= byte < 0xF5 else 3 if 0xE0 <= byte < 0xF0 else 2 if 0xC2 <= byte < 0xE0 else 1
        return back if needed > back else 0
    return 0
