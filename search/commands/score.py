"""Summarise the scores of single edits as a table."""

from collections.abc import Mapping, Sequence
from statistics import median

from rich.table import Table

from sharetune.results.formatting import plural, three_digits
from sharetune.results.table_text import table_text
from sharetune.spaces.planning.score_file import StoredScores
from sharetune.spaces.planning.solving import Scored

WIDTH = 140
"""Columns of a printed table."""


PAIRS = 3
"""Pairs of exchanged layers that are named."""


def score_table(found: StoredScores) -> str:
    """Write, by kind of edit, the distances for 1 % of the model's parameters saved.

    The kind with the cheapest edit comes first.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("edit")
    for title in ("count", "best", "median", "worst"):
        table.add_column(title, justify="right")
    kinds: dict[str, list[Scored]] = {}
    for one in found.scored.values():
        kinds.setdefault(f"{one.edit.kind} {one.edit.named}", []).append(one)
    rows = {kind: _prices(own, found.header.unshared) for kind, own in kinds.items()}
    for kind, prices in sorted(rows.items(), key=lambda row: min(row[1], default=0.0)):
        numbers = (min(prices), median(prices), max(prices)) if prices else ()
        table.add_row(kind, str(len(kinds[kind])), *map(digits, numbers))
    lines = [
        f"{plural(len(found.scored), 'edit')} scored; distance for 1 % of the parameters saved:",
        table_text(table, WIDTH),
    ]
    if found.exchanges:
        lines.append(_exchanges(found))
    if found.refused:
        reason = next(iter(found.refused.values()))
        lines.append(f"{plural(len(found.refused), 'edit')} without a score; the first: {reason}")
    return "\n".join(lines)


def _exchanges(found: StoredScores) -> str:
    """Write which layers cost least in each other's place: those that may share."""
    least = sorted(found.exchanges, key=lambda pair: found.exchanges[pair].distance)[:PAIRS]
    pairs = (f"{pair.layers[0]} and {pair.layers[1]} of {pair.stack}" for pair in least)
    costs = [digits(found.exchanges[pair].distance) for pair in least]
    named = ", ".join(f"{pair} ({cost})" for pair, cost in zip(pairs, costs, strict=True))
    return (
        f"{plural(len(found.exchanges), 'pair')} of layers exchanged; the least distances: {named}"
    )


def _prices(scored: Sequence[Scored], unshared: Mapping[str, float]) -> list[float]:
    """Distances for 1 % of the parameters, of the edits that save any."""
    percent = unshared["parameters"] / 100
    return [
        one.cost * percent / one.saved["parameters"]
        for one in scored
        if one.saved["parameters"] > 0
    ]


def digits(value: float) -> str:
    """Write a distance to three digits, small ones with an exponent."""
    return three_digits(value) if value == 0 or abs(value) >= 0.01 else f"{value:.2e}"
