"""A virtual network, clock and disk for whole nodes in one process; for tests and `chorus simulate`, nothing else."""
