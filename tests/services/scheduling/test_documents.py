"""What a task left, from the executor's message to the journal and the document, also across versions."""

from __future__ import annotations

from typing import Any

import attrs

from chorus.protocols.task_messages import Result, ResultArtifact, ResultEntry, from_json, to_json
from chorus.services.scheduling import documents as task_documents
from chorus.services.scheduling.results import result_document
from chorus.tasks.journal import Fence
from chorus.tasks.state import State, TaskState
from tests.support import PureTestCase

SHA = "ab" * 32
RESULT = Result(
    *("exit", 0, "", "docker", None, 1.0, 2.0),
    artifacts=(ResultArtifact("a", SHA, 5, 0o755, 1.5), ResultArtifact("b", "cd" * 32, 6)),
    artifacts_skipped=("c: a link that leads out",),
    artifacts_skipped_total=7,
    entries=(ResultEntry("l", "a"), ResultEntry("d", None, 0o700, 2.5)),
)
NEW = {"mode", "mtime", "entries", "artifacts_skipped_total"}


def without_what_is_new(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_what_is_new(each) for name, each in value.items() if name not in NEW}
    return [without_what_is_new(each) for each in value] if isinstance(value, list) else value


def document(result: dict[str, Any], **more: Any) -> dict[str, Any]:
    task = TaskState(
        id="t", spec={}, submitter="me", state=State.COMPLETED, created_at=0.0, created_index=1, updated_at=0.0,
        max_attempts=3,
        fence=Fence(0, 0, 1), result=result,
    )  # fmt: skip
    return task_documents.document(task, **more)  # type: ignore[return-value]


class Results(PureTestCase):
    def test_from_message_to_document(self) -> None:
        found = document(result_document(RESULT, "agent", None))
        self.assertEqual(
            found["artifacts"],
            [
                {"path": "a", "sha256": SHA, "size": 5, "mode": 0o755, "mtime": 1.5},
                {"path": "b", "sha256": "cd" * 32, "size": 6},
            ],
        )
        self.assertEqual(found["entries"], [{"path": "l", "target": "a"}, {"path": "d", "mode": 0o700, "mtime": 2.5}])
        self.assertEqual(
            (found["artifacts_skipped"], found["artifacts_skipped_total"]), (["c: a link that leads out"], 7)
        )

    def test_an_older_executor_says_less(self) -> None:
        found = from_json(without_what_is_new(to_json(RESULT)))
        assert isinstance(found, Result)
        self.assertEqual(found.artifacts[0], ResultArtifact("a", SHA, 5))
        self.assertEqual((found.entries, found.artifacts_skipped_total), ((), 0))
        self.assertEqual(result_document(found, "agent", None)["artifacts_skipped_total"], 1)

    def test_an_older_journal_says_less(self) -> None:
        found = document(without_what_is_new(result_document(RESULT, "agent", None)))
        self.assertEqual([row["path"] for row in found["artifacts"]], ["a", "b"])
        self.assertEqual((found["entries"], found["artifacts_skipped_total"], found["artifacts_absent"]), ([], 1, 0))

    def test_an_older_scheduler_reads_what_it_knows(self) -> None:
        """Its readers pass over further members of rows, and further members of a result."""
        sent = to_json(RESULT)
        self.assertEqual({name for name in sent if name in NEW}, {"entries", "artifacts_skipped_total"})
        self.assertEqual(set(sent["artifacts"][0]), {"path", "sha256", "size", "mode", "mtime"})  # type: ignore[index, arg-type]
        self.assertEqual(from_json({**sent, "later": 1}), RESULT)

    def test_rights_that_are_none_are_refused(self) -> None:
        for change in (
            {"mode": 0o1000},
            {"mode": -1},
            {"mode": "755"},
            {"mtime": -1.0},
            {"mtime": "now"},
            {"mtime": 2.0**41},
        ):
            for member in ("artifacts", "entries"):
                sent: Any = to_json(RESULT)
                sent[member][0] |= change
                with self.assertRaises(Exception) as caught:
                    from_json(sent)
                self.assertIn(f"result.{member}", str(caught.exception), change)
        for change in ({"path": ""}, {"path": 5}, {"target": ""}, {"target": "x" * 3000}):
            sent = to_json(RESULT)
            sent["entries"][0] |= change
            with self.assertRaises(Exception) as caught:
                from_json(sent)
            self.assertIn("result.entries", str(caught.exception), change)
        many = attrs.evolve(RESULT, entries=(ResultEntry("d"),) * 1001)
        with self.assertRaises(Exception) as caught:
            from_json(to_json(many))
        self.assertIn("1001", str(caught.exception))

    def test_what_is_not_here_is_counted(self) -> None:
        message = attrs.evolve(RESULT, stdout_sha256="ef" * 32, stdout_bytes=3)
        result = result_document(message, "agent", None)
        self.assertEqual(document(result, absent=lambda sha256: sha256 != SHA)["artifacts_absent"], 2)
        self.assertEqual(document(result)["artifacts_absent"], 0)
