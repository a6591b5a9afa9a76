"""Tier D of leadership: election and replicated journal as message objects, with their invariants."""
