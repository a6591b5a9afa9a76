"""Networks of Kademlia servers without bytes (tier D): the core of protocols/kad on simulated links."""
