"""Write out the source of classes with all that they use, as one file that runs alone.

Definitions are taken from the modules where they lie, one by one: a file has only what it needs.

>>> source_of([BankLinear])                                            # doctest: +SKIP
"""

import ast
import builtins
import importlib
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sharetune.spaces.errors import ModelError

AVAILABLE = frozenset((*sys.stdlib_module_names, "torch", "transformers"))
"""Packages that are there wherever the file is read."""

Definition = tuple[str, str]
"""Module and name."""


def source_of(kinds: Iterable[type[Any]]) -> str:
    """Return Python source that defines `kinds` and imports torch and transformers only.

    Classes of these two packages are imported. Raises :class:`ModelError` if a class needs another
    package.
    """
    kinds = list(kinds)
    packages = {"sharetune", *(kind.__module__.split(".")[0] for kind in kinds)} - AVAILABLE
    collector = _Collector(packages)
    for kind in kinds:
        collector.require((kind.__module__, kind.__name__))
    while collector.waiting:
        collector.require(collector.waiting.pop(0))
    return "\n\n\n".join([collector.imports(), *collector.pieces])


@dataclass
class _Collector:
    """The definitions found so far, those that are used at definition time first."""

    packages: set[str]
    pieces: list[str] = field(default_factory=list)
    waiting: list[Definition] = field(default_factory=list)
    seen: dict[str, Definition] = field(default_factory=dict)
    imported: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def require(self, wanted: Definition) -> None:
        """Add a definition, after those that it needs when it is read; queue all others."""
        module, name = wanted
        if module.split(".")[0] not in self.packages:
            self._import(module, name)
            return
        source = _Source.of(module)
        if name in source.imports:
            self._follow(source.imports[name], name)
            return
        if name not in source.definitions:
            raise ModelError(
                f"code can be written of what a module defines at its top level, but {module} "
                f"defines {name} elsewhere",
                "move it to the top level, or export as shared or dense",
            )
        if self.seen.setdefault(name, wanted) != wanted:
            raise ModelError(
                f"{module} and {self.seen[name][0]} both define {name}, and one file cannot",
                "give one of them another name",
            )
        piece = source.definitions[name]
        if piece in self.pieces:
            return
        for early in source.known(_names_at_definition(source.nodes[name])):
            if early != name:
                self.require((module, early))
        self.pieces.append(piece)
        self.waiting += [(module, n) for n in source.known(_names(source.nodes[name]))]

    def _follow(self, target: Definition, name: str) -> None:
        module, original = target
        if original not in ("", name) and module.split(".")[0] in self.packages:
            raise ModelError(f"{module}.{original} is imported as {name}", "import it as it is")
        self.require((module, original or name) if original else (module, ""))

    def _import(self, module: str, name: str) -> None:
        if module.split(".")[0] not in AVAILABLE:
            raise ModelError(
                f"the code format runs with torch and transformers alone, but needs {module}",
                "export as shared or dense",
            )
        self.imported[module].add(name)

    def imports(self) -> str:
        """Return the import lines, those of whole modules first in each package."""
        lines = []
        for module in sorted(self.imported, key=lambda m: (m.split(".")[0] in THIRD, m)):
            names = sorted(self.imported[module] - {""})
            lines += [f"import {module}"] if "" in self.imported[module] else []
            lines += [f"from {module} import {', '.join(names)}"] if names else []
        return "\n".join(["from __future__ import annotations", "", *lines])


THIRD = frozenset({"torch", "transformers"})
"""Packages whose imports come after the standard library's."""


@dataclass(frozen=True)
class _Source:
    """The top-level definitions of a module and what it imports, by name."""

    nodes: dict[str, ast.stmt]
    definitions: dict[str, str]
    imports: dict[str, Definition]

    @classmethod
    @cache
    def of(cls, module: str) -> "_Source":
        try:
            text = inspect.getsource(importlib.import_module(module))
        except (OSError, TypeError, ImportError) as error:
            raise ModelError(
                f"the source of {module} cannot be read: {error}", "put its classes into a file"
            ) from None
        nodes: dict[str, ast.stmt] = {}
        definitions: dict[str, str] = {}
        imports: dict[str, Definition] = {}
        body = ast.parse(text).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            imports |= dict(_imported(node))
            for name in _defined(node):
                nodes[name], definitions[name] = node, _text(text, node, after)
        return cls(nodes, definitions, imports)

    def known(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the `names` that this module defines or imports, each once, in order."""
        for name in dict.fromkeys(names):
            if name in self.definitions or name in self.imports:
                yield name


def _imported(node: ast.stmt) -> Iterator[tuple[str, Definition]]:
    if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            yield alias.asname or alias.name, (node.module, alias.name)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name, (alias.name, "")


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _text(text: str, node: ast.stmt, after: ast.stmt | None) -> str:
    """Return the source of a definition with its decorators, or with the text that explains it."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or node.lineno
    if isinstance(node, ast.Assign | ast.AnnAssign) and _is_text(after):
        assert after is not None and after.end_lineno is not None
        last = after.end_lineno
    return "\n".join(text.splitlines()[first - 1 : last])


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _names(*nodes: ast.AST) -> Iterator[str]:
    """Yield the names that are read anywhere in `nodes`."""
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and not hasattr(builtins, inner.id):
                yield inner.id


def _names_at_definition(node: ast.stmt) -> Iterator[str]:
    """Yield the names that are read when the definition runs; annotations never are."""
    if isinstance(node, ast.ClassDef):
        yield from _names(*node.bases, *node.keywords, *node.decorator_list)
        for inner in node.body:
            yield from _names_at_definition(inner)
    elif isinstance(node, ast.FunctionDef):
        yield from _names(*node.decorator_list, *_defaults(node.args))
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        yield from _names(node.value)


def _defaults(arguments: ast.arguments) -> Sequence[ast.expr]:
    return [default for default in (*arguments.defaults, *arguments.kw_defaults) if default]
