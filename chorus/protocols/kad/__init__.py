"""Parts of the Kademlia core (`chorus/protocols/kademlia.py` is its face): values in, values out. Pure."""
