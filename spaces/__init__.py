"""What can be searched: sharing plans, recipes, spaces and presets. Needs no torch, no ray."""

from sharetune.spaces.plan import Group, SharingPlan
from sharetune.spaces.recipe import Candidate, Recipe

__all__ = ["Candidate", "Group", "Recipe", "SharingPlan"]
