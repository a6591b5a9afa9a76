# mypy: ignore-errors
# msgspec is installed for this alone, and classes made from annotations at run time say nothing to a checker of types.
"""Reading JSON documents from outside: chorus.fields beside msgspec and pydantic, in one run.

    python benchmarks/documents.py [--seconds 1] [--words]

Two documents: an envelope with a CapabilityBcast, and the body of a submission of a few KiB; each valid, and refused
for its last member. Every reader is given what `strictjson` made of the text, since the libraries' own parsers take
what it refuses (`--words` shows what, and the words of refusals); their own parsers are measured besides. Prints
microseconds of processor time a document, and for scale what checking the signature of such a message takes. Needs
msgspec, which the node does not: `pip install msgspec`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
import pydantic
from msgspec import Meta

from chorus import strictjson
from chorus.errors import ChorusError
from chorus.identity import Identity
from chorus.messages import CapabilityBcast, Envelope, decode, encode
from chorus.messages import envelope as ours
from chorus.protocols.gossipsub.decode import decode_message
from chorus.protocols.gossipsub.sign import Signer, Verifier
from chorus.tasks.spec import TaskSpec

ME = str(Identity.from_seed(bytes(32)).peer_id)
ROUNDS = 20
REFUSALS = (ChorusError, msgspec.MsgspecError, pydantic.ValidationError)

ENVELOPE: dict[str, Any] = strictjson.loads(
    encode(
        Envelope(
            type="CapabilityBcast",
            id="abcdefgh",
            sender=ME,
            timestamp=1_767_225_600,
            from_role="developer",
            project="team/tool",
            data=CapabilityBcast(
                agent_id="node-7",
                node_id=ME,
                version="0.5.0",
                capabilities=("gpu", "docker", "bubblewrap"),
                expertise=("python", "networking", "cryptography", "databases"),
                models=("qwen:7b", "llama:70b"),
                specialization="backend",
                max_tasks=3,
                current_tasks=1,
                timestamp=1_767_225_600,
                availability="working",
            ),
        )
    )
)
TASK: dict[str, Any] = {
    "title": "Tests of the parser",
    "description": "The parser takes what it should refuse. " * 50,
    "project": "team/tool",
    "repository": "https://example.org/team/tool.git",
    "input": {"sha256": "ab" * 32},
    "language": "python",
    "commands": ["set -e; python3 -m pip install -r requirements.txt", ["python3", "-m", "unittest", "-v"]] * 6,
    "env": {f"VARIABLE_{number}": "a value that is not long" for number in range(16)},
    "limits": {"cpu": 2, "memory_mb": 512, "pids": 64, "disk_mb": 512, "timeout_s": 90.5, "output_mb": 4},
    "artifacts": ["**/*.xml", "report/index.html", "dist/*.whl"],
    "required": {"role": "developer", "expertise": ["python", "networking"], "capabilities": ["docker"]},
    "priority": 7,
    "retries": 2,
    "idempotency_key": "build-7",
}

# The same limits in the libraries' words. Theirs count characters, ours bytes of UTF-8; what a pattern or a number
# cannot say (totals, globs, base64, a model instead of commands) is measured for neither of them.
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Names = Annotated[tuple[Name, ...], Meta(max_length=64)]
Peer = Annotated[str, Meta(min_length=1, max_length=128, pattern="^[1-9A-HJ-NP-Za-km-z]+$")]
Moment = Annotated[int, Meta(ge=0, le=2**40)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class Capability(msgspec.Struct, frozen=True):
    agent_id: Name
    node_id: Peer
    version: Annotated[str, Meta(max_length=128)]
    capabilities: Names
    expertise: Names
    models: Names
    specialization: Annotated[str, Meta(max_length=128)]
    max_tasks: Count
    current_tasks: Count
    timestamp: Moment
    availability: Literal["ready", "working", "busy"]


class Message(msgspec.Struct, frozen=True):
    type: Annotated[str, Meta(max_length=64, pattern="^[A-Za-z][A-Za-z0-9_.]*$")]
    id: Annotated[str, Meta(min_length=8, max_length=64, pattern="^[0-9A-Za-z_-]+$")]
    sender: Peer = msgspec.field(name="from")
    timestamp: Moment
    data: Capability
    from_role: Name | None = None
    to_roles: Names | None = ()
    required_expertise: Names | None = ()
    project: Name | None = None
    thread: Name | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] | None = 5


Word = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._+#/-]*$")]
Words = Annotated[tuple[Word, ...], Meta(max_length=32)]
Command = Annotated[str, Meta(max_length=65536)]
Whole = Annotated[int, Meta(ge=1, le=65536)]
Amount = Annotated[float, Meta(ge=0.01, le=86400)]


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    inline: str | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cpu: Amount | None = None
    memory_mb: Whole | None = None
    pids: Whole | None = None
    disk_mb: Whole | None = None
    timeout_s: Amount | None = None
    output_mb: Whole | None = None


class Required(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Word | None = None
    expertise: Words | None = None
    capabilities: Words | None = None


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    commands: Annotated[tuple[Command | tuple[Command, ...], ...], Meta(max_length=64)] | None = None
    title: Annotated[str, Meta(max_length=256)] | None = None
    description: Annotated[str, Meta(max_length=65536)] | None = None
    project: Annotated[str, Meta(max_length=128, pattern="^[A-Za-z0-9][A-Za-z0-9._/-]*$")] | None = None
    repository: Annotated[str, Meta(max_length=2048, pattern="^(https?|ssh|git)://")] | None = None
    input: Input | None = None
    language: Word | None = None
    env: dict[str, Annotated[str, Meta(max_length=32768)]] | None = None
    limits: Limits | None = None
    artifacts: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=64)] | None = None
    required: Required | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] | None = None
    retries: Annotated[int, Meta(ge=0, le=10)] | None = None
    idempotency_key: Annotated[str, Meta(max_length=128, pattern="^[!-~]+$")] | None = None


def model(struct: Any) -> type[pydantic.BaseModel]:
    """The same declaration for pydantic: strict, frozen, unknown members as there."""

    def of(kind: Any) -> Any:
        if kind in (int, float, str):
            return Annotated[kind, pydantic.Field(strict=True)]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return model(kind)
        if isinstance(kind, Meta):
            words = {"ge": kind.ge, "le": kind.le, "pattern": kind.pattern}
            words |= {"min_length": kind.min_length, "max_length": kind.max_length}
            return pydantic.Field(**{name: value for name, value in words.items() if value is not None})
        if hasattr(kind, "__metadata__"):
            return Annotated[(of(kind.__origin__), *map(of, kind.__metadata__))]
        if getattr(kind, "__args__", None) and not isinstance(kind, type(Literal["x"])):
            arguments = tuple(of(each) for each in kind.__args__)
            if type(kind).__name__ in ("UnionType", "Union", "_UnionGenericAlias"):
                whole = arguments[0]
                for each in arguments[1:]:
                    whole = whole | each
                return whole
            return kind.__origin__[arguments]
        return kind

    hints = typing.get_type_hints(struct, include_extras=True)
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        default = ... if field.default is msgspec.NODEFAULT else field.default
        alias = field.encode_name if field.encode_name != field.name else None
        fields[field.name] = (of(hints[field.name]), pydantic.Field(default, alias=alias))
    extra: Any = "forbid" if struct.__struct_config__.forbid_unknown_fields else "ignore"
    config = pydantic.ConfigDict(strict=False, frozen=True, extra=extra)
    return pydantic.create_model(struct.__name__, __config__=config, **fields)


MODELS = {Message: model(Message), Body: model(Body)}


def microseconds(works: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Of one call of each, which may refuse; the best of many short rounds, taken in turns so that none has the machine
    for itself."""

    def once(work: Callable[[], object], count: int) -> float:
        begun = time.process_time()
        for _ in range(count):
            with suppress(*REFUSALS):
                work()
        return (time.process_time() - begun) / count * 1e6

    best = {name: once(work, 200) for name, work in works.items()}
    for _ in range(ROUNDS):
        for name, work in works.items():
            count = max(1, int(seconds / ROUNDS / best[name] * 1e6))
            best[name] = min(best[name], once(work, count))
    return {name: round(figure, 1) for name, figure in best.items()}


def ours_of_envelope(value: Any) -> object:
    return ours.read(value, ME)


def counted(struct: Any) -> Callable[[Any], object]:
    """msgspec, and what it cannot say of texts: their bytes."""

    def check(text: str, maximum: int) -> None:
        if not text.isascii() and len(text.encode()) > maximum:
            raise msgspec.ValidationError("too long")

    def envelope(value: Any) -> object:
        found = msgspec.convert(value, Message)
        data = found.data
        for text in (data.agent_id, data.version, data.specialization, found.from_role or "", found.project or ""):
            check(text, 128)
        for names in (data.capabilities, data.expertise, data.models, found.to_roles, found.required_expertise):
            for text in names or ():
                check(text, 128)
        if found.sender != ME or data.node_id != ME:
            raise msgspec.ValidationError("another sender")
        return found

    def body(value: Any) -> object:
        found = msgspec.convert(value, Body)
        check(found.title or "", 256)
        check(found.description or "", 65536)
        for command in found.commands or ():
            for text in (command,) if isinstance(command, str) else command:
                check(text, 65536)
        for text in (found.env or {}).values():
            check(text, 32768)
        for text in found.artifacts or ():
            check(text, 512)
        return found

    return envelope if struct is Message else body


def readers(struct: Any, own: Callable[[Any], object]) -> dict[str, Callable[[bytes, Any], object]]:
    pydantic_model = MODELS[struct]
    decoder = msgspec.json.Decoder(struct)
    with_bytes = counted(struct)
    return {
        "strictjson": lambda raw, _: strictjson.loads(raw),
        "ours": lambda _, value: own(value),
        "msgspec": lambda _, value: msgspec.convert(value, struct),
        "msgspec, bytes counted": lambda _, value: with_bytes(value),
        "pydantic": lambda _, value: pydantic_model.model_validate(value),
        "msgspec's own parser": lambda raw, _: decoder.decode(raw),
        "pydantic's own parser": lambda raw, _: pydantic_model.model_validate_json(raw),
    }


def words(work: Callable[[], object]) -> str:
    try:
        work()
    except REFUSALS as refusal:
        return " / ".join(str(refusal).split("\n"))
    return "taken"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each figure")
    parser.add_argument("--words", action="store_true", help="show refusals instead")
    options = parser.parse_args()
    (show_words if options.words else measure)(options.seconds)


def measure(seconds: float) -> None:
    bad_envelope, bad_task = copy.deepcopy(ENVELOPE), copy.deepcopy(TASK)
    bad_envelope["data"]["availability"] = "sleepy"
    bad_task["idempotency_key"] = "build 7"
    for name, value, struct, own in (
        ("envelope, valid", ENVELOPE, Message, ours_of_envelope),
        ("envelope, refused", bad_envelope, Message, ours_of_envelope),
        ("task, valid", TASK, Body, TaskSpec.parse),
        ("task, refused", bad_task, Body, TaskSpec.parse),
    ):
        raw = json.dumps(value).encode()
        works = {
            reader: lambda work=work, raw=raw, value=value: work(raw, value)
            for reader, work in readers(struct, own).items()
        }
        print(json.dumps({"document": name, "bytes": len(raw), "us": microseconds(works, seconds)}))
    raw = json.dumps(ENVELOPE).encode()
    signed = decode_message(Signer(Identity.from_seed(bytes(32))).sign(CapabilityBcast.TOPICS[0], raw, bytes(8)))
    verifier = Verifier()
    works = {"decode": lambda: decode(raw, ME), "its signature": lambda: verifier.verify(signed)}
    print(json.dumps({"document": "envelope, from bytes", "us": microseconds(works, seconds)}))


def show_words(_: float) -> None:
    for struct, own, whole, changes in (
        (Message, ours_of_envelope, ENVELOPE, ENVELOPE_CHANGES),
        (Body, TaskSpec.parse, TASK, TASK_CHANGES),
    ):
        for change in changes:
            value = change(copy.deepcopy(whole))
            for reader, work in list(readers(struct, own).items())[1:5]:
                print(f"{reader:24} {words(lambda work=work, value=value: work(b'', value))}")
            print()
    for text in (b'{"a":1,"a":2}', b"9007199254740993", b'"\\ud800"', b"NaN", b"[" * 200 + b"]" * 200, b"1" * 5000):
        print(text[:24].decode())
        for parser, work in (
            ("strictjson", strictjson.loads),
            ("msgspec", msgspec.json.decode),
            ("pydantic", pydantic.TypeAdapter(Any).validate_json),
        ):
            print(f"    {parser:20} {words(lambda work=work, text=text: work(text))[:90]}")


def changed(*path: str, value: Any) -> Callable[[Any], Any]:
    def change(whole: Any) -> Any:
        inner = whole
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        return whole

    return change


ENVELOPE_CHANGES = (
    changed("data", "max_tasks", value=10**7),
    changed("data", "max_tasks", value=3.0),
    changed("data", "max_tasks", value=True),
    changed("data", "agent_id", value="é" * 100),
    changed("later", value=[1]),
)
TASK_CHANGES = (
    changed("comands", value=["true"]),
    changed("limits", "memory", value=5),
    changed("limits", "memory_mb", value=64.0),
    changed("limits", "cpu", value=3000),
    changed("commands", value=["true", ["echo", 5]]),
    changed("required", "capabilities", value=["a b"]),
)


if __name__ == "__main__":
    main()
