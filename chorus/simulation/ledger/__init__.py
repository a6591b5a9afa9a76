"""The model of the replicated ledger and its checkers."""
