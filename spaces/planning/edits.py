"""Edits: single changes of the unshared model, each one bound group, of which plans are made."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import Drop, Merge, Narrow
from sharetune.spaces.group import Group
from sharetune.spaces.parts import EXPERTS, FFN, NARROWED, PARTS, WHOLE
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.stack_shape import StackShape

Slot = tuple[str, int, str]
"""Stack, layer, and ``attention`` or ``ffn``: at most one edit of a plan changes each."""


@dataclass(frozen=True)
class Edit:
    """One change of the unshared model: a layer dropped or narrowed, a pair tied, merged ...

    `group` is bound and canonical: absolute layers of a named stack, knobs that whole units can
    reach, one bank. `slots` are the parts of layers it changes; an edit that removes or repeats
    layers, or shares norms, biases or experts, takes both parts; experts count as FFN. Raises
    :class:`PlanError` for any other group.
    """

    group: Group
    slots: frozenset[Slot] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        group = self.group
        if group.stack is None or not group.is_settled or _groups(group) != (group,):
            raise PlanError(
                f"an edit is one bound group that changes the model, but got: {group}",
                "bind it to the model's stacks first: Edit.of(group, stacks)",
            )
        slots = {(group.stack, layer, part) for layer in self.layers for part in self.parts}
        object.__setattr__(self, "slots", frozenset(slots))

    @classmethod
    def of(cls, group: Group, stacks: Mapping[str, StackShape]) -> "tuple[Edit, ...]":
        """Return the edits a group makes in a model with these stacks: one for each bank, and
        none if the group changes nothing."""
        return tuple(map(cls, SharingPlan(groups=(group,)).bound(stacks).groups))

    @property
    def kind(self) -> str:
        """Name of the form."""
        return self.group.form.name

    @property
    def stack(self) -> str:
        """Name of the stack."""
        return cast(str, self.group.stack)

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the changed layers, ascending."""
        return cast(tuple[int, ...], self.group.layers)

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of its layers that no other edit of the same plan may change."""
        group, roles = self.group, set(self.group.parts)
        whole = {*WHOLE, "biases"} - ({EXPERTS} if isinstance(group.form, Narrow) else set())
        if group.form.removes_layers or group.times > 1 or roles & whole:
            return tuple(PARTS)
        members = {**PARTS, "ffn": (*FFN, EXPERTS)}
        return tuple(part for part in PARTS if roles & set(members[part]))

    @property
    def named(self) -> str:
        """Names of its parts joined by ``+``, with ``experts`` where those are shared or kept."""
        roles = set(self.group.parts)
        if self.group.form.removes_layers or EXPERTS not in roles:
            return "+".join(self.parts)
        return "+".join(part for part, members in NARROWED.items() if roles & set(members))

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the layers that do not run any more."""
        return self.group.removed()

    @property
    def is_contiguous(self) -> bool:
        """Whether its layers are adjacent."""
        return self.layers[-1] - self.layers[0] < len(self.layers)

    def untrained(self) -> "Edit":
        """Return the edit that gives the same outputs as long as nothing is trained.

        A merge that starts from one of its layers is a drop of the others; any other edit is
        itself.
        """
        if not isinstance(self.group.form, Merge) or self.group.init == "mean":
            return self
        return Edit(Group(layers=self.removed, stack=self.stack, form=Drop()))

    def key(self) -> str:
        """Return text that is the same for equal edits, in this process and in any other."""
        return json.dumps(self.written(), sort_keys=True, separators=(",", ":"))

    def written(self) -> dict[str, Any]:
        """Return the edit as plain data for JSON, defaults left out."""
        return self.group.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Edit":
        """Read what :meth:`written` returns."""
        return cls(Group.model_validate(written))

    def __str__(self) -> str:
        return str(self.group)


def plan_of(edits: Iterable[Edit]) -> SharingPlan:
    """Combine disjoint edits to one plan; raises :class:`PlanError` if two take the same slot."""
    taken: dict[Slot, Edit] = {}
    edits = tuple(edits)
    for edit in edits:
        for slot in sorted(edit.slots):
            if slot in taken:
                _, layer, part = slot
                raise PlanError(
                    f"each part of a layer takes one edit, but {part} of layer {layer} "
                    f"has two: {taken[slot]}; {edit}",
                    "leave one of the two out",
                )
            taken[slot] = edit
    return SharingPlan(groups=tuple(edit.group for edit in edits))


def _groups(group: Group) -> tuple[Group, ...]:
    return SharingPlan(groups=(group,)).groups
