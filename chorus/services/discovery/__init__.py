"""Finding peers: bootstrap, mDNS, members."""
