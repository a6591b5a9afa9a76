"""Noise XX over libp2p: the handshake, the session, the cipher."""
