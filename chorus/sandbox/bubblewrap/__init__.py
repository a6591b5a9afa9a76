"""Tasks in bubblewrap: no engine, a process tree of the agent's own."""
