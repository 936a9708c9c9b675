"""Sharing plans, recipes, candidates, and spaces to draw them from. Needs no torch, no ray."""

from sharetune.spaces.group import Group
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.recipe import Candidate, Recipe

__all__ = ["Candidate", "Group", "Recipe", "SharingPlan"]
