"""What a user may ask of a task (spec/tasks.md, "Task specification"): parsed once at the edge, trusted inside."""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import attrs

from chorus import strictjson
from chorus.tasks import ids, languages
from chorus.tasks.fields import (
    SpecError,
    as_integer,
    as_list,
    as_number,
    as_object,
    as_text,
    path_of,
    shown,
)
from chorus.tasks.terms import Limits

if TYPE_CHECKING:
    from chorus.seams import JSON

__all__ = ["AIRequest", "Input", "LimitPolicy", "Required", "SpecError", "TaskSpec", "body_digest"]

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
"""What a task that does not say gets: everything it leaves in its output folder. An empty list means nothing."""
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

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+#/-]*")
"""A role, an expertise, a capability or a language: `python`, `c++`, `gpu/cuda-12`."""
SHA256 = re.compile(r"[0-9a-f]{64}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_KEY = re.compile(r"[!-~]+")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f]*")
_WILDCARDS = re.compile(r"\*+|[?[]")
_REPOSITORY = re.compile(r"(?:https?|ssh|git)://[^\s\x00-\x1f]+|[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:[^\s\x00-\x1f]+")
_CREDENTIALS = re.compile(r"[a-z]+://[^/@\s]*:[^/@\s]*@")
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


@attrs.frozen
class LimitPolicy:
    """What a task gets when it asks for nothing, and the most it may ask for."""

    default: Limits = attrs.field(factory=Limits)
    maximum: Limits = attrs.field(default=WIDEST_LIMITS)


@attrs.frozen
class Input:
    """The source archive: a blob that was uploaded before, or the archive itself. Exactly one of the two."""

    sha256: str | None = None
    inline: bytes | None = attrs.field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the archive, in hexadecimal, whichever way it came."""
        return self.sha256 or hashlib.sha256(self.inline or b"").hexdigest()


@attrs.frozen
class Required:
    """What an agent must have to be a candidate."""

    role: str | None = None
    expertise: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


@attrs.frozen
class AIRequest:
    """The model that plans the task; None takes the agent's own."""

    provider: str | None = None
    model: str | None = None
    max_iterations: int | None = None


Command = str | tuple[str, ...]

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

    commands: tuple[Command, ...]
    """A string is for `shell`, a tuple is an argv."""
    title: str = ""
    description: str = ""
    project: str | None = None
    repository: str | None = None
    input: Input | None = None
    language: str | None = None
    shell: str | None = None
    """One of `SHELLS`; None is `sh`."""
    image: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict)
    limits: Limits = attrs.field(factory=Limits)
    artifacts: tuple[str, ...] = ALL_ARTIFACTS
    required: Required = attrs.field(factory=Required)
    priority: int = DEFAULT_PRIORITY
    depends_on: tuple[str, ...] = ()
    retries: int = 0
    idempotency_key: str | None = None
    ai: AIRequest | None = None

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
        document: dict[str, JSON] = {
            "commands": [item if isinstance(item, str) else list(item) for item in self.commands],
            "title": self.title,
            "description": self.description,
            "env": dict(self.env),
            "limits": attrs.asdict(self.limits),
            "artifacts": list(self.artifacts),
            "required": {
                "role": self.required.role,
                "expertise": list(self.required.expertise),
                "capabilities": list(self.required.capabilities),
            },
            "priority": self.priority,
            "depends_on": list(self.depends_on),
            "retries": self.retries,
        }
        for name in ("project", "repository", "language", "shell", "image", "idempotency_key"):
            if (value := getattr(self, name)) is not None:
                document[name] = value
        if self.input is not None:
            document["input"] = _input_to_json(self.input)
        if self.ai is not None:
            document["ai"] = cast("JSON", {k: v for k, v in attrs.asdict(self.ai).items() if v is not None})
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


_FIELDS = tuple(field.name for field in attrs.fields(TaskSpec))
_LIMITS = tuple(field.name for field in attrs.fields(Limits))
_NO_LIMIT = 2**31
_ADMITTED = LimitPolicy(
    maximum=Limits(
        cpu=_NO_LIMIT,
        memory_mb=_NO_LIMIT,
        pids=_NO_LIMIT,
        disk_mb=_NO_LIMIT,
        timeout_s=_NO_LIMIT,
        output_mb=_NO_LIMIT,
    )
)


def _parse(body: object, policy: LimitPolicy) -> TaskSpec:
    fields = as_object(body, "", _FIELDS)
    given = {name: value for name, value in fields.items() if value is not None}
    spec = TaskSpec(
        commands=_commands(given.get("commands", [])),
        title=as_text(given.get("title", ""), "title", maximum=MAX_TITLE, pattern=_ONE_LINE, form="one line of text"),
        description=as_text(given.get("description", ""), "description", maximum=MAX_DESCRIPTION),
        project=_optional(given, "project", MAX_PROJECT, _PROJECT, "a name like team/tool"),
        repository=_repository(given.get("repository")),
        input=_input(given["input"]) if "input" in given else None,
        language=_optional(given, "language", MAX_WORD, WORD, "a language like python"),
        shell=_shell(given.get("shell")),
        image=_optional(given, "image", MAX_IMAGE, _IMAGE, "an image reference like chorus-python-dev:1"),
        env=_env(given.get("env", {})),
        limits=_limits(given.get("limits", {}), policy),
        artifacts=as_list(
            given.get("artifacts", list(ALL_ARTIFACTS)), "artifacts", MAX_ARTIFACTS, _artifact, distinct=True
        ),
        required=_required(given.get("required", {})),
        priority=as_integer(given.get("priority", DEFAULT_PRIORITY), "priority", LOWEST_PRIORITY, HIGHEST_PRIORITY),
        depends_on=as_list(given.get("depends_on", []), "depends_on", MAX_DEPENDS_ON, _task_id, distinct=True),
        retries=as_integer(given.get("retries", 0), "retries", 0, MAX_RETRIES),
        idempotency_key=_optional(
            given, "idempotency_key", MAX_IDEMPOTENCY_KEY, _KEY, "printable ASCII without spaces"
        ),
        ai=_ai(given["ai"]) if "ai" in given else None,
    )
    if not spec.commands and spec.ai is None:
        raise SpecError("commands", "must name at least one command (or ask for a model with ai)")
    return spec


def _optional(
    given: Mapping[str, object], name: str, maximum: int, pattern: re.Pattern[str], form: str, parent: str = ""
) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    return as_text(value, path_of(parent, name), minimum=1, maximum=maximum, pattern=pattern, form=form)


def _shell(value: object) -> str | None:
    if value is not None and value not in SHELLS:
        raise SpecError("shell", f"{shown(value)} is not one of {', '.join(SHELLS)}")
    return value


def _know_language(spec: TaskSpec) -> None:
    """A language nobody has an image for is a slip of the pen, unless the task brings an image of its own."""
    name = spec.language
    if name is None or spec.image is not None or languages.canonical(name) is not None:
        return
    near = difflib.get_close_matches(name.lower(), languages.ALIASES, 1, 0.75)
    hint = f", did you mean {near[0]}?" if near else "."
    known = ", ".join(languages.LANGUAGES)
    raise SpecError("language", f"{name} is not known{hint} Known are {known}; for any other, name an image")


def _word(value: object, field: str) -> str:
    return as_text(value, field, minimum=1, maximum=MAX_WORD, pattern=WORD, form="a word like python or gpu/cuda")


def _task_id(value: object, field: str) -> str:
    if not ids.is_task_id(value):
        raise SpecError(field, f"{shown(value)} is not a task id")
    return cast("str", value)


def _commands(value: object) -> tuple[Command, ...]:
    commands = as_list(value, "commands", MAX_COMMANDS, _command)
    total = sum(len(part.encode()) + 1 for item in commands for part in ((item,) if isinstance(item, str) else item))
    if total > MAX_COMMANDS_TOTAL:
        raise SpecError("commands", f"are {total} bytes together, the most is {MAX_COMMANDS_TOTAL}")
    return commands


def _command(value: object, field: str) -> Command:
    if isinstance(value, str):
        text = as_text(value, field, maximum=MAX_COMMAND)
        if not text.strip():
            raise SpecError(field, "must not be empty")
        return text
    if not isinstance(value, list | tuple):
        raise SpecError(field, f"must be a shell command (string) or an argv (list of strings), not {shown(value)}")
    argv = as_list(value, field, MAX_ARGUMENTS, lambda item, path: as_text(item, path, maximum=MAX_COMMAND))
    if not argv or not argv[0]:
        raise SpecError(field, "must begin with the program to run")
    return argv


def _repository(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and _CREDENTIALS.match(value):
        raise SpecError("repository", "must not hold a password; agents use their own credentials")
    return as_text(
        value,
        "repository",
        minimum=1,
        maximum=MAX_REPOSITORY,
        pattern=_REPOSITORY,
        form="a repository like https://example.org/team/tool.git",
    )


def _input(value: object) -> Input:
    fields = {k: v for k, v in as_object(value, "input", ("sha256", "inline")).items() if v is not None}
    if len(fields) != 1:
        raise SpecError("input", "must have exactly one of sha256 and inline")
    if "sha256" in fields:
        return Input(
            sha256=as_text(
                fields["sha256"], "input.sha256", maximum=64, pattern=SHA256, form="a SHA-256 in lower-case hexadecimal"
            )
        )
    text = as_text(fields["inline"], "input.inline", minimum=1, maximum=(MAX_INLINE + 2) // 3 * 4)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SpecError("input.inline", "is not base64") from None
    if len(data) > MAX_INLINE:
        raise SpecError("input.inline", f"is {len(data)} bytes, the most is {MAX_INLINE}; upload it as a blob")
    return Input(inline=data)


def _input_to_json(value: Input) -> JSON:
    if value.inline is not None:
        return {"inline": base64.b64encode(value.inline).decode()}
    return {"sha256": value.sha256}


def _env(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise SpecError("env", f"must be an object, not {shown(value)}")
    if len(value) > MAX_ENV:
        raise SpecError("env", f"has {len(value)} variables, the most is {MAX_ENV}")
    env: dict[str, str] = {}
    total = 0
    for name, text in value.items():
        as_text(name, "env", minimum=1, maximum=MAX_ENV_NAME, pattern=_ENV_NAME, form="a variable name like PATH_INFO")
        env[name] = as_text(text, f"env.{name}", maximum=MAX_ENV_VALUE)
        total += len(name) + len(env[name].encode()) + 2
    if total > MAX_ENV_TOTAL:
        raise SpecError("env", f"is {total} bytes together, the most is {MAX_ENV_TOTAL}")
    return env


def _limits(value: object, policy: LimitPolicy) -> Limits:
    fields = as_object(value, "limits", _LIMITS)
    chosen: dict[str, float] = {}
    for name in _LIMITS:
        default = getattr(policy.default, name)
        asked = fields.get(name)
        if asked is None:
            # A default over the maximum is the operator's slip; the maximum is the promise.
            chosen[name] = min(default, getattr(policy.maximum, name))
            continue
        bounds = getattr(MINIMUM_LIMITS, name), getattr(policy.maximum, name)
        field = f"limits.{name}"
        chosen[name] = as_integer(asked, field, *bounds) if type(default) is int else as_number(asked, field, *bounds)
    return Limits(**chosen)  # type: ignore[arg-type]


def _artifact(value: object, field: str) -> str:
    glob = as_text(value, field, minimum=1, maximum=MAX_ARTIFACT, pattern=_ONE_LINE, form="one line of text")
    if glob.startswith("/"):
        raise SpecError(field, "must be relative to /workspace/output")
    parts = glob.split("/")
    if ".." in parts:
        raise SpecError(field, "must not hold ..")
    if "\\" in glob:
        raise SpecError(field, "must use / between folders")
    if not all(parts[:-1]):
        raise SpecError(field, "must not hold an empty folder name")
    if len(_WILDCARDS.findall(glob)) > MAX_ARTIFACT_WILDCARDS:
        raise SpecError(field, f"has too many wildcards, the most is {MAX_ARTIFACT_WILDCARDS}")
    return glob


def _required(value: object) -> Required:
    fields = as_object(value, "required", ("role", "expertise", "capabilities"))
    role = fields.get("role")

    def words(name: str) -> tuple[str, ...]:
        given = fields.get(name)
        return as_list([] if given is None else given, f"required.{name}", MAX_REQUIRED, _word, distinct=True)

    return Required(
        role=None if role is None else _word(role, "required.role"),
        expertise=words("expertise"),
        capabilities=words("capabilities"),
    )


def _ai(value: object) -> AIRequest:
    fields = as_object(value, "ai", ("provider", "model", "max_iterations"))
    iterations = fields.get("max_iterations")
    return AIRequest(
        provider=_optional(fields, "provider", MAX_WORD, WORD, "a provider like ollama", "ai"),
        model=_optional(fields, "model", MAX_AI_NAME, _KEY, "a model name", "ai"),
        max_iterations=None
        if iterations is None
        else as_integer(iterations, "ai.max_iterations", 1, MAX_AI_ITERATIONS),
    )
