from __future__ import annotations

import json
import re
from pathlib import Path

from chorus.http import limits, openapi
from chorus.http.schemas import GLOB
from chorus.tasks import spec
from chorus.tasks.spec import LimitPolicy, SpecError, TaskSpec
from tests.http.wire import ApiCase
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[2]


class Described(ApiCase):
    async def test_every_route_is_described_and_every_description_routed(self) -> None:
        from chorus.http.app import Api

        document = (await self.ask("GET", "/openapi.json")).json
        described = {
            (path, method.upper())
            for path, item in document["paths"].items()
            for method in item
            if method in {"get", "put", "post", "delete"}
        }
        api = self.service.api
        assert isinstance(api, Api)
        rules = api.site.resource._app.url_map.iter_rules()
        served = {
            (re.sub(r"<string:(\w+)>", r"{\1}", rule.rule), method)
            for rule in rules
            for method in rule.methods - {"HEAD"}
        }
        self.assertEqual(described, served)


class Document(PureTestCase):
    def setUp(self) -> None:
        self.document = openapi.document(LimitPolicy())

    def test_references_have_targets(self) -> None:
        for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(self.document)):
            found = self.document
            for part in reference.split("/"):
                found = found[part]

    def test_the_specification_has_the_parsers_fields_and_limits(self) -> None:
        schema = self.document["components"]["schemas"]["TaskSpec"]
        self.assertEqual(set(schema["properties"]), set(spec._FIELDS))
        self.assertEqual(schema["properties"]["commands"]["maxItems"], spec.MAX_COMMANDS)
        cpu = schema["properties"]["limits"]["properties"]["cpu"]
        self.assertEqual((cpu["minimum"], cpu["maximum"], cpu["default"]), (0.01, 64.0, 1.0))

    def test_globs_are_the_parsers(self) -> None:
        for glob in ("*", "**/*.xml", "a/", "a/b.txt", "...", "a/..b", "..a/b", "ü x"):
            self.assertRegex(glob, GLOB)
            TaskSpec.parse({"commands": ["x"], "artifacts": [glob]})
        for glob in ("", "/a", "..", "../a", "a/..", "a/../b", "a//b", "a\\b", "a\nb", "a\x7f"):
            self.assertNotRegex(glob, GLOB)
            with self.assertRaises(SpecError):
                TaskSpec.parse({"commands": ["x"], "artifacts": [glob]})

    def test_every_path_is_in_the_documentation(self) -> None:
        text = (ROOT / "docs/api.md").read_text()
        for path in self.document["paths"]:
            self.assertIn(f"`{path}`", text)

    def test_the_documentation_has_the_limits(self) -> None:
        text = (ROOT / "docs/api.md").read_text()
        for name in (
            "MAX_URI",
            "MAX_HEADERS",
            "MAX_CONNECTIONS",
            "MAX_STREAMS",
            "MAX_UPLOADS",
            "MAX_DOWNLOADS",
            "MAX_PAGE",
        ):
            self.assertRegex(text, rf"\b{getattr(limits, name)}\b", name)
