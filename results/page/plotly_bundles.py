"""plotly.js as the pages carry it: flat figures at once, three dimensions when they are wanted."""

import base64
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

VENDORED = Path(__file__).parent / "vendored"
FLAT = VENDORED / "plotly-basic.min.js"
DEEP = VENDORED / "plotly-gl3d.min.js.gz"


@lru_cache(maxsize=1)
def flat_bundle() -> Markup:
    """The text of a script that draws points, lines and bars."""
    return Markup(FLAT.read_text("utf-8"))


@lru_cache(maxsize=1)
def deep_bundle() -> str:
    """A script that draws in three dimensions too, as base64 of its gzipped text."""
    return base64.b64encode(DEEP.read_bytes()).decode("ascii")
