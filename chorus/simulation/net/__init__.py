"""The simulated network and reactor."""
