"""Draws the pictures of the docs: plans as SVG, and a run's report as small PNG.

    python docs/pictures.py                     # docs/pictures/*.svg; a test holds them to this
    python docs/pictures.py runs/news --trial 4 # also docs/pictures/*.png, of the tutorial's run

The second needs Chromium and `pip install '.[browser]'`.
"""

import argparse
import re
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from sharetune.results.page.plan_drawing import draw_layers
from sharetune.spaces.layer_map import layer_map
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.stack_shape import StackShape

FOLDER = Path(__file__).parent / "pictures"
SIX = {"layers": StackShape(depth=6, heads=12, neurons=1536)}
BOTH = {"encoder": StackShape(8, 12, 1536), "decoder": StackShape(4, 12, 1536)}
STYLE = (
    "<style>svg{color:#1c2126;font-family:sans-serif}text.caption{font-size:13px;font-weight:600}"
    "@media(prefers-color-scheme:dark){svg{color:#e4e7ea}}</style>"
)
CAPTION, GAP, ACROSS = 24, 28, 2
COLOURS = 128
PATIENCE_MS = 120_000
PAGE, SCALE = {"width": 1180, "height": 900}, 1.4


@dataclass(frozen=True)
class Drawn:
    """A plan under its caption; `stacks` are the model's."""

    caption: str
    plan: str
    stacks: dict[str, StackShape]

    def svg(self) -> tuple[str, int, int]:
        """The drawing, its width and its height."""
        bound = SharingPlan.from_yaml(f"groups: [{self.plan}]").bound(self.stacks)
        layers = layer_map(bound, {name: shape.depth for name, shape in self.stacks.items()})
        svg = draw_layers(layers)
        width, height = (int(re.search(rf'{key}="(\d+)"', svg)[1]) for key in ("width", "height"))  # type: ignore[index]
        return svg, width, height


NARROW = (
    "{layers: 1..2, parts: ffn, form: {narrow: {keep: 0.75}}}, "
    "{layers: 3..4, form: {narrow: {keep: 0.5}}}"
)


def six(caption: str, plan: str) -> Drawn:
    """A plan of an encoder with six layers."""
    return Drawn(caption, plan, SIX)


GALLERIES = {
    "ratio": [
        six("ratio 0.7 of layers 1..4", "{layers: 1..4, form: {bank: {ratio: 0.7}}}"),
        six("tie: ratio 1", "{layers: 1..4, form: tie}"),
    ],
    "parts": [
        six("parts: [attention]", "{layers: 1..4, parts: [attention], form: tie}"),
        six("parts: [fc_in, fc_out]", "{layers: 1..4, parts: [fc_in, fc_out], form: tie}"),
        six("parts: [k, v], as reuse takes them", "{layers: 1..4, form: {reuse: {what: kv}}}"),
        six("form: drop, the rival", "{layers: 2..3, form: drop}"),
    ],
    "assignments": [
        six("one", "{layers: 0..5, form: tie}"),
        six("sequence: 3", "{layers: 0..5, form: tie, assign: {sequence: 3}}"),
        six("cycle: 3", "{layers: 0..5, form: tie, assign: {cycle: 3}}"),
        six("cycle_rev: 3", "{layers: 0..5, form: tie, assign: {cycle_rev: 3}}"),
        six("sandwich", "{layers: 1..-2, form: tie}"),
        six("owners: [0, 1, 0, 2, 2, 1]", "{layers: 0..5, assign: {owners: [0, 1, 0, 2, 2, 1]}}"),
    ],
    "cut": [
        six("narrow: keep 0.75 and 0.5", NARROW),
        six("merge of 2..4, from the middle", "{layers: 2..4, form: merge, init: middle}"),
    ],
    "stacks": [
        Drawn(
            "layers 1..6 of the encoder at 0.7, 1..3 of the decoder tied",
            "{stack: encoder, layers: 1..6, form: {bank: {ratio: 0.7}}}, "
            "{stack: decoder, layers: 1..3, form: tie}",
            BOTH,
        ),
    ],
}


def gallery(name: str) -> str:
    """The drawings of a gallery, two beside each other, as one SVG file."""
    found = [(drawn.caption, *drawn.svg()) for drawn in GALLERIES[name]]
    wide = max(width for *_, width, _ in found) + GAP
    tall = max(height for *_, height in found) + CAPTION + GAP // 2
    across = min(ACROSS, len(found))
    body = []
    for place, (caption, svg, _, _) in enumerate(found):
        x, y = place % across * wide, place // across * tall
        body.append(
            f'<text class="caption" x="{x}" y="{y + 14}" fill="currentColor">{caption}</text>'
        )
        body.append(svg.replace("<svg ", f'<svg x="{x}" y="{y + CAPTION}" ', 1))
    width, height = across * wide - GAP, -(-len(found) // across) * tall
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}">{STYLE}{"".join(body)}</svg>\n'
    )


def write_galleries() -> None:
    """Writes every gallery."""
    FOLDER.mkdir(exist_ok=True)
    for name in GALLERIES:
        (FOLDER / f"{name}.svg").write_text(gallery(name), "utf-8")


def photograph(run: Path, trial: int) -> None:
    """Writes parts of the run's report as PNG of few colours."""
    from playwright.sync_api import sync_playwright

    from sharetune.results.page.report import write_report

    address = write_report(run).resolve().as_uri()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport=PAGE, device_scale_factor=SCALE)  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE_MS)
        for name, (fragment, selector) in SHOTS.items():
            page.goto(f"{address}#trial-{trial}" if fragment else address)
            page.wait_for_timeout(2500)
            taken = Image.open(BytesIO(page.locator(selector).first.screenshot()))
            few = taken.convert("RGB").quantize(COLOURS)
            few.save(FOLDER / f"{name}.png", optimize=True)
            print(f"{name}.png {(FOLDER / f'{name}.png').stat().st_size / 1000:.0f} kB")
        browser.close()


SHOTS = {
    "front": (False, "figure:has(#walk)"),
    "choices": (False, 'section[aria-labelledby="choices"]'),
    "candidate": (True, "#candidate"),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--trial", type=int, default=4)
    given = parser.parse_args()
    write_galleries()
    if given.run is not None:
        photograph(given.run, given.trial)
