"""Messages of `/chorus/election/1.0.0` as bytes (`proto/election.proto`), and the certificate of an office. Pure."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from chorus.errors import LimitExceeded, PeerError
from chorus.identity import MAX_PEER_ID_TEXT
from chorus.protocols.ballot.messages import (
    Answer,
    ElectionMessage,
    Grant,
    Heartbeat,
    LogPosition,
    OfficeCertificate,
    PreVote,
    PreVoteReply,
    RequestVote,
    TransferNow,
    Vote,
)
from chorus.protocols.ballot.roster import MAX_ROSTER, MAX_VOTERS
from chorus.protocols.ballot.score import MAX_SCORE
from chorus.protocols.proto import election_pb2 as wire

MAX_FRAME: Final = 16 * 1024
"""Bytes: a heartbeat with a certificate of seven votes and the two rosters that it may name."""
MAX_SHOWN_ROSTERS: Final = 2
"""Of one heartbeat: the certificate's, and the one in force."""
MAX_SIGNATURE: Final = 64
"""Bytes of an Ed25519 signature."""
MAX_NUMBER: Final = 2**62
"""Of terms, rounds and nonces; SQLite keeps it, and adding to it overflows nothing."""
_SHA256: Final = 32
_ANSWERS: Final[tuple[Answer, ...]] = ("no", "yes", "wait")


class BadElectionMessage(PeerError):
    """Bytes that are no message of `/chorus/election/1.0.0`."""

    code = "bad_election_message"


def encode(message: ElectionMessage) -> bytes:
    """One message without its length, at most `MAX_FRAME` bytes."""
    return _frame(message).SerializeToString()


def encode_office(certificate: OfficeCertificate) -> bytes:
    return _wire_office(certificate).SerializeToString()


def decode(data: bytes) -> ElectionMessage:
    """Inverse of `encode`. Raises `BadElectionMessage` or `LimitExceeded`."""
    if len(data) > MAX_FRAME:
        raise LimitExceeded("election.frame", len(data), MAX_FRAME)
    try:
        frame = wire.Frame.FromString(data)
    except DecodeError:
        raise BadElectionMessage("no message of the election") from None
    match frame.WhichOneof("message"):
        case "pre_vote":
            return _pre_vote(frame.pre_vote)
        case "pre_vote_reply":
            return _pre_vote_reply(frame.pre_vote_reply)
        case "request_vote":
            return _request_vote(frame.request_vote)
        case "vote":
            vote = frame.vote
            return Vote(_number(vote.term), _number(vote.own_term), vote.granted, _signature(vote.signature))
        case "heartbeat":
            return _heartbeat(frame.heartbeat)
        case "grant":
            return _grant(frame.grant)
        case "transfer":
            return _transfer(frame.transfer)
    raise BadElectionMessage("a message of the election without a kind, or of a later one")


def decode_office(data: bytes) -> OfficeCertificate:
    """Inverse of `encode_office`; nothing of it is verified. Raises `BadElectionMessage` or `LimitExceeded`."""
    if len(data) > MAX_FRAME:
        raise LimitExceeded("election.frame", len(data), MAX_FRAME)
    try:
        return _office(wire.Office.FromString(data))
    except DecodeError:
        raise BadElectionMessage("no certificate of an office") from None


def _frame(message: ElectionMessage) -> wire.Frame:
    match message:
        case PreVote(term, roster, last, score, transfer):
            return wire.Frame(
                pre_vote=wire.PreVote(
                    term=term, roster=roster, last=_wire_last(last), score=score, transfer=_wire_transfer(transfer)
                )
            )
        case PreVoteReply(term, own_term, answer):
            reply = wire.PreVoteReply(term=term, own_term=own_term, answer=_ANSWERS.index(answer))
            return wire.Frame(pre_vote_reply=reply)
        case RequestVote(term, roster, last, transfer):
            request = wire.RequestVote(
                term=term, roster=roster, last=_wire_last(last), transfer=_wire_transfer(transfer)
            )
            return wire.Frame(request_vote=request)
        case Vote(term, own_term, granted, signature):
            return wire.Frame(vote=wire.Vote(term=term, own_term=own_term, granted=granted, signature=signature))
        case Heartbeat():
            return wire.Frame(heartbeat=_wire_heartbeat(message))
        case Grant(own_term, round, nonce, granted, score, signature):
            grant = wire.Grant(
                own_term=own_term, round=round, nonce=nonce, granted=granted, score=score, signature=signature
            )
            return wire.Frame(grant=grant)
        case TransferNow():
            return wire.Frame(transfer=_wire_transfer(message))


def _wire_last(position: LogPosition) -> wire.LogPosition:
    return wire.LogPosition(term=position.term, index=position.index)


def _wire_transfer(transfer: TransferNow | None) -> wire.Transfer | None:
    if transfer is None:
        return None
    return wire.Transfer(
        epoch=transfer.epoch,
        term=transfer.term,
        admin=transfer.admin,
        target=transfer.target,
        signature=transfer.signature,
    )


def _wire_office(office: OfficeCertificate) -> wire.Office:
    votes = [wire.SignedVote(voter=voter, signature=signature) for voter, signature in office.votes]
    return wire.Office(
        epoch=office.epoch, term=office.term, admin=office.admin, roster_sha256=office.roster_sha256, votes=votes
    )


def _wire_heartbeat(message: Heartbeat) -> wire.Heartbeat:
    return wire.Heartbeat(
        term=message.term,
        epoch=message.epoch,
        roster_sha256=message.roster_sha256,
        round=message.round,
        nonce=message.nonce,
        certificate=None if message.certificate is None else _wire_office(message.certificate),
        rosters=message.rosters,
        transfer=_wire_transfer(message.transfer),
    )


def _pre_vote(raw: wire.PreVote) -> PreVote:
    transfer = _transfer(raw.transfer) if raw.HasField("transfer") else None
    return PreVote(_number(raw.term), _roster(raw.roster), _last(raw.last), _score(raw.score), transfer)


def _pre_vote_reply(raw: wire.PreVoteReply) -> PreVoteReply:
    if raw.answer >= len(_ANSWERS):
        raise BadElectionMessage(f"an answer {raw.answer} that this version does not know")
    return PreVoteReply(_number(raw.term), _number(raw.own_term), _ANSWERS[raw.answer])


def _request_vote(raw: wire.RequestVote) -> RequestVote:
    transfer = _transfer(raw.transfer) if raw.HasField("transfer") else None
    return RequestVote(_number(raw.term), _roster(raw.roster), _last(raw.last), transfer)


def _heartbeat(raw: wire.Heartbeat) -> Heartbeat:
    if len(raw.rosters) > MAX_SHOWN_ROSTERS:
        raise LimitExceeded("election.rosters", len(raw.rosters), MAX_SHOWN_ROSTERS)
    return Heartbeat(
        term=_number(raw.term),
        epoch=_number(raw.epoch),
        roster_sha256=_sha256(raw.roster_sha256),
        round=_number(raw.round),
        nonce=_number(raw.nonce),
        certificate=_office(raw.certificate) if raw.HasField("certificate") else None,
        rosters=tuple(_roster(each) for each in raw.rosters),
        transfer=_transfer(raw.transfer) if raw.HasField("transfer") else None,
    )


def _grant(raw: wire.Grant) -> Grant:
    round, nonce = _number(raw.round), _number(raw.nonce)
    return Grant(_number(raw.own_term), round, nonce, raw.granted, _score(raw.score), _signature(raw.signature))


def _transfer(raw: wire.Transfer) -> TransferNow:
    epoch, term = _number(raw.epoch), _number(raw.term)
    return TransferNow(epoch, term, _peer(raw.admin), _peer(raw.target), _signature(raw.signature))


def _office(raw: wire.Office) -> OfficeCertificate:
    if len(raw.votes) > MAX_VOTERS:
        raise LimitExceeded("election.votes", len(raw.votes), MAX_VOTERS)
    votes = tuple((_peer(each.voter), _signature(each.signature)) for each in raw.votes)
    return OfficeCertificate(_number(raw.epoch), _number(raw.term), _peer(raw.admin), _sha256(raw.roster_sha256), votes)


def _last(raw: wire.LogPosition) -> LogPosition:
    return LogPosition(_number(raw.term), _number(raw.index))


def _number(value: int) -> int:
    if value > MAX_NUMBER:
        raise LimitExceeded("election.number", value, MAX_NUMBER)
    return value


def _score(value: int) -> int:
    if value > MAX_SCORE:
        raise LimitExceeded("election.score", value, MAX_SCORE)
    return value


def _peer(value: str) -> str:
    if not value or len(value) > MAX_PEER_ID_TEXT:
        raise BadElectionMessage("a peer id that is empty or too long")
    return value


def _roster(value: bytes) -> bytes:
    if len(value) > MAX_ROSTER:
        raise LimitExceeded("election.roster", len(value), MAX_ROSTER)
    return value


def _sha256(value: bytes) -> bytes:
    if len(value) != _SHA256:
        raise BadElectionMessage(f"a hash of {len(value)} bytes")
    return value


def _signature(value: bytes) -> bytes:
    if len(value) > MAX_SIGNATURE:
        raise LimitExceeded("election.signature", len(value), MAX_SIGNATURE)
    return value
