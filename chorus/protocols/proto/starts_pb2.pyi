from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class StartRecord(_message.Message):
    __slots__ = ("count", "instance", "at_ms")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    count: int
    instance: bytes
    at_ms: int
    def __init__(self, count: _Optional[int] = ..., instance: _Optional[bytes] = ..., at_ms: _Optional[int] = ...) -> None: ...
