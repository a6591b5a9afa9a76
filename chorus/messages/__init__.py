"""Messages of nodes over pub/sub: one JSON envelope, and a frozen typed value for each type (spec/system.md
2 and 6). docs/messages.md lists them; it is made from this package.

Every quantity is bounded while it is read. Unknown fields are passed over, so that a newer node can say more; an
unknown type is no error either (`UnknownType`): it is forwarded, counted and not understood.
"""

from chorus.fields.members import MAX_NAME, MAX_NAMES, MAX_TEXT, MAX_TITLE, cut
from chorus.messages.collaboration import (
    ExpertiseRequest,
    ExpertiseResponse,
    HelpRequest,
    HelpResponse,
    MetaDiscussion,
)
from chorus.messages.coordination import (
    CoordinationComplete,
    CoordinationRequest,
    DependencyAlert,
    Escalation,
    EscalationAnswer,
)
from chorus.messages.council import CouncilBrief, CouncilClaim, CouncilOpportunity
from chorus.messages.decisions import ContextRequest, ContextUpdate, DecisionAnnouncement, DecisionVote
from chorus.messages.election import Candidacy, ElectionPresence, ElectionResult, IAmAdmin, WhoIsAdmin
from chorus.messages.envelope import MAX_CONTAINERS, MAX_DEPTH, MAX_MESSAGE, Envelope, decode, encode
from chorus.messages.errors import BadEnvelope, ForeignSender, UnknownType
from chorus.messages.health import HealthReport
from chorus.messages.payload import Payload, may_be_said
from chorus.messages.presence import AvailabilityBcast, CapabilityBcast, RoleAnnouncement
from chorus.messages.redaction import redacted
from chorus.messages.tasks import TaskAnnouncement, TaskClaim, TaskProgress, TaskResult, TaskUpdate
from chorus.messages.topics import COORDINATION, DECISIONS, ELECTION, HEALTH, META_DISCUSSION, TASKS
from chorus.messages.types import PAYLOADS

__all__ = [
    "COORDINATION",
    "DECISIONS",
    "ELECTION",
    "HEALTH",
    "MAX_CONTAINERS",
    "MAX_DEPTH",
    "MAX_MESSAGE",
    "MAX_NAME",
    "MAX_NAMES",
    "MAX_TEXT",
    "MAX_TITLE",
    "META_DISCUSSION",
    "PAYLOADS",
    "TASKS",
    "AvailabilityBcast",
    "BadEnvelope",
    "Candidacy",
    "CapabilityBcast",
    "ContextRequest",
    "ContextUpdate",
    "CoordinationComplete",
    "CoordinationRequest",
    "CouncilBrief",
    "CouncilClaim",
    "CouncilOpportunity",
    "DecisionAnnouncement",
    "DecisionVote",
    "DependencyAlert",
    "ElectionPresence",
    "ElectionResult",
    "Envelope",
    "Escalation",
    "EscalationAnswer",
    "ExpertiseRequest",
    "ExpertiseResponse",
    "ForeignSender",
    "HealthReport",
    "HelpRequest",
    "HelpResponse",
    "IAmAdmin",
    "MetaDiscussion",
    "Payload",
    "RoleAnnouncement",
    "TaskAnnouncement",
    "TaskClaim",
    "TaskProgress",
    "TaskResult",
    "TaskUpdate",
    "UnknownType",
    "WhoIsAdmin",
    "cut",
    "decode",
    "encode",
    "may_be_said",
    "redacted",
]
