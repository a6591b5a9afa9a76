"""A decision as in-toto Statement v1 with SLSA provenance v1, in a DSSE envelope. Pure.

Sources: in-toto attestation framework, Statement v1; slsa.dev/provenance/v1; DSSE v1.0.2 (secure-systems-lab/dsse). The
statement follows from the decision alone, so whoever may read that can make it again and compare.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from typing import TYPE_CHECKING, Final, cast

import attrs

from chorus import strictjson
from chorus.errors import PeerError
from chorus.fields.members import cut
from chorus.identity import Identity, KeyType, PeerId
from chorus.ucxl.address import exact
from chorus.ucxl.documents import RecordError
from chorus.ucxl.record import MAX_RECORD, Decision, DecisionInput

if TYPE_CHECKING:
    from chorus.seams import JSON

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
BUILD_TYPE: Final = "urn:chorus:build:task:1"
"""`externalParameters`: the commands; `internalParameters`: sandbox and limits in effect. docs/ucxl.md describes it."""
DECISION_TYPE: Final = "urn:chorus:build:decision:1"
"""Of a decision that no task made: `externalParameters` has its kind and summary."""

MAX_ENVELOPE: Final = 4 * MAX_RECORD
"""Bytes: a statement says less than its record, in base64, with the names of its members."""
MAX_SIGNATURES: Final = 16
"""Signatures of one envelope that are verified."""


@attrs.frozen
class ProvenanceEnvelope:
    """`signatures`: (key id, signature) each; the key id of ours is the signer's peer id, which holds its key."""

    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]
    payload_type: str = PAYLOAD_TYPE

    def document(self) -> dict[str, JSON]:
        """The envelope in the JSON form of DSSE."""
        return {
            "payloadType": self.payload_type,
            "payload": base64.b64encode(self.payload).decode(),
            "signatures": [{"keyid": key, "sig": base64.b64encode(each).decode()} for key, each in self.signatures],
        }

    @classmethod
    def decode(cls, data: bytes) -> ProvenanceEnvelope:
        """Its form alone; other members are passed over, as DSSE says. Raises `RecordError`."""
        value = strictjson.loads(data, max_bytes=MAX_ENVELOPE, error=RecordError)
        try:
            found = cast("dict[str, JSON]", value)
            signatures = cast("list[dict[str, str]]", found["signatures"])
            if not 0 < len(signatures) <= MAX_SIGNATURES:
                raise RecordError(f"an envelope has 1 to {MAX_SIGNATURES} signatures")
            pairs = tuple((str(each.get("keyid", "")), _decode(each["sig"])) for each in signatures)
            return cls(_decode(found["payload"]), pairs, str(found["payloadType"]))
        except (KeyError, TypeError, AttributeError):
            raise RecordError("not a DSSE envelope") from None

    def verify(self) -> tuple[PeerId, ...]:
        """The signers. Raises `RecordError` unless all signatures hold, and each by a peer whose id is its key."""
        signers = []
        signed = pae(self.payload_type, self.payload)
        for key_id, signature in self.signatures:
            try:
                signer = PeerId.parse(key_id)
                key = signer.public_key()
                if key is None or key.type is not KeyType.ED25519:
                    raise RecordError(f"{key_id} does not hold an Ed25519 key")
                key.verify(signed, signature)
            except PeerError as error:
                raise RecordError(f"the envelope's signature is refused: {error}") from None
            signers.append(signer)
        return tuple(signers)

    def check(self, decision: Decision) -> tuple[PeerId, ...]:
        """The signers of the statement on this very decision. Raises `RecordError`."""
        signers = self.verify()
        if self.payload_type != PAYLOAD_TYPE or self.payload != strictjson.canonical(statement(decision)):
            raise RecordError("the statement does not follow from the decision")
        return signers


def envelope(decision: Decision, identity: Identity) -> ProvenanceEnvelope:
    """The statement on a decision, signed."""
    payload = strictjson.canonical(statement(decision))
    signature = identity.sign(pae(PAYLOAD_TYPE, payload))
    return ProvenanceEnvelope(payload, ((str(identity.peer_id), signature),))


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding of DSSE: type and payload, each with its length before it."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def statement(decision: Decision) -> dict[str, JSON]:
    """Subjects are the artifacts by the hashes of their plain content; a decision without any is its own subject."""
    itself = _resource(exact(decision.address, decision.content_hash), decision.content_hash)
    made: list[JSON] = [_resource(each.name, each.sha256) for each in decision.artifacts]
    return {
        "_type": STATEMENT_TYPE,
        "subject": made or [itself],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"buildDefinition": _definition(decision), "runDetails": _details(decision, itself)},
    }


def _definition(decision: Decision) -> dict[str, JSON]:
    run = decision.run
    dependencies: list[JSON] = [_dependency(each) for each in decision.inputs]
    if run is None:
        external: dict[str, JSON] = {"kind": decision.kind, "summary": decision.summary}
        return {
            "buildType": DECISION_TYPE,
            "externalParameters": external,
            "resolvedDependencies": dependencies,
        }
    if run.image is not None:
        dependencies.append(_image(run.image))
    limits: JSON = None if run.limits is None else cast("JSON", attrs.asdict(run.limits))
    internal: dict[str, JSON] = {"sandbox": run.sandbox, "limits": limits}
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {"commands": list(run.commands)},
        "internalParameters": {name: item for name, item in internal.items() if item is not None},
        "resolvedDependencies": dependencies,
    }


def _details(decision: Decision, itself: JSON) -> dict[str, JSON]:
    run = decision.run
    began, ended = (decision.created, decision.created) if run is None else (run.started, run.ended)
    metadata: dict[str, JSON] = {
        "invocationId": exact(decision.address, decision.content_hash),
        "startedOn": _moment(began),
        "finishedOn": _moment(ended),
    }
    return {
        "builder": {"id": f"urn:chorus:agent:{decision.peer_id}"},
        "metadata": {name: item for name, item in metadata.items() if item is not None},
        "byproducts": [itself],
    }


def _resource(name: str, sha256: str) -> dict[str, JSON]:
    return {"name": name, "digest": {"sha256": sha256}}


def _dependency(given: DecisionInput) -> dict[str, JSON]:
    found: dict[str, JSON] = {"name": given.name}
    if given.uri is not None:
        found["uri"] = given.uri
    if given.sha256 is not None:
        found["digest"] = {"sha256": given.sha256}
    return found


def _image(image: str) -> dict[str, JSON]:
    name, _, digest = image.rpartition("@sha256:")
    found: dict[str, JSON] = {"name": "image", "uri": f"docker://{image}" if name else image}
    if name:
        found["digest"] = {"sha256": cut(digest, 64)}
    return found


def _moment(unix: int) -> JSON:
    """RFC 3339; None for a year that it cannot write."""
    try:
        return datetime.datetime.fromtimestamp(unix, datetime.UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


def _decode(text: JSON) -> bytes:
    """base64, in the standard or the URL-safe alphabet, as DSSE allows."""
    if not isinstance(text, str):
        raise RecordError("not a DSSE envelope")
    try:
        return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
    except (binascii.Error, ValueError):
        raise RecordError("an envelope's payload and signatures are in base64") from None
