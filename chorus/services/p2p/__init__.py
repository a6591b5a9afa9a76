"""The host: listeners, dials, connections, and the protocols that peers may open on them."""
