"""Let the site's links to files outside its folder lead to nothing but their names.

On the repository's pages such links work; the site does not hold those files.
"""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
"""A link to a file of the repository that is no page."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page whose links out of the folder are their texts."""
    return OUTSIDE.sub(r"\1", markdown)
