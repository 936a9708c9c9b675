"""Name the parts of a layer: roles of its matrices, and the groups of roles that plans write."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from sharetune.spaces.errors import PlanError
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.settings import reader
from sharetune.spaces.texts import shown

ATTENTION = ("q", "k", "v", "o")
"""Roles of an attention's matrices: query, key, value and output projection."""

FFN = ("fc_in", "gate", "fc_out")
"""Roles of an FFN's matrices; models without a gated FFN have no `gate`."""

EXPERTS = "experts"
"""The role of all experts of a mixture, which layers share whole or keep a fraction of."""

WHOLE = ("norms", EXPERTS)
"""Roles that layers share whole or not at all."""

PARTS: dict[str, tuple[str, ...]] = {"attention": ATTENTION, "ffn": FFN}
"""Names for several roles at once."""

NARROWED: dict[str, tuple[str, ...]] = {**PARTS, EXPERTS: (EXPERTS,)}
"""Parts of whose units a layer may keep a fraction, with their roles."""

ROLES = (*ATTENTION, *FFN, "norms", "biases", EXPERTS)
"""All roles of a layer, in canonical order."""


def read_parts(value: Any) -> tuple[str, ...]:
    """Read roles from ``attention``, ``ffn``, ``norms``, ``biases``, ``experts`` or single ones."""
    names = [value] if isinstance(value, str) else list(value)
    roles: set[str] = set()
    for name in names:
        if not isinstance(name, str) or (name not in PARTS and name not in ROLES):
            raise PlanError(
                f"unknown part: {shown(name)}", did_you_mean(str(name), [*PARTS, *ROLES])
            )
        roles.update(PARTS.get(name, (name,)))
    if not roles & {*ATTENTION, *FFN, EXPERTS}:
        raise PlanError(
            f"a group must share at least one matrix, but got parts {shown(names)}",
            f"add attention, ffn, {EXPERTS} or one of {', '.join(ATTENTION + FFN)}",
        )
    return tuple(role for role in ROLES if role in roles)


def write_parts(roles: tuple[str, ...]) -> list[str]:
    """Write `roles` as the shortest list of names that :func:`read_parts` reads back."""
    names: list[str] = []
    rest = list(roles)
    for part, members in PARTS.items():
        if set(members) <= set(rest):
            names.append(part)
            rest = [role for role in rest if role not in members]
    return names + rest


Parts = Annotated[
    tuple[str, ...], BeforeValidator(reader(read_parts)), PlainSerializer(write_parts)
]
