"""Measure the structure of the four packages: rooms, arrows, circles, sizes, loose types.

    python -m tests.structure [CHECKOUT ...]

A room is a folder below a package, or a file that lies loose in one. An arrow leads from a room to
another that it imports. Prints one column a checkout, this one by default, and the functions of the
last one that are over a limit without a reason.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.paths import ROOT

PACKAGES = ("search", "results", "trainers", "spaces")
LONG_FUNCTION = 40
MANY_PARAMETERS = 5

REASONS = {
    "search.admission.__init__": "the parts of a search that a decision asks",
    "search.commands.cli.export": "its parameters are the options of a command",
    "search.commands.cli.init": "its parameters are the options of a command",
    "search.commands.cli.solve": "its parameters are the options of a command",
    "search.python.searching.search": "the package's main function: its parameters are its manual",
    "search.python.searching._search_file": "the arguments of `search` that a study file leaves",
    "search.run.run": "what a run needs, each with a default but two",
    "trainers.evaluation.evaluator.prepare": "what an evaluator needs, with defaults but for four",
    "trainers.models.alignment.align_": "one family of units: its layers, matrices and activations",
    "trainers.models.forms.bank.__init__": "a layer's tensors and where they lie",
    "trainers.models.forms.basis.__init__": "a layer's tensors and where they lie",
    "trainers.models.forms.lowrank.__init__": "a layer's tensors and where they lie",
    "trainers.models.sharing._align": "one group, its plan, and what its layers start from",
}
"""Functions over a limit, each with why it stays so."""

Graph = Mapping[str, set[str]]


class House:
    """The modules of a checkout by dotted name, and what they import of each other."""

    def __init__(self, root: Path) -> None:
        paths = [p for package in PACKAGES for p in sorted((root / package).rglob("*.py"))]
        self.files = {_dotted(path.relative_to(root)): path for path in paths}
        self.trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self.files.items()}
        self.names = {name.removesuffix(".__init__") for name in self.files}

    def modules(self) -> Graph:
        """Return each module with the modules it imports, faces (`__init__`) left out."""
        return {
            name: {found for found in self._imported(tree) if found != name}
            for name, tree in self.trees.items()
            if not name.endswith("__init__")
        }

    def rooms(self) -> Graph:
        """Return each room with the rooms it imports."""
        graph: dict[str, set[str]] = {}
        for name, imported in self.modules().items():
            graph.setdefault(self.room(name), set()).update(map(self.room, imported))
        return {room: others - {room} for room, others in graph.items()}

    def room(self, module: str) -> str:
        """Return the room a module lies in: its folder, or itself if it lies loose in a package."""
        parts = module.split(".")
        return ".".join(parts[:2])

    def _imported(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                source = node.module.removeprefix("sharetune.")
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    if inner in self.names and f"{inner}.__init__" not in self.files:
                        yield inner
                    elif source in self.names and f"{source}.__init__" not in self.files:
                        yield source

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Yield every function and method."""
        for tree in self.trees.values():
            yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))

    def large_functions(self) -> set[str]:
        """Return the functions over a limit, as ``module.function``."""
        return {
            f"{name}.{f.name}"
            for name, tree in self.trees.items()
            for f in ast.walk(tree)
            if isinstance(f, ast.FunctionDef) and (_is_long(f) or _has_many_parameters(f))
        }

    def counts(self) -> dict[str, int]:
        """Return the figures of the table, by their names."""
        text = "\n".join(path.read_text("utf-8") for path in self.files.values())
        rooms, functions = self.rooms(), list(self.functions())
        fullest = max(
            sum(name.rpartition(".")[0] == folder for name in self.modules())
            for folder in {name.rpartition(".")[0] for name in self.modules()}
        )
        return {
            "files": len(self.files),
            "lines": text.count("\n") + 1,
            "rooms": len(rooms),
            "files in the fullest folder": fullest,
            "arrows between rooms": sum(map(len, rooms.values())),
            "rooms in a circle": len(_in_circles(rooms)),
            "files in a circle": len(_in_circles(self.modules())),
            "Any": sum(
                isinstance(n, ast.Name) and n.id == "Any"
                for tree in self.trees.values()
                for n in ast.walk(tree)
            ),
            "dict[str, Any]": text.count("dict[str, Any]"),
            f"functions over {LONG_FUNCTION} lines": sum(map(_is_long, functions)),
            f"functions with over {MANY_PARAMETERS} parameters": sum(
                map(_has_many_parameters, functions)
            ),
            "functions": len(functions),
        }


def circle(graph: Graph) -> list[str]:
    """Return the members of one circle of `graph`, or none."""
    try:
        TopologicalSorter({name: sorted(others) for name, others in graph.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _in_circles(graph: Graph) -> set[str]:
    return {name for name in graph if name in _reachable(graph, name)}


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    left = list(graph.get(start, ()))
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += graph.get(name, ())
    return found


def _is_long(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return (function.end_lineno or function.lineno) - function.lineno + 1 > LONG_FUNCTION


def _has_many_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    own = [argument for argument in every if argument.arg not in ("self", "cls")]
    return len(own) > MANY_PARAMETERS


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def main(roots: list[Path]) -> None:
    """Print the table of all checkouts."""
    houses = [House(root) for root in roots]
    columns = [house.counts() for house in houses]
    for name in columns[0]:
        print(f"{name:36}", *(f"{column.get(name, 0):>8,}" for column in columns))
    unexplained = sorted(houses[-1].large_functions() - REASONS.keys())
    print(f"over a limit without a reason: {', '.join(unexplained) or 'none'}")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]] or [ROOT])
