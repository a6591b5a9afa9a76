"""Tasks in containers of a Docker engine."""
