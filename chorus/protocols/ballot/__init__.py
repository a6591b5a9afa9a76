"""Parts of the election (spec/election.md 4); `chorus/protocols/election.py` is its face."""
