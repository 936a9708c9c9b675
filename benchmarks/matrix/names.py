"""Names of the matrix's methods, in the order of its columns."""

UNSHARED = "unshared"
FOUND = "ShareTune"
"""Plans that ShareTune chooses: by a search from scratch, by solving scores of a checkpoint."""

DROPS = "drops"
NARROWING = "narrowing"
LOW_RANK = "low rank"
TIED = "ALBERT's tie"
SMALLER = "smaller, equal compute"
"""An unshared model from scratch with fewer layers, trained for what the found plan cost with its
part of the search."""

SHARING = "sharing alone"
"""Without a search: layers tied in cycles, or the cheapest shared edits of a checkpoint."""

EQUAL_STEPS = (DROPS, NARROWING, LOW_RANK, TIED)
"""Rivals that are trained as many steps as ShareTune's plan."""

METHODS = (UNSHARED, *EQUAL_STEPS, SMALLER, SHARING, FOUND)

PARTS = (0.8, 0.6, 0.4, 0.2)
"""Sizes: fractions of the unshared stacks' parameters that a plan stores at most."""
