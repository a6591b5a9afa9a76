from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogPosition(_message.Message):
    __slots__ = ("term", "index")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    term: int
    index: int
    def __init__(self, term: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ("epoch", "term", "admin", "target", "signature")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    term: int
    admin: str
    target: str
    signature: bytes
    def __init__(self, epoch: _Optional[int] = ..., term: _Optional[int] = ..., admin: _Optional[str] = ..., target: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SignedVote(_message.Message):
    __slots__ = ("voter", "signature")
    VOTER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    voter: str
    signature: bytes
    def __init__(self, voter: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Office(_message.Message):
    __slots__ = ("epoch", "term", "admin", "roster_sha256", "votes")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    ROSTER_SHA256_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    term: int
    admin: str
    roster_sha256: bytes
    votes: _containers.RepeatedCompositeFieldContainer[SignedVote]
    def __init__(self, epoch: _Optional[int] = ..., term: _Optional[int] = ..., admin: _Optional[str] = ..., roster_sha256: _Optional[bytes] = ..., votes: _Optional[_Iterable[_Union[SignedVote, _Mapping]]] = ...) -> None: ...

class PreVote(_message.Message):
    __slots__ = ("term", "roster", "last", "score", "transfer")
    TERM_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    term: int
    roster: bytes
    last: LogPosition
    score: int
    transfer: Transfer
    def __init__(self, term: _Optional[int] = ..., roster: _Optional[bytes] = ..., last: _Optional[_Union[LogPosition, _Mapping]] = ..., score: _Optional[int] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ...) -> None: ...

class PreVoteReply(_message.Message):
    __slots__ = ("term", "own_term", "answer")
    TERM_FIELD_NUMBER: _ClassVar[int]
    OWN_TERM_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    term: int
    own_term: int
    answer: int
    def __init__(self, term: _Optional[int] = ..., own_term: _Optional[int] = ..., answer: _Optional[int] = ...) -> None: ...

class RequestVote(_message.Message):
    __slots__ = ("term", "roster", "last", "transfer")
    TERM_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    term: int
    roster: bytes
    last: LogPosition
    transfer: Transfer
    def __init__(self, term: _Optional[int] = ..., roster: _Optional[bytes] = ..., last: _Optional[_Union[LogPosition, _Mapping]] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("term", "own_term", "granted", "signature")
    TERM_FIELD_NUMBER: _ClassVar[int]
    OWN_TERM_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    term: int
    own_term: int
    granted: bool
    signature: bytes
    def __init__(self, term: _Optional[int] = ..., own_term: _Optional[int] = ..., granted: _Optional[bool] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("term", "epoch", "roster_sha256", "round", "nonce", "certificate", "rosters", "transfer")
    TERM_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROSTER_SHA256_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROSTERS_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    term: int
    epoch: int
    roster_sha256: bytes
    round: int
    nonce: int
    certificate: Office
    rosters: _containers.RepeatedScalarFieldContainer[bytes]
    transfer: Transfer
    def __init__(self, term: _Optional[int] = ..., epoch: _Optional[int] = ..., roster_sha256: _Optional[bytes] = ..., round: _Optional[int] = ..., nonce: _Optional[int] = ..., certificate: _Optional[_Union[Office, _Mapping]] = ..., rosters: _Optional[_Iterable[bytes]] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("own_term", "round", "nonce", "granted", "score", "signature")
    OWN_TERM_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    own_term: int
    round: int
    nonce: int
    granted: bool
    score: int
    signature: bytes
    def __init__(self, own_term: _Optional[int] = ..., round: _Optional[int] = ..., nonce: _Optional[int] = ..., granted: _Optional[bool] = ..., score: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("pre_vote", "pre_vote_reply", "request_vote", "vote", "heartbeat", "grant", "transfer")
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_REPLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_VOTE_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    pre_vote: PreVote
    pre_vote_reply: PreVoteReply
    request_vote: RequestVote
    vote: Vote
    heartbeat: Heartbeat
    grant: Grant
    transfer: Transfer
    def __init__(self, pre_vote: _Optional[_Union[PreVote, _Mapping]] = ..., pre_vote_reply: _Optional[_Union[PreVoteReply, _Mapping]] = ..., request_vote: _Optional[_Union[RequestVote, _Mapping]] = ..., vote: _Optional[_Union[Vote, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ...) -> None: ...
