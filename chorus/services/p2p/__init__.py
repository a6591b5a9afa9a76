"""The host: listeners, dials, connections and who may open what on them."""
