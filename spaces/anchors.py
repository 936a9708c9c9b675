"""Anchors: the candidates that every study trains for reference, before any other."""

from collections.abc import Callable, Mapping

from sharetune.spaces.forms import Drop
from sharetune.spaces.group import Group
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.registry import Registry
from sharetune.spaces.stack_shape import StackShape

Stacks = Mapping[str, StackShape]
"""The model's stacks by name."""

ANCHORS: Registry[Callable[[Stacks], SharingPlan]] = Registry("anchor")
"""Anchors by name: functions from the model's stacks to the plan."""

UNSHARED = "unshared"
"""Name of the anchor that every comparison is made against: the model without sharing."""

USUAL = (UNSHARED, "tied", "drop-third", "drop-half")
"""Anchors of a study that names none."""


@ANCHORS.register(UNSHARED)
def unshared(_: Stacks) -> SharingPlan:
    """the model as it is"""
    return SharingPlan()


@ANCHORS.register("tied")
def tied(stacks: Stacks) -> SharingPlan:
    """all layers of each stack read one bank"""
    return SharingPlan(groups=tuple(Group(layers="all", stack=name) for name in stacks))


@ANCHORS.register("drop-third")
def drop_third(stacks: Stacks) -> SharingPlan:
    """a third of the layers is removed: the middle ones, or by measured effect"""
    return _drop_middle(stacks, 3)


@ANCHORS.register("drop-half")
def drop_half(stacks: Stacks) -> SharingPlan:
    """half of the layers is removed: the middle ones, or by measured effect"""
    return _drop_middle(stacks, 2)


@ANCHORS.register("drop-to-one")
def drop_to_one(stacks: Stacks) -> SharingPlan:
    """all layers of each stack but one are removed, which is as small as all tied"""
    deep = {name: tuple(range(1, shape.depth)) for name, shape in stacks.items()}
    groups = (Group(layers=rest, stack=name, form=Drop()) for name, rest in deep.items() if rest)
    return SharingPlan(groups=tuple(groups))


def _drop_middle(stacks: Stacks, divisor: int) -> SharingPlan:
    groups = []
    for name, shape in stacks.items():
        count = shape.depth // divisor
        first = (shape.depth - count) // 2
        if count:
            layers = tuple(range(first, first + count))
            groups.append(Group(layers=layers, stack=name, form=Drop()))
    return SharingPlan(groups=tuple(groups))
