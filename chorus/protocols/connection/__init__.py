"""A connection: its state machine, upgrade, limits and Twisted shell."""
