"""Writes which names the functions of Python's standard library call, in order.

A table of interactions made from real code: the user is a function, the item a name that it calls,
the time the line of its first call. The code is the running Python's own, under the PSF licence.
"""

import ast
import sysconfig
from collections import Counter
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
LEFT_OUT = {"test", "tests", "idlelib", "site-packages", "lib2to3", "turtledemo"}
LEAST_CALLS = 20
LEAST_ITEMS = 5


def functions(library: Path) -> dict[str, list[str]]:
    """What each function calls, each name once, in the order of its first call."""
    found = {}
    for path in sorted(library.rglob("*.py")):
        if LEFT_OUT & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                place = f"{path.relative_to(library).as_posix()}:{node.lineno}:{node.name}"
                calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
                calls.sort(key=lambda call: (call.lineno, call.col_offset))
                found[place] = list(dict.fromkeys(filter(None, map(name_of, calls))))
    return found


def name_of(call: ast.Call) -> str:
    """The called name: ``join`` of ``"".join(...)``."""
    called = call.func
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def write(folder: Path) -> None:
    """Names that 20 functions call, and functions with five of them."""
    called = functions(Path(sysconfig.get_path("stdlib")))
    often = Counter(name for names in called.values() for name in names)
    rows = []
    for function, names in called.items():
        kept = [name for name in names if often[name] >= LEAST_CALLS]
        if len(kept) >= LEAST_ITEMS:
            rows += [
                {"user": function, "item": name, "time": time} for time, name in enumerate(kept)
            ]
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "calls.csv", index=False)
    print(
        f"wrote {len(frame)} calls of {frame['item'].nunique()} names by "
        f"{frame['user'].nunique()} functions to {folder}"
    )


if __name__ == "__main__":
    write(HERE / "data")
