from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chorus.fields import fields_of
from chorus.http import limits, openapi
from chorus.tasks import spec
from chorus.tasks.spec import LimitPolicy, SpecError, TaskSpec
from tests.http.wire import ApiCase
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[2]


class Described(ApiCase):
    async def test_every_route_is_described_and_every_description_routed(self) -> None:
        from chorus.http.app import ApiRoutes

        document = (await self.ask("GET", "/openapi.json")).json
        described = {
            (path, method.upper())
            for path, item in document["paths"].items()
            for method in item
            if method in {"get", "put", "post", "delete"}
        }
        api = self.service.api
        assert isinstance(api, ApiRoutes)
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

    def references(self, value: Any) -> Iterator[str]:
        """Every `$ref` of the document."""
        if isinstance(value, dict):
            for name, item in value.items():
                if name == "$ref":
                    yield item
                else:
                    yield from self.references(item)
        elif isinstance(value, list):
            for item in value:
                yield from self.references(item)

    def test_references_have_targets_and_parts_are_referred_to(self) -> None:
        components = self.document["components"]
        targets = {
            f"#/components/{kind}/{name}": part
            for kind, parts in components.items()
            if kind != "securitySchemes"
            for name, part in parts.items()
        }
        self.assertGreater(len(targets), 10)
        references = list(self.references(self.document))
        self.assertEqual(set(references) - set(targets), set(), "they lead nowhere")
        self.assertEqual(set(targets) - set(references), set(), "nothing leads to them")
        for name, part in targets.items():
            self.assertTrue({"type", "oneOf", "content", "schema", "enum", "in"} & set(part), name)

    def test_every_tag_is_described(self) -> None:
        paths = self.document["paths"].values()
        operations = [each for item in paths for each in item.values() if isinstance(each, dict)]
        used = {tag for each in operations for tag in each["tags"]}
        self.assertEqual({tag["name"] for tag in self.document["tags"]}, used)

    def test_what_is_not_there_is_seen(self) -> None:
        document = {"a": [{"$ref": "#/components/schemas/None"}], "b": {"c": {"$ref": "x"}}}
        self.assertEqual(sorted(self.references(document)), ["#/components/schemas/None", "x"])

    def test_the_specification_has_the_parsers_fields_and_limits(self) -> None:
        schema = self.document["components"]["schemas"]["TaskSpec"]
        self.assertEqual(set(schema["properties"]), {each.name for each in fields_of(TaskSpec)})
        self.assertEqual(schema["properties"]["commands"]["maxItems"], spec.MAX_COMMANDS)
        cpu = schema["properties"]["limits"]["properties"]["cpu"]
        self.assertEqual((cpu["minimum"], cpu["maximum"], cpu["default"]), (0.01, 64.0, 1.0))

    def test_globs_are_the_parsers(self) -> None:
        pattern = self.document["components"]["schemas"]["TaskSpec"]["properties"]["artifacts"]["items"]["pattern"]
        for glob in ("*", "**/*.xml", "a/", "a/b.txt", "...", "a/..b", "..a/b", "ü x"):
            self.assertRegex(glob, pattern)
            TaskSpec.parse({"commands": ["x"], "artifacts": [glob]})
        for glob in ("", "/a", "..", "../a", "a/..", "a/../b", "a//b", "a\\b", "a\nb", "a\x7f"):
            self.assertNotRegex(glob, pattern)
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
