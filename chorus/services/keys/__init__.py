"""The roles of the cluster, and the keys of those that this node holds."""
