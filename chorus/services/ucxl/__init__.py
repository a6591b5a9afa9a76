"""Decisions of agents: published, indexed, read again."""
