"""Draw a plan as inline SVG: which part of which layer reads which bank.

Every block is one part of one layer. It is filled with its bank's colour up to the share of
units that it reads there and carries the bank's letter; what stays empty is private. The
colours follow Okabe and Ito, for colour-blind people; the letter says the same without
colour. Lines and letters take the page's text colour, on light and on dark paper.
"""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from string import ascii_uppercase

from sharetune.spaces.layer_map import Layer, Reading
from sharetune.spaces.layers import runs
from sharetune.spaces.parts import PARTS

COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#8DA0CB")
"""Banks' colours, in order; after the last they begin again."""

INK = "#16191d"
"""Colour of a letter on a filled block, which is light on any paper."""

PER_ROW = 12
"""Most layers in one row, which is then 535 pixels wide."""

BLOCK_WIDTH = 34  # pixels of the block that is one part of one layer
BLOCK_HEIGHT = 30
GAP = 5  # pixels between two blocks
LABEL_WIDTH = 66  # pixels for "attention" and "FFN", left of the blocks
HEADING = 20  # pixels for a stack's name, above them
FOOT = 18  # pixels for the layers' numbers, below them
MARGIN = 1  # pixels around all, so that strokes are not cut off


def draw_layers(layers: Sequence[Layer]) -> str:
    """Draw the layers of each stack, from left to right, as an ``<svg>`` element.

    Rows hold at most 12 layers. The picture's label and each block's title describe it in words;
    all texts are escaped.
    """
    stacks = [(name, list(members)) for name, members in groupby(layers, key=lambda x: x.stack)]
    body, y = [], MARGIN
    for name, members in stacks:
        for start, row in enumerate(_rows(members)):
            heading = name if len(stacks) > 1 and start == 0 else ""
            body.append(_draw_row(row, y, heading))
            y += _row_height(heading)
    widest = max((len(row) for _, members in stacks for row in _rows(members)), default=0)
    width = LABEL_WIDTH + widest * (BLOCK_WIDTH + GAP) + MARGIN
    label = escape(describe_layers(layers))
    return (
        f'<svg class="layers" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img" '
        f'aria-label="{label}" xmlns="http://www.w3.org/2000/svg" font-size="12">'
        f"<title>{label}</title>{''.join(body)}</svg>"
    )


def describe_layers(layers: Sequence[Layer]) -> str:
    """Describe in words which layers are removed, shared and repeated."""
    depth = len(layers)
    texts = [f"{depth} layers" if depth != 1 else "1 layer"]
    removed = [x.index for x in layers if x.removed and x.merged_into is None]
    if removed:
        texts.append(f"removed: {runs(removed)}")
    texts += [f"{x.index} in place of {runs(x.span)}" for x in layers if x.span]
    for part, keeps in sorted({kept for layer in layers for kept in layer.kept}):
        narrowed = [x.index for x in layers if (part, keeps) in x.kept]
        texts.append(f"{_named(part)} narrowed to {keeps:.3g}: {runs(narrowed)}")
    banks = sorted({r.bank for x in layers for r in (*x.attention, *x.ffn)}, key=_bank_number)
    texts += [_describe_bank(bank, layers) for bank in banks]
    for times in sorted({layer.times for layer in layers} - {1}):
        texts.append(f"run {times} times: {runs([x.index for x in layers if x.times == times])}")
    if len(texts) == 1:
        texts.append("all private")
    return "; ".join(texts)


def _named(part: str) -> str:
    """Write a part as the picture's labels do."""
    return "FFN" if part == "ffn" else part


def _describe_bank(bank: str, layers: Sequence[Layer]) -> str:
    readers: dict[str, list[int]] = {}
    for layer in layers:
        for part, readings in (("attention", layer.attention), ("FFN", layer.ffn)):
            for reading in readings:
                if reading.bank == bank:
                    readers.setdefault(f"{_what(part, reading)}", []).append(layer.index)
    uses = (f"{what} of layers {runs(indices)}" for what, indices in readers.items())
    return f"bank {bank} read by {', '.join(uses)}"


def _what(part: str, reading: Reading) -> str:
    name = part if reading.roles is None else f"{part} ({', '.join(reading.roles)})"
    return f"{reading.share:.0%} of {name}"


def _rows(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    return [tuple(layers[i : i + PER_ROW]) for i in range(0, len(layers), PER_ROW)]


def _row_height(heading: str) -> int:
    return (HEADING if heading else 0) + 2 * BLOCK_HEIGHT + GAP + FOOT


def _draw_row(row: Sequence[Layer], y: int, heading: str) -> str:
    title = _text(0, y + 12, heading, "start", bold=True) if heading else ""
    y += HEADING if heading else 0
    labels = _text(0, y + BLOCK_HEIGHT / 2 + 4, "attention", "start") + _text(
        0, y + BLOCK_HEIGHT + GAP + BLOCK_HEIGHT / 2 + 4, "FFN", "start"
    )
    columns = (
        _draw_layer(layer, LABEL_WIDTH + i * (BLOCK_WIDTH + GAP), y) for i, layer in enumerate(row)
    )
    return title + labels + "".join(columns)


def _draw_layer(layer: Layer, x: int, y: int) -> str:
    foot = y + 2 * BLOCK_HEIGHT + GAP + 13
    times = f" ×{layer.times}" if layer.times > 1 else ""
    times += f"={layer.span[0]}..{layer.span[-1]}" if layer.span else ""
    number = _text(x + BLOCK_WIDTH / 2, foot, f"{layer.index}{times}", "middle", faint=True)
    if layer.removed:
        return _draw_removed(layer, x, y) + number
    return (
        _draw_part(layer, "attention", layer.attention, x, y)
        + _draw_part(layer, "FFN", layer.ffn, x, y + BLOCK_HEIGHT + GAP)
        + number
    )


def _draw_removed(layer: Layer, x: int, y: int) -> str:
    height = 2 * BLOCK_HEIGHT + GAP
    taken = layer.merged_into
    fate = "removed" if taken is None else f"merged into layer {taken}"
    return (
        f"<g fill='none' stroke='currentColor' opacity='.45'><title>layer {layer.index} is {fate}"
        f"</title><rect x='{x}' y='{y}' width='{BLOCK_WIDTH}' height='{height}' rx='4' "
        f"stroke-dasharray='3 3' fill='transparent'/>"
        f"<path d='M{x + 8} {y + 8}L{x + BLOCK_WIDTH - 8} {y + height - 8}"
        f"M{x + BLOCK_WIDTH - 8} {y + 8}L{x + 8} {y + height - 8}' stroke-dasharray='3 3'/></g>"
    )


def _draw_part(layer: Layer, part: str, readings: tuple[Reading, ...], x: float, y: int) -> str:
    keeps = layer.keeps(part.lower())
    block = BLOCK_WIDTH * keeps
    x += (BLOCK_WIDTH - block) / 2
    fills, letters, at = [], [], float(x)
    for reading in readings:
        width = block * _role_share(part, reading)
        fills.append(_fill(reading, at, y, width))
        letters.append(_letter(reading, at + width / 2, y, size=13 if width > 14 else 10))
        at += width
    what = ", ".join(f"{_what(part, r)} from bank {r.bank}" for r in readings)
    fractions = [f"{kept:.3g} of its {units}" for kept, units in layer.kept_units(part.lower())]
    kept = f", which keeps {' and '.join(fractions)}" if fractions else ""
    return (
        f"<g><title>layer {layer.index}: {escape((what or f'{part} is private') + kept)}</title>"
        f"<rect x='{x:g}' y='{y}' width='{block:g}' height='{BLOCK_HEIGHT}' rx='4' "
        f"fill='currentColor' fill-opacity='.06'/>{''.join(fills)}"
        f"<rect x='{x:g}' y='{y}' width='{block:g}' height='{BLOCK_HEIGHT}' rx='4' fill='none' "
        f"stroke='currentColor' stroke-opacity='.4'/>{''.join(letters)}</g>"
    )


def _fill(reading: Reading, x: float, y: int, width: float) -> str:
    height = BLOCK_HEIGHT * reading.share
    return (
        f"<rect x='{x:g}' y='{y + BLOCK_HEIGHT - height:g}' width='{width:g}' height='{height:g}' "
        f"rx='4' fill='{_colour(reading.bank)}'/>"
    )


def _letter(reading: Reading, x: float, y: int, *, size: int) -> str:
    """Draw the bank's letter in the filled or in the empty part, whichever is larger."""
    filled = reading.share >= 0.5
    middle = (
        BLOCK_HEIGHT * (1 - reading.share / 2) if filled else BLOCK_HEIGHT * (1 - reading.share) / 2
    )
    ink = INK if filled else "currentColor"
    return (
        f"<text x='{x:g}' y='{y + middle + 0.35 * size:g}' text-anchor='middle' font-weight='600' "
        f"font-size='{size}' fill='{ink}'>{escape(reading.bank)}</text>"
    )


def _text(x: float, y: float, text: str, anchor: str, **look: bool) -> str:
    weight = " font-weight='600'" if look.get("bold") else ""
    opacity = " fill-opacity='.65'" if look.get("faint") else ""
    return (
        f"<text x='{x:g}' y='{y:g}' text-anchor='{anchor}' fill='currentColor'{weight}{opacity}>"
        f"{escape(text)}</text>"
    )


def _role_share(part: str, reading: Reading) -> float:
    """Return the fraction of the part's roles that the reading covers, for its width."""
    return 1.0 if reading.roles is None else min(1.0, len(reading.roles) / len(PARTS[part.lower()]))


def _colour(bank: str) -> str:
    return COLOURS[_bank_number(bank) % len(COLOURS)]


def _bank_number(bank: str) -> int:
    return ascii_uppercase.index(bank[0]) + len(ascii_uppercase) * int(bank[1:] or 0)
