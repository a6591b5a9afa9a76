"""Four tiers of language detection, and the image map."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.tasks.languages import LANGUAGES, Detected, canonical, detect
from tests.support import PureTestCase


class Tiers(PureTestCase):
    def test_each_tier_beats_the_next(self) -> None:
        everything = {
            "explicit": "Rust",
            "metadata": ["acme/billing-java"],
            "names": ["go.mod"],
            "description": "run pytest",
        }
        tiers = ["explicit", "metadata", "files", "description", "none"]
        expected = ["rust", "java", "go", "python", "base"]
        for given_, tier, language in zip([*everything, "none"], tiers, expected, strict=True):
            found = detect(**everything)  # type: ignore[arg-type]
            self.assertEqual((found.tier, found.language), (tier, language))
            everything.pop(given_, None)

    def test_explicit_aliases(self) -> None:
        for word, language in [
            ("py", "python"), (" Python3 ", "python"), ("TypeScript", "node"), ("c", "cpp"), ("C++", "cpp"),
            ("golang", "go"), ("kotlin", "java"), ("shell", "base"),
        ]:  # fmt: skip
            self.assertEqual(canonical(word), language)

    def test_unknown_explicit_falls_through(self) -> None:
        self.assertEqual(detect(explicit="cobol", names=["setup.py"]), Detected("python", "files", "setup.py"))

    def test_metadata(self) -> None:
        for value, language in [
            ("python", "python"),
            ("https://example.org/acme/billing-rust.git", "rust"),
            ("acme/tools_cpp", "cpp"),
            ("acme/go-live", None),
            ("acme/data-base", None),
            ("acme/c", None),
        ]:
            self.assertEqual(detect(metadata=[value]).language, language or "base", value)

    def test_files(self) -> None:
        for names, language in [
            (["pyproject.toml", "web/package.json"], "python"),
            (["package.json", "tools/setup.py", "tools/a.py", "tools/b.py"], "node"),
            (["project/Cargo.toml", "project/src/main.rs"], "rust"),
            (["Makefile", "src/a.c", "src/a.h"], "cpp"),
            (["a.py", "b.py", "c.js"], "python"),
            (["node_modules/x/index.js", "node_modules/y/index.js", "main.py"], "python"),
            (["CMakeLists.txt"], "cpp"),
            (["pom.xml"], "java"),
            (["go.mod"], "go"),
            (["README", "notes.txt"], "base"),
            ([".py"], "base"),
            ([], "base"),
        ]:
            self.assertEqual(detect(names=names).language, language, names)

    def test_evidence_names_the_manifest(self) -> None:
        self.assertEqual(detect(names=["x/a.py", "x/pyproject.toml"]).evidence, "x/pyproject.toml")

    def test_description(self) -> None:
        for text, language in [
            ("Fix the failing pytest suite", "python"),
            ("Port the parser to Rust, with cargo clippy clean", "rust"),
            ("Let us go to the shop", "base"),
            ("Rewrite the server in Go", "go"),
            ("run go test ./...", "go"),
            ("compile with g++ and cmake", "cpp"),
            ("the TypeScript build fails under npm", "node"),
            ("JUnit says no", "java"),
            ("", "base"),
        ]:
            self.assertEqual(detect(description=text).language, language, text)

    @settings(deadline=None, max_examples=100)
    @given(st.text(), st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5), st.text())
    def test_total_and_stable(self, explicit: str, metadata: list[str], names: list[str], text: str) -> None:
        found = detect(explicit=explicit, metadata=metadata, names=names, description=text)
        self.assertIn(found.language, LANGUAGES)
        self.assertEqual(found, detect(explicit=explicit, metadata=metadata, names=names, description=text))
