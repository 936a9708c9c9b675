"""Draw a plan as text, for terminals and model cards: one line for each layer."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sharetune.spaces.layer_map import Layer, Reading, layer_map
from sharetune.spaces.layers import runs
from sharetune.spaces.plan import SharingPlan

BAR = 10
"""Width, in characters, of the bar for all units of one part of a layer."""


def layers_as_text(
    plan: SharingPlan,
    depths: Mapping[str, int],
    places: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> str:
    """Draw a bound plan, one line for each layer, with letters for banks.

    `depths` gives the number of layers by stack, and `places` the layers' places (0-based) in the
    model's list, for stacks that share it with others.
    """
    return "\n".join(
        _layer_line(layer, places[layer.stack][layer.index] if layer.stack in places else None)
        for layer in layer_map(plan, depths)
    )


def _layer_line(layer: Layer, place: int | None) -> str:
    name = f"{layer.stack} {layer.index:>2}" + ("" if place is None else f"  (layer {place:>2})")
    if layer.merged_into is not None:
        return f"{name}  merged into {layer.merged_into}"
    if layer.removed:
        return f"{name}  removed"
    times = f"  runs {layer.times} times" if layer.times > 1 else ""
    span = f"  in place of {runs(layer.span)}" if layer.span else ""
    attention = _bar(layer.attention, layer.kept_units("attention"))
    ffn = _bar(layer.ffn, layer.kept_units("ffn"))
    return f"{name}  attention {attention}  ffn {ffn}{times}{span}"


def _bar(readings: tuple[Reading, ...], kept: Sequence[tuple[float, str]]) -> str:
    """Draw ``AAAAAAA... A 70 %``: letters for units read from a bank, dots for private ones.

    The bar is as long as the first of the fractions `kept`, each with what it is a fraction of.
    """
    width = max(1, round(BAR * kept[0][0])) if kept else BAR
    cells = ""
    labels = [
        f"keeps {100 * keeps:.3g} %" + ("" if units == "units" else f" of {units}")
        for keeps, units in kept
    ]
    for reading in readings:
        whole = 1.0 if reading.roles is None else len(reading.roles) / 4
        cells += reading.bank[0] * round(width * reading.share * whole)
        roles = f" ({' '.join(reading.roles)})" if reading.roles else ""
        labels.append(f"{reading.bank} {100 * reading.share:.3g} %{roles}")
    return f"{f'{cells[:width]:.<{width}}':{BAR}} {', '.join(labels) or 'private':12}"


def unchanged_text(lacking: Mapping[str, Sequence[str]]) -> list[str]:
    """Write one sentence for each stack with parts of no known kind, which no plan changes.

    `lacking` gives the parts by stack, see :func:`lacking_parts`.
    """
    return [
        f"No plan shares or narrows the {' or the '.join(parts)} of stack {stack!r}, whose "
        "matrices are of no known kind; a mixture's experts can be tied or narrowed, as "
        "`parts: experts`."
        for stack, parts in lacking.items()
        if parts
    ]


def stacks_text(depths: Mapping[str, int]) -> str:
    """Write the depths in words: ``6 layers``, ``encoder of 8 layers, decoder of 4 layers``."""
    if len(depths) == 1:
        return f"{next(iter(depths.values()))} layers"
    return ", ".join(f"{name} of {depth} layers" for name, depth in depths.items())
