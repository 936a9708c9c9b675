"""Write a table as plain text, without libraries of data or of searches."""

from rich.console import Console
from rich.table import Table


def table_text(table: Table, width: int) -> str:
    """Return a table as plain text of at most `width` columns, the same in a notebook."""
    console = Console(width=width, no_color=True, force_terminal=False, force_jupyter=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().split("\n"))
