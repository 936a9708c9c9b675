"""Draw a plan as text, for terminals and model cards: one line for each layer."""

from collections.abc import Mapping

from sharetune.spaces.layer_map import Layer, Reading, layer_map
from sharetune.spaces.plan import SharingPlan

BAR = 10
"""Width, in characters, of the bar for all units of one part of a layer."""


def layers_as_text(plan: SharingPlan, depths: Mapping[str, int]) -> str:
    """Draw a bound plan, one line for each layer, with letters for banks.

    `depths` gives the number of layers by stack.
    """
    return "\n".join(map(_layer_line, layer_map(plan, depths)))


def _layer_line(layer: Layer) -> str:
    name = f"{layer.stack} {layer.index:>2}"
    if layer.removed:
        return f"{name}  removed"
    times = f"  runs {layer.times} times" if layer.times > 1 else ""
    return f"{name}  attention {_bar(layer.attention)}  ffn {_bar(layer.ffn)}{times}"


def _bar(readings: tuple[Reading, ...]) -> str:
    """Draw ``AAAAAAA... A 70 %``: letters for units read from a bank, dots for private ones."""
    cells, labels = "", []
    for reading in readings:
        whole = 1.0 if reading.roles is None else len(reading.roles) / 4
        cells += reading.bank[0] * round(BAR * reading.share * whole)
        roles = f" ({' '.join(reading.roles)})" if reading.roles else ""
        labels.append(f"{reading.bank} {100 * reading.share:.3g} %{roles}")
    return f"{cells[:BAR]:.<{BAR}} {', '.join(labels) or 'private':12}"


def stacks_text(depths: Mapping[str, int]) -> str:
    """Write the depths in words: ``6 layers``, ``encoder of 8 layers, decoder of 4 layers``."""
    if len(depths) == 1:
        return f"{next(iter(depths.values()))} layers"
    return ", ".join(f"{name} of {depth} layers" for name, depth in depths.items())
