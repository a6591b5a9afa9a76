"""Decisions: written, published, found again and read (spec/ucxl.md)."""
