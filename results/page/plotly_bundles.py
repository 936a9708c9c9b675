"""Read plotly.js for the pages: a small bundle for flat figures, a packed one for 3-D figures."""

import base64
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

VENDORED = Path(__file__).parent / "vendored"
"""Folder of the scripts that come with the package, so that pages work offline."""

FLAT = VENDORED / "plotly-basic.min.js"
"""Bundle for points, lines and bars."""

DEEP = VENDORED / "plotly-gl3d.min.js.gz"
"""Bundle for three dimensions: larger, so pages carry it packed and unpack it on demand."""


@lru_cache(maxsize=1)
def flat_bundle() -> Markup:
    """Return the script that draws points, lines and bars."""
    return Markup(FLAT.read_text("utf-8"))


@lru_cache(maxsize=1)
def deep_bundle() -> str:
    """Return the script that also draws in three dimensions, gzipped, in base64."""
    return base64.b64encode(DEEP.read_bytes()).decode("ascii")
