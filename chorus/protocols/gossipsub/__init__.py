"""GossipSub 1.1 and 1.2: the parts of the router (chorus/protocols/gossip.py)."""
