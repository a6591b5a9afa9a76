from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("proof", "certificate", "cluster_id")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    certificate: bytes
    cluster_id: bytes
    def __init__(self, proof: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., cluster_id: _Optional[bytes] = ...) -> None: ...
