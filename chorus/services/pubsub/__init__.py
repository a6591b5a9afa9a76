"""Pub/sub over the connections of a host."""
