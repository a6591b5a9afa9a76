"""Scenarios of pub/sub with hundreds of nodes."""
