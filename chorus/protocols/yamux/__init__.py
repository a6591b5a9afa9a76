"""yamux: the session, its streams and what they write, without I/O (the specification of libp2p)."""
