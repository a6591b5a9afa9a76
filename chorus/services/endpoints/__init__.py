"""A node's HTTP ports, and what they show."""
