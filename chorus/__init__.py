"""CHORUS: autonomous agents and people working on software tasks together, without a central server."""

__version__ = "0.5.0"
