"""The distributed hash table of a node: walks, stored records, republishing."""
