"""What can be searched: sharing plans, recipes, spaces and presets. Needs no torch, no ray."""

from spaces.plan import Group, SharingPlan
from spaces.recipe import Candidate, Recipe

__all__ = ["Candidate", "Group", "Recipe", "SharingPlan"]
