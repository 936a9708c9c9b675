"""Propose plans and a space for the case at hand: a pretrained model, or one from scratch.

A pretrained model's layers know something, so what keeps their weights comes first: narrowed,
dropped, merged and low-rank layers, then banks. From scratch nothing is lost by tying: ties, cycles
and loops. What the model cannot have, such as narrowed attention where other weights count on
every head, is left out.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.stack_shape import StackShape
from sharetune.spaces.yaml_text import write_yaml
from sharetune.trainers import share_

Written = dict[str, Any]
"""A group, as a plan file has it."""

KEPT = (0.25, 0.5, 0.75)
"""Fractions of the units that narrowed layers keep."""

PARTS = (["attention", "ffn"], ["ffn"])
WHOLE = ["attention", "ffn", "norms", "biases"]
"""All of a layer: then a stack that is tied stores one layer, and nothing else."""


def proposal(shell: Any, shapes: Mapping[str, StackShape], *, scratch: bool) -> dict[str, str]:
    """Return the `plans` and `groups` of a study's text for a model on the meta device."""
    fits = _Fits(shell)
    several = len(shapes) > 1
    templates = _from_scratch if scratch else _pretrained
    groups = [
        {**({"stack": name} if several else {}), **templates(fits, name, shape)}
        for name, shape in shapes.items()
    ]
    plans = _cycles(fits, shapes) if scratch else _banks(shapes)
    return {
        "plans": "".join(f"  - groups: {_flow(plan)}\n" for plan in plans),
        "groups": "\n".join(map(_template, groups)),
    }


class _Fits:
    """Tries plans on a model's shapes."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def __call__(self, groups: Sequence[Written]) -> bool:
        try:
            share_(copy.deepcopy(self._shell), SharingPlan.model_validate({"groups": groups}))
        except SharetuneError:
            return False
        return True


def _pretrained(fits: _Fits, stack: str, shape: StackShape) -> Written:
    """Return a template that removes first and shares last."""
    rank = max(4, 8 * (shape.neurons_of(0) // 64))
    tried: list[tuple[Any, Any]] = [
        ({"narrow": {"keep": KEPT[0]}}, {"narrow": {"keep": _range(*KEPT[::2], 0.25)}}),
        ("drop", "drop"),
        ("merge", "merge"),
        ({"lowrank": {"rank": rank}}, {"lowrank": {"rank": {"low": rank // 4, "high": rank}}}),
        ({"bank": {"ratio": 0.5}}, {"bank": {"ratio": _range(0.3, 0.9, 0.1)}}),
    ]
    parts = [
        own
        for own in PARTS
        if fits([{"stack": stack, "layers": "0..1", "parts": own, "form": tried[0][0]}])
    ]
    parts = parts or [*PARTS]
    forms = [
        leaf
        for form, leaf in tried
        if all(fits([{"stack": stack, "layers": "0..1", "parts": p, "form": form}]) for p in parts)
    ]
    many = {"count": {"low": 1, "high": 2}} if shape.depth >= 8 else {}
    return {
        "layers": {"within": "0..-1", "min": 2},
        **many,
        "parts": _choices(parts),
        "form": _choices(forms or ["tie"]),
    }


def _from_scratch(fits: _Fits, stack: str, shape: StackShape) -> Written:
    """Return a template of ties, cycles and, where the model allows them, loops."""
    least = -(-shape.depth // 2)
    assigns = ["one", *({"cycle": banks} for banks in (2, 3) if banks < least), {"sequence": 2}]
    parts = [
        own
        for own in ([*PARTS[0]], WHOLE, [*PARTS[1]])
        if fits([{"stack": stack, "layers": "0..-1", "parts": own}])
    ]
    twice = {"stack": stack, "layers": "0..-1", "times": 2}
    times = {"times": _choices([1, 2])} if fits([twice]) else {}
    return {
        "layers": {"within": "0..-1", "min": max(2, least)},
        "parts": _choices(parts or [*PARTS]),
        "assign": _choices(assigns),
        "init": _choices(["mean", "first"]),
        **times,
    }


def _cycles(fits: _Fits, shapes: Mapping[str, StackShape]) -> Iterator[list[Written]]:
    """Yield plans whose layers read half and a third as many banks in turns."""
    several = len(shapes) > 1
    banks = [{name: max(1, shape.depth // d) for name, shape in shapes.items()} for d in (2, 3)]
    for counts in banks if banks[0] != banks[1] else banks[:1]:
        plan = [
            {
                **({"stack": name} if several else {}),
                "layers": "all",
                "parts": WHOLE,
                "assign": {"cycle": count},
            }
            for name, count in counts.items()
        ]
        if fits(plan):
            yield plan


def _banks(shapes: Mapping[str, StackShape]) -> Iterator[list[Written]]:
    """Yield a plan for each stack that shares 70 % of all but the outermost layers."""
    for name, shape in shapes.items():
        first, last = (1, shape.depth - 2) if shape.depth > 3 else (0, shape.depth - 1)
        stack = {"stack": name} if len(shapes) > 1 else {}
        yield [{**stack, "layers": f"{first}..{last}", "form": {"bank": {"ratio": 0.7}}}]


def _range(low: float, high: float, step: float) -> Written:
    return {"low": low, "high": high, "step": step}


def _choices(values: Sequence[Any]) -> Any:
    return {"choices": [*values]} if len(values) > 1 else values[0]


def _template(group: Written) -> str:
    """Write a template of the space, one key a line."""
    lines = (f"{key}: {_flow(value)}" for key, value in group.items())
    return "    - " + "\n      ".join(lines)


def _flow(value: Any) -> str:
    """Write a value on one line of YAML."""
    apart = json.loads(json.dumps(value))  # the writer would make aliases of one list used twice
    return " ".join(write_yaml(apart, flow=True).removesuffix("...\n").split())
