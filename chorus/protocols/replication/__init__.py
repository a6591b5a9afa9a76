"""Parts of the replicated journal; `chorus/protocols/journal.py` is its face."""
