from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata
from time import process_time

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus import sanitise as module
from chorus.sanitise import MAX_LINE, MAX_MARKS, MAX_NAME, MAX_SGR, MAX_STRING, Sanitiser, json_safe, sanitise, visible
from tests.support import PureTestCase

COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
PIECES = (
    *("\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x1b\\", "\x9b", "\x9c", "\x9d", "\x90", "\x1b("),
    *("0", "8", "31", "38;5;8", ";", ":", "m", "H", "2J", "\x07", "\x18", "\r", "\n", "\t", "\b", "\x7f", "\x85", "\0"),
    *("a", "é", "日本", "\u0301", "\u0301" * 9, "\u202e", "\u2066", "\u200f", "\u061c", "\u200d", "\u200b", "\ufeff"),
    *("👩", "❤", "\ufe0f", "👩\u200d👩", "\U0001f3fd", "\U000e0041", "\u2028", "\ud800", "\udc9b", "\u3164", "\u0605"),
    *("\x1b[31m", "\x1b[0m", "\x1b[8m", "\x1b[0;8m", "\x1b[1;38;2;8;8;8m", "\x1b[" + "1;" * 20 + "m", "\x1b]0;t\x07"),
    *("x" * 40, "日" * 22, "x" * 64, "\x1b]" + "y" * 40, "\x1b[" + "1" * 40),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=24).map("".join)


def allowed(char: str) -> bool:
    category = unicodedata.category(char)
    return char in "\t\n" or char in module._SEEN or category not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def joins(text: str, at: int) -> bool:
    before = text[:at].removesuffix("\ufe0f")
    return bool(module._IS_EMOJI.match(before[-1:]) and module._IS_EMOJI.match(text[at + 1 : at + 2]))


IGNORABLE = (
    *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
    *(*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)),
    *(*range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)),
    *range(0xE0000, 0xE1000),
)
"""Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, version 15."""


class Properties(PureTestCase):
    def setUp(self) -> None:
        # Small enough to be met often.
        self.patch(module, "MAX_LINE", 64)
        self.patch(module, "MAX_STRING", 48)
        self.patch(module, "MAX_NAME", 15)

    @given(TEXTS)
    @settings(deadline=None, max_examples=120)
    def test_nothing_else_comes_out(self, text: str) -> None:
        out = sanitise(text)
        for sequence in COLOUR.findall(out):
            self.assertLessEqual(len(sequence), MAX_SGR)
            self.assertFalse(module._conceals(sequence[2:-1].split(";")))
        shown = COLOUR.sub("", out)
        for at, char in enumerate(shown):
            if char == "\u200d":
                self.assertTrue(joins(shown, at))
            else:
                self.assertTrue(allowed(char), hex(ord(char)))
        marks = re.sub(r"[^M]", " ", "".join(unicodedata.category(char)[0] for char in shown))
        self.assertLessEqual(max(map(len, marks.split()), default=0), MAX_MARKS)
        self.assertLessEqual(max(len(line.encode()) for line in shown.split("\n")), 64)

    @given(TEXTS)
    @settings(deadline=None, max_examples=120)
    def test_done_twice_is_done_once(self, text: str) -> None:
        once = sanitise(text)
        self.assertEqual(sanitise(once), once)
        for lines in (False, True):
            self.assertEqual(visible(visible(text, lines=lines), lines=lines), visible(text, lines=lines))
        self.assertEqual(json_safe(json_safe(text)), json_safe(text))

    @given(TEXTS, st.lists(st.integers(0, 1000), max_size=20), st.sampled_from(("\n", "\r\x1b[K")))
    @settings(deadline=None, max_examples=120)
    def test_chunks_do_not_matter(self, text: str, cuts: list[int], progress: str) -> None:
        whole, pieces = Sanitiser(progress), Sanitiser(progress)
        bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
        out = "".join(pieces.feed(text[a:b]) for a, b in itertools.pairwise(bounds))
        self.assertEqual(out, whole.feed(text))
        self.assertEqual((pieces.style, pieces.end()), (whole.style, whole.end()))

    @given(TEXTS)
    @settings(deadline=None, max_examples=60)
    def test_every_character_by_itself(self, text: str) -> None:
        sanitiser = Sanitiser()
        self.assertEqual("".join(map(sanitiser.feed, text)) + sanitiser.end(), sanitise(text))

    @given(TEXTS)
    @settings(deadline=None, max_examples=60)
    def test_a_name_is_one_line_of_what_can_be_seen(self, text: str) -> None:
        for shown in (visible(text), visible(text, lines=True).replace("\n", "").replace("\t", "")):
            self.assertEqual([char for char in shown if char != "\u200d" and (not allowed(char) or char in "\t\n")], [])

    @given(st.recursive(st.text(max_size=20) | st.sampled_from(PIECES), lambda inner: st.lists(inner, max_size=4)))
    @settings(deadline=None, max_examples=60)
    def test_json_says_the_same(self, value: object) -> None:
        text = json_safe(json.dumps(value, ensure_ascii=False, indent=1))
        self.assertEqual(json.loads(text), json.loads(json.dumps(value)))
        self.assertEqual([char for char in text if not allowed(char)], [])

    def test_the_fast_way_holds_nothing_that_is_looked_at(self) -> None:
        plain = re.findall(f"[{module._PLAIN}]", "".join(map(chr, range(0x110000))))
        odd = [char for char in plain if not allowed(char) or unicodedata.category(char)[0] == "M"]
        self.assertEqual((odd, [char for char in plain if module._IS_EMOJI.match(char)]), ([], []))


class Corpus(PureTestCase):
    def test_what_is_taken_away(self) -> None:
        for text, shown in (
            # Kubernetes CVE-2021-25743: clears the screen, moves, and writes what was not there.
            ("\x1b[2J\x1b[H\x1b[1;1Hroot#", "root#"),
            ("a\x1b[8mhidden\x1b[28mb", "ahidden\x1b[28mb\x1b[0m"),
            ("a\x1b[2K\x1b[1Ab\x1b[?1049hc\x1b[?25ld\x1b[6ne\x1b[5;31Hf\x1b[>cg\x1b[!ph\x1b[4 qi", "abcdefghi"),
            (
                "a\x1b]0;title\x07b\x1b]52;c;cm0=\x1b\\c\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\d\x1b]4;1;?\x07e",
                "abclinkde",
            ),
            ('a\x1bP$q"p\x1b\\b\x1b_Gf=1;AAAA\x1b\\c\x1b^pm\x1b\\d\x1bXsos\x1b\\e', "abcde"),
            # Passed through tmux: the inner ESC is doubled.
            ("a\x1bPtmux;\x1b\x1b]52;c;cm0=\x07\x1b\\b", "ab"),
            ("a\x1bcb\x1b7c\x1b8d\x1b(0e\x1b#8f\x1b=g\x1bNh\x1b%Gi", "abcdefghi"),
            # The same as C1 controls.
            ("a\x9b2Jb\x9d0;t\x07c\x90x\x9cd\x9fx\x9ce\x9ex\x9cf\x98x\x9cg\x85h\x9b31mi", "abcdefghi"),
            ("a\0b\x05c\x07d\be\x0bf\x0cg\x0eh\x0fi\x7fj", "abcdefghij"),
            # A sequence in which another begins, or that is given up.
            ("a\x1b[31\x1b[32mb", "a\x1b[32mb\x1b[0m"),
            ("a\x1b]0;t\x18b\x1b[3\x18c\x1b[3\nd", "abc\nd"),
            ("a\x1b[38;5;8mb\x1b[mc\x1b[38:2::8:8:8md", "a\x1b[38;5;8mb\x1b[0mc\x1b[38:2::8:8:8md\x1b[0m"),
            ("a\x1b[0;8mb\x1b[1;08mc\x1b[38;8md\x1b[38;5m\x1b[8:1me", "abcde"),
            # Trojan Source: bidirectional controls, and tags.
            ("access\u202e \u2066// admin\u2069\u2066", "access // admin"),
            ("a\u200eb\u200fc\u061cd\u202ae\u202bf\u202cg\u202dh\u2067i\u2068j", "abcdefghij"),
            ("a\U000e0001\U000e0041\U000e007fb\u200bc\ufeffd\u2060e\u00adf\u2028g\u2029h", "abcdefgh"),
            ("a\u200db\u200cc", "abc"),
            ("👩\u200d❤\ufe0f\u200d👩 👍🏽\u200d♂\ufe0f", "👩\u200d❤\ufe0f\u200d👩 👍🏽\u200d♂\ufe0f"),
            ("👩\u200d", "👩"),
            ("e" + "\u0301" * 20 + "f", "e" + "\u0301" * MAX_MARKS + "f"),
            ("\ud800x", "\ufffdx"),
        ):
            self.assertEqual(sanitise(text), shown, ascii(text))

    def test_colours_in_force(self) -> None:
        """One adds to those before it, unless it begins with a reset; the last eight are kept."""
        for text, style in (
            ("\x1b[31m\x1b[1m", "\x1b[31m\x1b[1m"),
            ("\x1b[31m\x1b[0;1m", "\x1b[0;1m"),
            ("\x1b[31m\x1b[;1m", "\x1b[;1m"),
            ("\x1b[1m\x1b[0m", ""),
            ("\x1b[31m\x1b[8m", "\x1b[31m"),
            (
                "".join(f"\x1b[{number}m" for number in range(40, 48)),
                "".join(f"\x1b[{number}m" for number in range(40, 48)),
            ),
            (
                "".join(f"\x1b[{number}m" for number in range(90, 99)),
                "".join(f"\x1b[{number}m" for number in range(91, 99)),
            ),
        ):
            sanitiser = Sanitiser()
            sanitiser.feed(text)
            self.assertEqual(sanitiser.style, style, repr(text))

    def test_a_colour_of_eight_hides_nothing(self) -> None:
        for parameters, shown in (
            *((f"{ground};{colour}", True) for ground in (38, 48, 58) for colour in ("5;8", "2;8;8;8")),
            *((f"{ground};5;8", False) for ground in (37, 39, 47, 49, 57, 59)),
            *((odd, False) for odd in ("8", "1;8", "38", "38;5", "58;8", "48;2;8;8")),
        ):
            text = f"\x1b[{parameters}mx"
            self.assertEqual(sanitise(text), text + "\x1b[0m" if shown else "x", parameters)

    def test_a_line_that_was_taken_back_begins_at_its_beginning(self) -> None:
        for progress, between in (("\n", "\n"), ("\r\x1b[K", "\r\x1b[K")):
            sanitiser = Sanitiser(progress)
            shown = sanitiser.feed("abc\r" + "x" * MAX_LINE + "\n") + sanitiser.end()
            self.assertEqual(shown, "abc" + between + "x" * MAX_LINE + "\n")

    def test_a_carriage_return_takes_back_its_own_line_alone(self) -> None:
        for text, lines, live in (
            ("a\r\nb\r\n", "a\nb\n", "a\nb\n"),
            ("10%\r20%\r30%\n", "10%\n20%\n30%\n", "10%<20%<30%\n"),
            ("10%\r", "10%", "10%"),
            ("\r10%\r\r20%", "10%\n20%", "10%<20%"),
            ("a\n\rb", "a\nb", "a\nb"),
            ("\x1b[31ma\rb\x1b[0m\r\n", "\x1b[31ma\nb\x1b[0m\n", "\x1b[31ma\x1b[0m<\x1b[31mb\x1b[0m\n"),
        ):
            self.assertEqual(sanitise(text), lines, ascii(text))
            self.assertEqual(Sanitiser("<").feed(text), live, ascii(text))

    def test_lengths(self) -> None:
        """Of each bound the last value that passes, and the first that does not."""
        self.assertEqual((MAX_SGR, MAX_STRING, MAX_MARKS, MAX_LINE), (32, 4096, 8, 65536))
        colour = "\x1b[" + "1" * 29 + "m"
        self.assertEqual(sanitise(colour), colour + "\x1b[0m")
        self.assertEqual(sanitise("\x1b[" + "1" * 30 + "mx"), "x")
        self.assertEqual(sanitise("\x1b]" + "x" * 4095 + "\x07y"), "y")
        self.assertEqual(sanitise("\x1b]" + "x" * 4096 + "y"), "y")
        self.assertEqual(sanitise("\x1b[" + "1" * 4096 + "2m"), "2m")
        self.assertEqual(sanitise("x" * MAX_LINE + "\n"), "x" * MAX_LINE + "\n")
        self.assertEqual(sanitise("x" * (MAX_LINE + 1)), "x" * MAX_LINE + "\nx")
        self.assertEqual(visible("x" * MAX_NAME), "x" * MAX_NAME)
        self.assertEqual(visible("x" * MAX_NAME + "y"), "x" * MAX_NAME + "…")

    def test_the_time_is_linear(self) -> None:
        """Against as much plain text in the same run, with a wide margin."""

        def seconds(text: str) -> float:
            begun = process_time()
            sanitise(text)
            return process_time() - begun

        size = 100_000
        yardstick = seconds("日本語\u0301" * (size // 4))
        for text in ("\x1b]", "\x1b", "\x9d", "\x1b[", "\x1b]0;" + "x" * 4000, "\x1b[1", "\r", "\u200d", "👩\u200d"):
            self.assertLess(seconds(text * (size // len(text))), 20 * yardstick, ascii(text[:8]))
            self.assertLess(seconds(text + "x" * size), 5 * yardstick, ascii(text[:8]))

    def test_names_and_prose(self) -> None:
        for text, shown in (
            ("a\rb\nc\td", "a\\rb\\nc\\td"),
            ("\x1b[31mred\x9b2J\x7f", "\\x1b[31mred\\x9b2J\\x7f"),
            ("gpj.\u202eexe\u2066", "gpj.\\u202eexe\\u2066"),
            ("x\u200dy 👩\u200d👩", "x\\u200dy 👩\u200d👩"),
            ("\U000e0041\u3164\ud800", "\\U000e0041\\u3164\\ud800"),
            # As Python reads file names: in UTF-8 that is none, and in a locale of ASCII.
            ("b\udcff", "b\\xff"),
            ("\udce6\udc97\udca5.txt", "日.txt"),
            ("日本 é \u0605", "日本 é \u0605"),
        ):
            self.assertEqual(visible(text), shown, ascii(text))
        self.assertEqual(visible("a\n\tb\r\x1b", lines=True), "a\n\tb\\r\\x1b")

    def test_two_names_that_differ_look_different(self) -> None:
        for code in (*IGNORABLE, 0xFDD0, 0xFFFE, 0x13430, 0x1343F, 0x13455):
            char = chr(code)
            escape = char.encode("unicode_escape").decode()
            for before, after in (("a", "b"), ("❤", ""), ("👩", "x"), ("葛", "飾")):
                name = before + char + after
                self.assertEqual(visible(name), before + escape + after, hex(code))
                document = json.dumps(name, ensure_ascii=False)
                self.assertNotIn(char, json_safe(document), hex(code))
                self.assertEqual(json.loads(json_safe(document)), name)
        self.assertEqual(visible("❤\ufe0f\u200d👩"), "❤\\ufe0f\\u200d👩")

    def test_a_stream_has_no_characters_that_are_kept_for_hiding(self) -> None:
        for code in IGNORABLE:
            if unicodedata.category(chr(code)) == "Cn":
                self.assertEqual(sanitise(f"a{chr(code)}b"), "ab", hex(code))

    def test_the_fast_ways_take_what_is_hidden_alone(self) -> None:
        found = module._DROPPED.findall("\n".join(map(chr, range(0x110000))))
        self.assertEqual(
            [char for run in found for char in run if not module._hidden(char, unicodedata.category(char))], []
        )
        for text in (
            "\x9b1\x9b2Jx",
            "\x9b\x9b31mx",
            "\x1b[1\x1b[31mx",
            "\x1b[\x9d0;t\x07x",
            "\x1b[\x1b\x9bJx",
            "\x9b \x84x",
        ):
            whole, pieces = Sanitiser(), Sanitiser()
            self.assertEqual("".join(map(pieces.feed, text)), whole.feed(text), ascii(text))
            self.assertEqual(COLOUR.sub("", sanitise(text)), "x", ascii(text))

    def test_controls_are_cheap(self) -> None:
        # Hundreds of times where each is looked at anew.
        for text in ("\x9b", "\x85", "\x9b1", "\u202e"):
            self.assert_cheap(functools.partial(sanitise, text * 400_000), 50)
        for work in (json_safe, functools.partial(visible, lines=True)):
            self.assert_cheap(functools.partial(work, "\x9b" * 400_000), 240)

    def test_json_keeps_its_data(self) -> None:
        text = json.dumps("\x9b\x7f\u202e\U000e0041é日\ud800" + "e" + "\u0301" * 9, ensure_ascii=False)
        self.assertEqual(json_safe(text), '"\\u009b\\u007f\\u202e\\udb40\\udc41é日\\ud800e' + "\u0301" * 8 + '\\u0301"')
