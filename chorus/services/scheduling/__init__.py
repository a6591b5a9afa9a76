"""The tasks of this node: intake, placement, custody, end."""
