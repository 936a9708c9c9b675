"""Scores for tests: random ones over every kind of edit, and a search through all subsets."""

import random
from itertools import combinations

from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.planning.grid import grid
from sharetune.spaces.planning.solving import Scored
from sharetune.spaces.stack_shape import StackShape

SMALL = {"encoder": StackShape(3, 4, 64), "decoder": StackShape(2, 4, 64)}
DECODER = {"model.layers": StackShape(30, 3, 1536)}
UNSHARED = {"parameters": 134_515_008.0, "bytes": 538_060_032.0, "flops": 275_486_736_384.0}


def edit(stack="layers", **group):
    written = {"stack": stack, **group}
    return Edit.read(written)


def random_scores(seed, count, stacks=SMALL):
    """`count` edits of the grid with random costs and savings, which are whole numbers."""
    draw = random.Random(seed)
    edits = draw.sample(grid(stacks, widths=dict.fromkeys(stacks, 32)), count)
    return [
        Scored(one, draw.randint(0, 40) / 8, {n: draw.randint(1, 12) for n in ("a", "b")})
        for one in edits
    ]


def language_model_scores(seed=0):
    """Scores like those of SmolLM2: middle layers cost little, layer 11 much."""
    draw = random.Random(seed)
    ffn, attention, norms = 2_654_208, 884_736, 1_152
    weight = [draw.lognormvariate(0, 0.6) * (10 if i == 11 else 1) for i in range(30)]
    dear = {"drop": 8, "narrow": 3, "tie": 10, "bank": 4, "basis": 5, "lowrank": 10, "merge": 6}
    scored = []
    for one in grid(DECODER, widths={"model.layers": 576}):
        whole = one.kind in ("drop", "merge")
        size = ffn + attention + norms if whole else ffn if one.parts == ("ffn",) else attention
        knobs = one.group.form.model_dump()
        part = 1 - knobs.get("keep", 0) if one.kind == "narrow" else knobs.get("ratio", 0.6)
        saved = int(size * (1 if whole or one.kind == "tie" else part))
        mean = sum(weight[i] for i in one.layers) / len(one.layers)
        cost = dear[one.kind] * saved / 1e8 * mean * draw.lognormvariate(0, 0.3)
        runs_less = one.kind in ("drop", "merge", "narrow")
        others = {"bytes": 4 * saved + draw.randrange(200), "flops": 2048 * saved * runs_less}
        scored.append(Scored(one, cost, {"parameters": saved, **others}))
    return scored


def all_plans(scored, names=("a", "b")):
    """Cost, savings and numbers of every set of edits that go together, from the empty one on."""
    depth = {}
    for one in scored:
        depth[one.edit.stack] = max(depth.get(one.edit.stack, 0), max(one.edit.layers) + 1)
    apart = [[not _collide(one.edit, two.edit) for two in scored] for one in scored]
    for size in range(len(scored) + 1):
        for chosen in combinations(range(len(scored)), size):
            if not all(apart[i][j] for i, j in combinations(chosen, 2)):
                continue
            removed = [(scored[i].edit.stack, x) for i in chosen for x in scored[i].edit.removed]
            if any(sum(s == stack for s, _ in removed) == depth[stack] for stack in depth):
                continue
            saved = {name: sum(scored[i].saved[name] for i in chosen) for name in names}
            yield sum(scored[i].cost for i in chosen), saved, chosen


def _collide(one, two):
    if one.stack != two.stack or not set(one.layers) & set(two.layers):
        return False
    whole = {"drop", "merge"} & {one.kind, two.kind}
    return bool(whole or set(one.group.parts) & set(two.group.parts))
