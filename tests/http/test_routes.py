from __future__ import annotations

from chorus.http.routes import BlobBody, JsonBody
from chorus.http.table import ROUTES
from tests.support import PureTestCase


class TableTests(PureTestCase):
    def setUp(self) -> None:
        self.routes = {route.operation.name: route for route in ROUTES}

    def test_names_and_places_are_used_once(self) -> None:
        self.assertEqual(len(self.routes), len(ROUTES))
        self.assertEqual(len({(route.method, route.path) for route in ROUTES}), len(ROUTES))

    def test_only_the_description_is_open(self) -> None:
        self.assertEqual([name for name, route in self.routes.items() if route.open], ["getDescription"])

    def test_a_path_for_klein_for_the_gate_and_for_openapi(self) -> None:
        route = self.routes["putBlobAs"]
        self.assertEqual((route.rule, route.path_parameters), ("/v1/blobs/<string:sha256>", ("sha256",)))
        match = route.pattern.fullmatch(b"/v1/blobs/a%2Fb")
        assert match is not None
        self.assertEqual(match["sha256"], b"a%2Fb")
        self.assertIsNone(route.pattern.fullmatch(b"/v1/blobs/a/b"))

    def test_the_operation_says_what_a_request_may_have(self) -> None:
        self.assertEqual(self.routes["listTasks"].query, ("state", "limit", "after"))
        self.assertEqual(self.routes["watchTask"].query, ("after", "wait"), "no headers")
        self.assertEqual(self.routes["watchTask"].media_types, ("text/event-stream",))
        self.assertEqual(self.routes["getBlob"].media_types, ("application/octet-stream",))
        self.assertEqual(self.routes["submitTask"].media_types, ("application/json",))

    def test_bodies(self) -> None:
        found = {name: route.body for name, route in self.routes.items() if route.body is not None}
        documents = {"submitTask": JsonBody("TaskSpec"), "publishDecision": JsonBody("DecisionDraft")}
        self.assertEqual(found, {**documents, "putBlob": BlobBody(), "putBlobAs": BlobBody()})
