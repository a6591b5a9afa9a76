from __future__ import annotations

from chorus.seams import JSON, PassThrough, Position
from tests.support import PureTestCase


class PassThroughTests(PureTestCase):
    def test_texts_and_documents_stay_as_they_are(self) -> None:
        document: JSON = {"title": "hunter2", "steps": ["a", 1, None]}
        values: tuple[JSON, ...] = ("hunter2", document)
        for value in values:
            redacted = PassThrough().redact(value, context="task.title")
            self.assertIs(redacted.value, value)
            self.assertEqual((redacted.findings, redacted.action), ((), "allow"))

    def test_a_stream_holds_nothing_back(self) -> None:
        stream = PassThrough().stream("task.output")
        self.assertEqual(stream.feed(b"\xffhunter").value, b"\xffhunter")
        self.assertEqual(stream.flush().value, b"")


class PositionTests(PureTestCase):
    def test_entries_of_one_author_are_ordered(self) -> None:
        self.assertLess(Position("a", 9), Position("a", 10))
