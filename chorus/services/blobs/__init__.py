"""Blobs of a node: stored, uploaded, fetched, served."""
