"""Statistics of a text: lines, words, characters, and its most frequent words."""

import re
from collections import Counter

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words(text):
    """The words of `text` in order, folded to lower case; numbers and punctuation are no words."""
    return [match.group().casefold() for match in WORD.finditer(text)]


def stats(text, top=5):
    """Counts and the `top` most frequent words; ties come in alphabetical order."""
    counted = Counter(words(text))
    ranking = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return {
        "lines": len(text.splitlines()),
        "words": sum(counted.values()),
        "characters": len(text),
        "top": ranking[:top],
    }
