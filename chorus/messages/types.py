"""All types of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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
from chorus.messages.health import HealthReport
from chorus.messages.payload import Payload
from chorus.messages.presence import AvailabilityBcast, CapabilityBcast, RoleAnnouncement
from chorus.messages.tasks import TaskAnnouncement, TaskClaim, TaskProgress, TaskResult, TaskUpdate

_ALL: Final[tuple[type[Payload], ...]] = (
    AvailabilityBcast,
    CapabilityBcast,
    RoleAnnouncement,
    TaskAnnouncement,
    TaskClaim,
    TaskUpdate,
    TaskProgress,
    TaskResult,
    HelpRequest,
    HelpResponse,
    ExpertiseRequest,
    ExpertiseResponse,
    MetaDiscussion,
    DependencyAlert,
    CoordinationRequest,
    CoordinationComplete,
    Escalation,
    EscalationAnswer,
    WhoIsAdmin,
    IAmAdmin,
    ElectionPresence,
    Candidacy,
    ElectionResult,
    DecisionAnnouncement,
    DecisionVote,
    ContextRequest,
    ContextUpdate,
    HealthReport,
    CouncilOpportunity,
    CouncilClaim,
    CouncilBrief,
)

PAYLOADS: Final[Mapping[str, type[Payload]]] = {payload.TYPE: payload for payload in _ALL}
"""By name on the wire, in the order of the documentation."""
