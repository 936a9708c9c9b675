"""Find the layers of a Transformer, and make them share weights by a plan."""
