"""yamux (libp2p's specification), without I/O: the session, its streams and their output."""
