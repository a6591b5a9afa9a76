import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from textstats import stats, words


class Words(unittest.TestCase):
    def test_case_is_folded(self):
        self.assertEqual(words("The the THE"), ["the"] * 3)

    def test_apostrophes_stay_inside_words(self):
        self.assertEqual(words("don't 'quote'"), ["don't", "quote"])

    def test_numbers_and_punctuation_are_no_words(self):
        self.assertEqual(words("3 + 4 = seven!"), ["seven"])

    def test_letters_of_every_script_count(self):
        self.assertEqual(words("Größe, ναί; 東京"), ["grösse", "ναί", "東京"])


class Stats(unittest.TestCase):
    def test_empty_text(self):
        self.assertEqual(stats(""), {"lines": 0, "words": 0, "characters": 0, "top": []})

    def test_counts(self):
        found = stats("one two\ntwo three\n")
        self.assertEqual((found["lines"], found["words"], found["characters"]), (2, 4, 18))

    def test_ties_are_alphabetical(self):
        self.assertEqual(stats("b a c a b", top=2)["top"], [("a", 2), ("b", 2)])


class CommandLine(unittest.TestCase):
    def test_one_json_line_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.txt")
            path.write_text("hello hello world\n", encoding="utf-8")
            run = subprocess.run(
                [sys.executable, "-m", "textstats", str(path)], capture_output=True, text=True, check=True
            )
        self.assertEqual(json.loads(run.stdout)["top"][0], ["hello", 2])


if __name__ == "__main__":
    unittest.main()
