"""The language of a task, found in four tiers (pure; spec/system.md 10.1).

The first tier that says something wins: explicit in the task, then metadata of task and repository, then file names and
manifests of the input, then words of the description. Nothing found means `base`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import attrs

BASE = "base"
LANGUAGES = ("rust", "go", "python", "node", "java", "cpp", BASE)

Tier = Literal["explicit", "metadata", "files", "description", "none"]

ALIASES: Mapping[str, str] = {
    "base": BASE, "shell": BASE, "sh": BASE, "bash": BASE, "make": BASE,
    "python": "python", "python3": "python", "py": "python", "cpython": "python",
    "node": "node", "nodejs": "node", "node.js": "node", "javascript": "node", "js": "node",
    "typescript": "node", "ts": "node",
    "java": "java", "kotlin": "java", "jvm": "java",
    "go": "go", "golang": "go",
    "rust": "rust", "rs": "rust",
    "cpp": "cpp", "c++": "cpp", "cxx": "cpp", "c": "cpp",
}  # fmt: skip
"""Names that users write, in lower case, and the language each means."""

MANIFESTS: Mapping[str, str] = {
    "cargo.toml": "rust", "cargo.lock": "rust",
    "go.mod": "go", "go.sum": "go",
    "pyproject.toml": "python", "setup.py": "python", "setup.cfg": "python", "requirements.txt": "python",
    "tox.ini": "python", "pipfile": "python", "conftest.py": "python", "manage.py": "python",
    "package.json": "node", "package-lock.json": "node", "yarn.lock": "node", "pnpm-lock.yaml": "node",
    "tsconfig.json": "node", "deno.json": "node",
    "pom.xml": "java", "build.gradle": "java", "build.gradle.kts": "java", "settings.gradle": "java",
    "build.xml": "java",
    "cmakelists.txt": "cpp", "meson.build": "cpp", "configure.ac": "cpp", "conanfile.txt": "cpp", "conanfile.py": "cpp",
}  # fmt: skip
"""File names, in lower case, that settle the language of the folder they lie in."""

SUFFIXES: Mapping[str, str] = {
    ".rs": "rust", ".go": "go", ".py": "python", ".pyi": "python", ".pyx": "python",
    ".js": "node", ".mjs": "node", ".cjs": "node", ".jsx": "node", ".ts": "node", ".tsx": "node",
    ".java": "java", ".kt": "java", ".scala": "java",
    ".c": "cpp", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".h": "cpp", ".hh": "cpp", ".hpp": "cpp",
}  # fmt: skip

VENDORED = frozenset(
    {"node_modules", "vendor", "third_party", ".venv", "venv", "target", ".git", "dist", "build", "__pycache__"}
)
"""Folders that say nothing about the project itself."""

WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("rust", re.compile(r"\b(?:rust|cargo|rustc|crates?\.io|clippy)\b", re.I)),
    # "go" alone is an English word: only its tools, its name, and "in Go" count.
    (
        "go",
        re.compile(
            r"\b(?:golang|go\.mod|gofmt|goroutines?|go (?:test|build|vet|module))\b"
            r"|\b(?:in|a|the) Go\b(?! (?:to|on|for)\b)"
        ),
    ),
    ("python", re.compile(r"\b(?:python3?|pytest|unittest|django|flask|twisted|pip|pyproject)\b|\.py\b", re.I)),
    ("node", re.compile(r"\b(?:node\.?js|javascript|typescript|npm|yarn|react|vue|express\.js)\b", re.I)),
    ("java", re.compile(r"\b(?:java|kotlin|maven|gradle|junit|spring boot)\b", re.I)),
    ("cpp", re.compile(r"(?:\bc\+\+|\bcmake\b|\bg\+\+|\bclang\b|\bgcc\b|\bgtest\b)", re.I)),
)

MAX_NAMES = 20_000
"""File names looked at: more say nothing new."""

MAX_TEXT = 20_000
"""Characters of a description looked at."""

TOP_LEVEL_WEIGHT = 1000
"""A manifest at the root outweighs any number of source files below it."""


@attrs.frozen
class Detected:
    """`evidence` is one phrase for a person: the field, file or word that decided."""

    language: str
    tier: Tier
    evidence: str


def canonical(name: str) -> str | None:
    """The language a user's word means, or None."""
    return ALIASES.get(name.strip().lower())


def detect(
    *,
    explicit: str | None = None,
    metadata: Iterable[str] = (),
    names: Iterable[str] = (),
    description: str = "",
) -> Detected:
    """`metadata`: words of task and repository (topics, names of both); `names`: the paths in the input."""
    if explicit and (language := canonical(explicit)):
        return Detected(language, "explicit", explicit)
    return (
        _from_metadata(metadata)
        or _from_names(names)
        or _from_text(description)
        or Detected(BASE, "none", "nothing names a language")
    )


def _from_metadata(metadata: Iterable[str]) -> Detected | None:
    for value in metadata:
        if language := canonical(value):
            return Detected(language, "metadata", value)
        # "acme/billing-python.git": a part of a name counts, unless it is a letter or a word too common to mean it.
        for part in re.split(r"[^A-Za-z0-9+#.]+", value.removesuffix(".git")):
            if (
                len(part) > 2
                and part.lower() not in {"base", "make", "shell", "node"}
                and (language := canonical(part))
            ):
                return Detected(language, "metadata", value)
    return None


def _from_names(names: Iterable[str]) -> Detected | None:
    score: dict[str, float] = {}
    evidence: dict[str, tuple[float, str]] = {}
    for index, name in enumerate(names):
        if index >= MAX_NAMES:
            break
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if not parts or VENDORED.intersection(parts[:-1]):
            continue
        weight, language = _weigh(parts)
        if language is None:
            continue
        score[language] = score.get(language, 0.0) + weight
        if weight > evidence.get(language, (0.0, ""))[0]:
            evidence[language] = (weight, "/".join(parts))
    if not score:
        return None
    # Ties go by the fixed order of LANGUAGES, so every node finds the same.
    best = max(score, key=lambda language: (score[language], -LANGUAGES.index(language)))
    return Detected(best, "files", evidence[best][1])


def _weigh(parts: list[str]) -> tuple[float, str | None]:
    leaf = parts[-1].lower()
    if language := MANIFESTS.get(leaf):
        # A project may be packed with its folder: depth 2 is still its root.
        return TOP_LEVEL_WEIGHT / 4 ** (len(parts) - 1), language
    dot = leaf.rfind(".")
    return (1.0, SUFFIXES.get(leaf[dot:])) if dot > 0 else (0.0, None)


def _from_text(text: str) -> Detected | None:
    found: dict[str, tuple[int, str]] = {}
    for language, pattern in WORDS:
        matches = pattern.findall(text[:MAX_TEXT])
        if matches:
            found[language] = (len(matches), matches[0])
    if not found:
        return None
    best = max(found, key=lambda language: (found[language][0], -LANGUAGES.index(language)))
    return Detected(best, "description", found[best][1])
