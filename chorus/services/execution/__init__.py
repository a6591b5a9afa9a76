"""Running tasks that schedulers assign to this node."""
