"""The specification of a task (spec/tasks.md): parsed once at the edge, trusted inside."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import attrs

from chorus import strictjson
from chorus.errors import UserError
from chorus.fields import (
    Base64,
    Field,
    Integer,
    ListOf,
    Number,
    Object,
    OneOf,
    Refusal,
    Schema,
    Shape,
    Text,
    field,
    fields_of,
)
from chorus.tasks import ids, languages
from chorus.tasks.terms import Limits

if TYPE_CHECKING:
    from chorus.seams import JSON

MAX_TITLE = 256
"""Bytes; one line in a list."""
MAX_DESCRIPTION = 64 * 1024
"""Bytes; a long issue text fits, a log does not (that belongs into the input)."""
MAX_PROJECT = 128
MAX_REPOSITORY = 2048
"""Bytes; what browsers and git take as a URL."""
MAX_IMAGE = 512
"""Bytes; registry, path (255), tag (128) and digest together."""
MAX_INLINE = 256 * 1024
"""Bytes of an inline archive, decoded: one chunk; anything more is uploaded as a blob first."""
MAX_COMMANDS = 64
MAX_COMMAND = 64 * 1024
"""Bytes of one shell command or of one argument; Linux refuses single arguments of 128 KiB and more."""
MAX_ARGUMENTS = 1024
MAX_COMMANDS_TOTAL = 256 * 1024
"""Bytes of all commands together: a specification travels in one message and lies in the journal."""
MAX_ENV = 128
MAX_ENV_NAME = 128
MAX_ENV_VALUE = 32 * 1024
MAX_ENV_TOTAL = 128 * 1024
"""Bytes of names and values together; with the arguments it stays under the kernel's limit for exec."""
MAX_ARTIFACTS = 64
MAX_ARTIFACT = 512
MAX_ARTIFACT_WILDCARDS = 16
"""Of `*`, `**`, `?` and `[` in one pattern: each costs a little for every character of every path."""
ALL_ARTIFACTS = ("**",)
"""The default: everything that a task leaves in its output folder. An empty list means nothing."""
MAX_REQUIRED = 32
"""Items of `expertise` and of `capabilities` each."""
MAX_WORD = 64
"""Bytes of a role, an expertise, a capability or a language."""
MAX_DEPENDS_ON = 64
MAX_RETRIES = 10
MAX_IDEMPOTENCY_KEY = 128
MAX_AI_NAME = 128
MAX_AI_ITERATIONS = 100
SHELLS = ("sh", "bash", "dash", "zsh")
"""Shells that take a line after `-c`. Only `sh` is in every sandbox."""
LOWEST_PRIORITY, DEFAULT_PRIORITY, HIGHEST_PRIORITY = 0, 5, 9

MINIMUM_LIMITS = Limits(cpu=0.01, memory_mb=16, pids=4, disk_mb=1, timeout_s=0.1, output_mb=1)
"""Below these a shell does not even start, so the task could only fail."""

WIDEST_LIMITS = Limits(cpu=64.0, memory_mb=65536, pids=4096, disk_mb=65536, timeout_s=86400.0, output_mb=256)
"""The most a task may ask for where the node says nothing: a large machine for a day."""

Command = str | tuple[str, ...]

_NAME = "[!-~]+"
_ONE_LINE = r"[^\x00-\x1f\x7f]*"
_WILDCARDS = re.compile(r"\*+|[?[]")
_CREDENTIALS = r"[a-z]+://[^/@\s]*:[^/@\s]*@"
"""For the schema and short texts: its cost grows with the square of the length."""
_USER = re.compile(r"[a-z]+://([^/@\s]*)@")
"""The user of a URL, and what stands behind a colon in it."""
_REPOSITORY = r"(?:https?|ssh|git)://[^\s\x00-\x1f]+|[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:[^\s\x00-\x1f]+"
_IMAGE = (
    r"(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


class SpecError(UserError):
    """A task specification that is not acceptable; `field` is the path of what is wrong (`limits.cpu`,
    `commands[2]`), empty for the whole body."""

    code = "invalid_task"
    http_status = 422

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}" if field else text)
        self.field = field
        self.text = text


def _word(form: str = "a word like python or gpu/cuda") -> Text:
    """A role, an expertise, a capability or a language: `python`, `c++`, `gpu/cuda-12`."""
    return Text(MAX_WORD, 1, r"[A-Za-z0-9][A-Za-z0-9._+#/-]*", form)


TASK_ID = Text(None, 0, ids.PATTERN, "a task id")
SHA256 = Text(None, 0, "[0-9a-f]{64}", "a SHA-256 in lower-case hexadecimal")
_LINE_FORM = "one line of text"


class _Commands(ListOf):
    """Commands that are `MAX_COMMANDS_TOTAL` together at most."""

    def read(self, value: object) -> tuple[Command, ...]:
        commands: tuple[Command, ...] = super().read(value)
        parts = [part for item in commands for part in ((item,) if isinstance(item, str) else item)]
        if (total := sum(len(part.encode()) + 1 for part in parts)) > MAX_COMMANDS_TOTAL:
            raise Refusal(self.expected, value, f"are {total} bytes together, the most is {MAX_COMMANDS_TOTAL}")
        return commands


class _Command(Shape):
    """A line for the shell, or an argv."""

    expected = "a shell command (string) or an argv (list of strings)"
    _line = Text(MAX_COMMAND, nul=False)
    _argv = ListOf(_line, MAX_ARGUMENTS)

    def read(self, value: object) -> Command:
        if isinstance(value, str):
            line: str = self._line.read(value)
            if not line.strip():
                raise Refusal(self.expected, value, "must not be empty")
            return line
        if not isinstance(value, list):
            raise Refusal(self.expected, value, f"must be {self.expected}, not {{}}")
        argv = self._argv.read(value)
        if not argv or not argv[0]:
            raise Refusal(self.expected, value, "must begin with the program to run")
        return argv

    def write(self, value: Command) -> JSON:
        return value if isinstance(value, str) else list(value)

    def schema(self) -> Schema:
        first = {**self._line.schema(), "minLength": 1}
        argv = {**self._argv.schema(), "minItems": 1, "prefixItems": [first]}
        return {"anyOf": [{**first, "pattern": r"^[^\x00]*[^\x00\s][^\x00]*$"}, argv]}


class _Environment(Shape):
    expected = "an object of strings"
    _name = Text(MAX_ENV_NAME, 1, "[A-Za-z_][A-Za-z0-9_]*", "a variable name like PATH_INFO")
    _value = Text(MAX_ENV_VALUE, nul=False)

    def read(self, value: object) -> Mapping[str, str]:
        if not isinstance(value, dict):
            raise Refusal(self.expected, value, "must be an object, not {}")
        if len(value) > MAX_ENV:
            raise Refusal(self.expected, value, f"has {len(value)} variables, the most is {MAX_ENV}")
        for name, text in value.items():
            self._name.read(name)
            try:
                self._value.read(text)
            except Refusal as refusal:
                raise refusal.under(name) from None
        if (total := sum(len(name) + len(text.encode()) + 2 for name, text in value.items())) > MAX_ENV_TOTAL:
            raise Refusal(self.expected, value, f"is {total} bytes together, the most is {MAX_ENV_TOTAL}")
        return dict(value)

    def write(self, value: Mapping[str, str]) -> JSON:
        return dict(value)

    def schema(self) -> Schema:
        return {
            "type": "object",
            "maxProperties": MAX_ENV,
            "propertyNames": self._name.schema(),
            "additionalProperties": self._value.schema(),
        }


class _Repository(Text):
    def read(self, value: object) -> Any:
        if isinstance(value, str) and (user := _USER.match(value)) and ":" in user[1]:
            text = "must not hold a password; agents use their own credentials"
            raise Refusal(self.expected, None, text)
        return super().read(value)


class _Glob(Text):
    """A pattern of paths under the output folder."""

    def read(self, value: object) -> Any:
        glob = super().read(value)
        *folders, _ = parts = glob.split("/")
        for wrong, text in (
            (glob.startswith("/"), "must be relative to /workspace/output"),
            (".." in parts, "must not hold .."),
            ("\\" in glob, "must use / between folders"),
            (not all(folders), "must not hold an empty folder name"),
            (
                len(_WILDCARDS.findall(glob)) > MAX_ARTIFACT_WILDCARDS,
                f"has too many wildcards, the most is {MAX_ARTIFACT_WILDCARDS}",
            ),
        ):
            if wrong:
                raise Refusal(self.expected, value, text)
        return glob

    def schema(self) -> Schema:
        """Relative, without `..` and empty folder names."""
        return {**super().schema(), "pattern": r"^(?!/)(?!(?:.*/)?\.\.(?:/|$))(?!.*//)[^\x00-\x1f\x7f\\]+$"}


class _InputShape(Object["Input"]):
    """Exactly one of the members."""

    def read(self, value: object) -> Input:
        source = super().read(value)
        if (source.sha256 is None) == (source.inline is None):
            raise Refusal("exactly one of sha256 and inline", value, "must have exactly one of sha256 and inline")
        return source

    def schema(self) -> Schema:
        one = {"type": "object", "additionalProperties": False}
        members = [
            {**one, "properties": {each.name: each.shape.schema()}, "required": [each.name]} for each in self.fields
        ]
        return {"anyOf": members}


@attrs.frozen
class LimitPolicy:
    """Limits of a task that asks for none, and the most it may ask for."""

    default: Limits = attrs.field(factory=Limits)
    maximum: Limits = attrs.field(default=WIDEST_LIMITS)


_LIMITS = tuple(each.name for each in attrs.fields(Limits))


def _limits(policy: LimitPolicy) -> Object[Limits]:
    """A default over the maximum is the operator's slip; the maximum is the promise."""
    fields = []
    for name in _LIMITS:
        least, most = getattr(MINIMUM_LIMITS, name), getattr(policy.maximum, name)
        default = getattr(policy.default, name)
        whole = type(default) is int
        shape = Integer(least, most, whole_floats=True) if whole else Number(least, most)
        fields.append(Field(name, shape, "", min(default, most)))
    return Object(Limits, closed=True, fields=tuple(fields))


_WORDS = ListOf(_word(), MAX_REQUIRED, distinct=True)


@attrs.frozen
class Input:
    """The source archive: a blob that was uploaded before, or the archive itself. Exactly one of the two."""

    sha256: str | None = field(SHA256, default=None)
    inline: bytes | None = field(Base64(MAX_INLINE, 1, "; upload it as a blob"), default=None, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the archive, in hexadecimal, whichever way it came."""
        return self.sha256 or hashlib.sha256(self.inline or b"").hexdigest()


@attrs.frozen
class Required:
    """Requirements of an agent."""

    role: str | None = field(_word(), default=None)
    expertise: tuple[str, ...] = field(_WORDS, default=())
    capabilities: tuple[str, ...] = field(_WORDS, default=())


@attrs.frozen
class AIRequest:
    """The model that plans the task; None takes the agent's own."""

    provider: str | None = field(_word("a provider like ollama"), default=None)
    model: str | None = field(Text(MAX_AI_NAME, 1, _NAME, "a model name"), default=None)
    max_iterations: int | None = field(Integer(1, MAX_AI_ITERATIONS, whole_floats=True), default=None)


_FIND_SHELL = """\
[ -x /bin/"$0" ] && exec /bin/"$0" -c "$1"
[ -x /usr/bin/"$0" ] && exec /usr/bin/"$0" -c "$1"
[ -x /usr/local/bin/"$0" ] && exec /usr/local/bin/"$0" -c "$1"
echo "chorus: this sandbox has no $0; take an image that has it, or leave --shell out" >&2
exit 127
"""
"""For `/bin/sh -c`: runs the line $1 in the shell $0. Neither the task's PATH has a say in which one that is, nor does
a variable of the script get into its environment."""


@attrs.frozen
class TaskSpec:
    """One task as asked for. `limits` is complete: what was not named has the node's default."""

    commands: tuple[Command, ...] = field(
        _Commands(_Command(), MAX_COMMANDS),
        "Run in order until one fails: a string by `shell`, a list as an argv.",
        default=(),
    )
    title: str = field(Text(MAX_TITLE, 0, _ONE_LINE, _LINE_FORM), default="")
    description: str = field(Text(MAX_DESCRIPTION, nul=False), default="")
    project: str | None = field(
        Text(MAX_PROJECT, 1, "[A-Za-z0-9][A-Za-z0-9._/-]*", "a name like team/tool"), default=None
    )
    repository: str | None = field(
        _Repository(
            MAX_REPOSITORY,
            1,
            f"(?!{_CREDENTIALS})(?:{_REPOSITORY})",
            "a repository like https://example.org/team/tool.git",
        ),
        "Where the sources come from. Not cloned yet: give them as `input`.",
        default=None,
    )
    input: Input | None = field(
        _InputShape(Input, closed=True),
        "The source: a tar archive uploaded before, or inline (at most 256 KiB).",
        default=None,
    )
    language: str | None = field(
        _word("a language like python"),
        f"One of {', '.join(languages.LANGUAGES)}, or another name for one; anything else needs an `image`.",
        default=None,
    )
    shell: str | None = field(
        OneOf(SHELLS),
        "Runs the commands that are strings; `sh`, the default, is the one that every sandbox has.",
        default=None,
    )
    image: str | None = field(Text(MAX_IMAGE, 1, _IMAGE, "an image reference like chorus-python-dev:1"), default=None)
    env: Mapping[str, str] = field(
        _Environment(),
        "Given to the commands as it is and kept with the task, so no place for secrets.",
        factory=dict,
    )
    limits: Limits = field(_limits(LimitPolicy()), factory=Limits)
    artifacts: tuple[str, ...] = field(
        ListOf(_Glob(MAX_ARTIFACT, 1, _ONE_LINE, _LINE_FORM), MAX_ARTIFACTS, distinct=True),
        "Globs under /workspace/output; what matches is kept. Absent means everything there, an empty list nothing.",
        default=ALL_ARTIFACTS,
    )
    required: Required = field(Object(Required, closed=True), factory=Required)
    priority: int = field(Integer(LOWEST_PRIORITY, HIGHEST_PRIORITY, whole_floats=True), default=DEFAULT_PRIORITY)
    depends_on: tuple[str, ...] = field(ListOf(TASK_ID, MAX_DEPENDS_ON, distinct=True), default=())
    retries: int = field(Integer(0, MAX_RETRIES, whole_floats=True), default=0)
    idempotency_key: str | None = field(
        Text(MAX_IDEMPOTENCY_KEY, 1, _NAME, "printable ASCII without spaces"), default=None
    )
    ai: AIRequest | None = field(Object(AIRequest, closed=True), default=None)

    @classmethod
    def parse(cls, body: object, policy: LimitPolicy | None = None) -> TaskSpec:
        """Read a parsed JSON body under a node's policy. Raises `SpecError` for the first thing that is wrong."""
        spec = _parse(body, policy or LimitPolicy())
        _know_language(spec)
        return spec

    @classmethod
    def from_json(cls, document: object) -> TaskSpec:
        """Read what `to_json` wrote, here or on another member: the same checks, with the widest limits, since the
        policy that admitted it may differ from ours. Raises `SpecError`."""
        return _parse(document, _ADMITTED)

    def to_json(self) -> dict[str, JSON]:
        """The whole specification, every default written out; `from_json` is its inverse."""
        document = specification(_ADMITTED).write(self)
        required: Any = document["required"]
        required.setdefault("role", None)
        return document

    def canonical(self) -> bytes:
        """`to_json` as RFC 8785 bytes."""
        return strictjson.canonical(self.to_json())

    def with_input_blob(self) -> TaskSpec:
        """The same task with its inline archive replaced by its blob id (the caller has stored the blob)."""
        if self.input is None or self.input.inline is None:
            return self
        return attrs.evolve(self, input=Input(sha256=self.input.digest))

    def argv(self) -> tuple[tuple[str, ...], ...]:
        """`commands` as the sandbox takes them."""
        return tuple(self._shell_line(item) if isinstance(item, str) else item for item in self.commands)

    def _shell_line(self, line: str) -> tuple[str, ...]:
        if self.shell in (None, "sh"):
            return ("/bin/sh", "-c", line)
        return ("/bin/sh", "-c", _FIND_SHELL, str(self.shell), line)


def body_digest(body: JSON) -> str:
    """SHA-256 (hex) that says whether two submissions under one idempotency key are the same.

    It covers the body as it was sent, so that a changed default does not turn a repetition into a conflict. Raises
    ValueError for what canonical JSON cannot say.
    """
    return hashlib.sha256(strictjson.canonical(body)).hexdigest()


_ADMITTED = LimitPolicy(maximum=Limits(**dict.fromkeys(_LIMITS, 2**31)))


class _Body(Object[TaskSpec]):
    """The body of a submission, or a stored specification."""

    def read(self, value: object) -> TaskSpec:
        spec = super().read(value)
        if not spec.commands and spec.ai is None:
            text = "must name at least one command (or ask for a model with ai)"
            raise Refusal("at least one command", None, text).under("commands")
        return spec

    def schema(self) -> Schema:
        some = {"commands": {"type": "array", "minItems": 1}}, {"ai": {"type": "object"}}
        return {**super().schema(), "anyOf": [{"required": list(each), "properties": each} for each in some]}


@lru_cache(maxsize=8)
def specification(policy: LimitPolicy) -> Object[TaskSpec]:
    """The shape of a specification under a node's policy."""
    limits = _limits(policy)
    fields = [
        attrs.evolve(each, shape=limits, default=limits.read({})) if each.name == "limits" else each
        for each in fields_of(TaskSpec)
    ]
    return _Body(TaskSpec, closed=True, fields=tuple(fields))


def _parse(body: object, policy: LimitPolicy) -> TaskSpec:
    try:
        return specification(policy).read(body)
    except Refusal as refusal:
        raise SpecError(refusal.path, refusal.text) from None


def _know_language(spec: TaskSpec) -> None:
    """A language nobody has an image for is a slip of the pen, unless the task brings an image of its own."""
    name = spec.language
    if name is None or spec.image is not None or languages.canonical(name) is not None:
        return
    near = difflib.get_close_matches(name.lower(), languages.ALIASES, 1, 0.75)
    hint = f", did you mean {near[0]}?" if near else "."
    known = ", ".join(languages.LANGUAGES)
    raise SpecError("language", f"{name} is not known{hint} Known are {known}; for any other, name an image")
