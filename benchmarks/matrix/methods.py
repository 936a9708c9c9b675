"""The methods of the matrix: each gives a plan for a part of the layer stacks.

A model that is trained from scratch has nothing to measure effects on, so its rivals are regular:
the largest plan of a ladder that fits. A pretrained model's are solved from scores of its edits.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.matrix.names import DROPS, FOUND, LOW_RANK, NARROWING, PARTS, SHARING, TIED
from benchmarks.matrix.workload import Workload
from sharetune.spaces.anchors import Stacks
from sharetune.spaces.assignments import Assignment
from sharetune.spaces.forms import Drop, Form, LowRank, Narrow
from sharetune.spaces.group import Group
from sharetune.spaces.parts import read_parts
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.rivals import RivalFronts
from sharetune.spaces.planning.solving import front

SCORED = {DROPS: "drops", NARROWING: "narrowing", LOW_RANK: "low rank", SHARING: "sharing"}
"""Methods solved from scores where the model is pretrained, with their names among rivals."""

STEPS = 40
"""Sizes of a ladder between nothing and all."""

WHOLE = read_parts(("attention", "ffn", "norms", "biases"))
"""All matrices of a layer without experts."""


@dataclass(frozen=True)
class Treatment:
    """A plan to train, `longer` than the workload's recipe says.

    `fresh` ones begin with random weights whatever the model; `search_pflop` is what finding the
    plan cost, in 1e15 FLOP.
    """

    plan: SharingPlan
    longer: float = 1.0
    fresh: bool = False
    search_pflop: float = 0.0


def _kept(stacks: Stacks, fraction: float) -> Mapping[str, int]:
    return {name: max(1, int(fraction * shape.depth + 1e-9)) for name, shape in stacks.items()}


def _alike(
    stacks: Stacks, form: Form, parts: tuple[str, ...] = ("attention", "ffn")
) -> SharingPlan:
    roles = read_parts(parts)
    groups = (Group(layers="all", stack=name, form=form, parts=roles) for name in stacks)
    return SharingPlan(groups=tuple(groups))


def fewer_layers(stacks: Stacks) -> Iterator[SharingPlan]:
    """Yield models with fewer layers, the last ones of each stack left out, larger ones first."""
    for step in range(STEPS, 0, -1):
        kept = _kept(stacks, step / STEPS)
        yield SharingPlan(
            groups=tuple(
                Group(layers=tuple(range(kept[name], shape.depth)), stack=name, form=Drop())
                for name, shape in stacks.items()
                if kept[name] < shape.depth
            )
        )


def narrower_layers(stacks: Stacks) -> Iterator[SharingPlan]:
    """Yield models with fewer heads and neurons in each layer, wider ones first.

    Where the heads must stay, only FFNs are narrowed.
    """
    for parts in (("attention", "ffn"), ("ffn",)):
        for step in range(STEPS, 0, -1):
            yield _alike(stacks, Narrow(keep=step / STEPS), parts)


def lower_ranks(stacks: Stacks) -> Iterator[SharingPlan]:
    """Yield one matrix for all layers with a low-rank one of each layer's own, larger ones first.

    Rank 0 is left out: it is a tie.
    """
    for rank in (*range(64, 16, -4), *range(16, 0, -1)):
        yield _alike(stacks, LowRank(rank=rank))


def _tied(stacks: Stacks, banks: Mapping[str, int]) -> SharingPlan:
    """Return layers that read their banks whole, norms and biases too, in turns."""
    return SharingPlan(
        groups=tuple(
            Group(
                layers="all",
                stack=name,
                parts=WHOLE,
                assign=Assignment("cycle", banks[name]),
                init="first",
            )
            for name in stacks
        )
    )


def cycles(stacks: Stacks) -> Iterator[SharingPlan]:
    """Yield layers that read fewer and fewer banks in turns; a bank starts as its first layer."""
    for step in range(STEPS, 0, -1):
        yield _tied(stacks, _kept(stacks, step / STEPS))


def tied(stacks: Stacks) -> Iterator[SharingPlan]:
    """Yield the plan that ties all layers of each stack."""
    yield _tied(stacks, dict.fromkeys(stacks, 1))


LADDERS: dict[str, Callable[[Stacks], Iterator[SharingPlan]]] = {
    DROPS: fewer_layers,
    NARROWING: narrower_layers,
    LOW_RANK: lower_ranks,
    TIED: tied,
    SHARING: cycles,
}
"""Plans of each regular method, larger ones first."""


def regular(workload: Workload, method: str, part: float) -> SharingPlan | None:
    """Return the largest plan of a ladder that stores at most `part` (0..1) of the stacks."""
    tried: set[SharingPlan] = set()
    for plan in LADDERS[method](workload.stacks):
        if plan not in tried:
            tried.add(plan)
            if workload.fits(plan, part):
                return plan
    return None


def solved(workload: Workload, method: str, part: float) -> Treatment | None:
    """Return the cheapest plan of a method by scores that stores at most `part` of the stacks."""
    stored = workload.scores
    unshared = stored.header.unshared
    most = unshared["parameters"] - (1 - part) * unshared["stack_parameters"]
    if method == FOUND:
        cheapest = front(stored.all_scored, "parameters")
        one = next(cheapest.best(unshared["parameters"] - most), None)
        passes = len(stored.all_scored) * workload.scored_on
        cost = passes * unshared["flops"] / 1e15 / len(PARTS)
        return one and Treatment(one.plan, search_pflop=cost)
    rival = RivalFronts(stored.all_scored, unshared).at(most).get(SCORED[method])
    return rival and Treatment(rival.plan)
