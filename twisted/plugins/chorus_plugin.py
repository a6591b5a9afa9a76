"""`twistd chorus`: one lazy maker, so that `twistd --help` loads nothing of CHORUS."""

from twisted.application.service import ServiceMaker

chorus = ServiceMaker(  # type: ignore[no-untyped-call]
    "CHORUS",
    "chorus.tap",
    "Peer-to-peer coordination of autonomous agents and people (agent, hap, config)",
    "chorus",
)
