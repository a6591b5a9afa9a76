from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Position(_message.Message):
    __slots__ = ("term", "index")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    term: int
    index: int
    def __init__(self, term: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("term", "kind", "data")
    TERM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    term: int
    kind: int
    data: bytes
    def __init__(self, term: _Optional[int] = ..., kind: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Append(_message.Message):
    __slots__ = ("term", "prev", "commit", "entries")
    TERM_FIELD_NUMBER: _ClassVar[int]
    PREV_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    term: int
    prev: Position
    commit: int
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, term: _Optional[int] = ..., prev: _Optional[_Union[Position, _Mapping]] = ..., commit: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class AppendReply(_message.Message):
    __slots__ = ("term", "ok", "match")
    TERM_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    term: int
    ok: bool
    match: int
    def __init__(self, term: _Optional[int] = ..., ok: _Optional[bool] = ..., match: _Optional[int] = ...) -> None: ...

class Pull(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: Position
    def __init__(self, after: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class Pulled(_message.Message):
    __slots__ = ("prev", "commit", "entries", "snapshot")
    PREV_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    prev: Position
    commit: int
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    snapshot: bool
    def __init__(self, prev: _Optional[_Union[Position, _Mapping]] = ..., commit: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., snapshot: _Optional[bool] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("append", "reply", "pull", "pulled")
    APPEND_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    PULLED_FIELD_NUMBER: _ClassVar[int]
    append: Append
    reply: AppendReply
    pull: Pull
    pulled: Pulled
    def __init__(self, append: _Optional[_Union[Append, _Mapping]] = ..., reply: _Optional[_Union[AppendReply, _Mapping]] = ..., pull: _Optional[_Union[Pull, _Mapping]] = ..., pulled: _Optional[_Union[Pulled, _Mapping]] = ...) -> None: ...
