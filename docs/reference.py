"""Write docs/reference.md from the code's own docstrings, fields and registries.

    python docs/reference.py

A test holds the committed page to what this writes.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MethodType
from typing import Any, Literal, get_origin

import typer
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

import sharetune.results.reading.attributes
import sharetune.spaces.errors
from sharetune.search.commands.cli import app
from sharetune.search.commands.listing import KINDS, listing
from sharetune.search.config import StudyConfig
from sharetune.spaces.adversaries import ADVERSARIES
from sharetune.spaces.assignments import Assignment
from sharetune.spaces.compression import Compression
from sharetune.spaces.forms import FORMS
from sharetune.spaces.named import Named
from sharetune.spaces.recipe import Recipe
from sharetune.spaces.registry import Registry
from sharetune.spaces.template import Region
from sharetune.trainers.tasks.base import TASKS

PAGE = Path(__file__).parent / "reference.md"
PYTHON = {
    "sharetune.search.python.searching": ("search",),
    "sharetune.search.python.run": ("Run", "RunTrial"),
    "sharetune.search.python.plans": (
        *("draw", "share", "preset", "tie", "bank", "drop", "narrow", "join", "compare", "count"),
    ),
    "sharetune.trainers": ("share_params", "share_", "load_shared", "materialize_", "is_shared"),
    "sharetune.trainers.exports.base": ("export",),
    "sharetune.spaces": ("SharingPlan", "Group", "Recipe", "Candidate"),
    "sharetune.results": ("load", "pareto_front", "write_report"),
}
WITH_KEYS: dict[str, Callable[[], Mapping[str, type[BaseModel]]]] = {
    "forms": lambda: FORMS,
    "adversaries": lambda: ADVERSARIES,
    "tasks": lambda: TASKS,
}
SECTIONS: tuple[type[BaseModel], ...] = (StudyConfig, Region, Recipe, Compression)
SHOWN_AS_SECTION = ("Group", "Recipe")
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
WORDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "`true` or `false`",
    "dict": "keys",
    "Any": "leaf",
}
PLAIN = {None: "null", False: "false"}
WIDTH = 76
TITLE = """\
# Reference

Written by `docs/reference.py` from the code's own docstrings; change those, not this page. The
same names are printed by `sharetune list`, the same options by `sharetune COMMAND --help`.
"""


def reference() -> str:
    """Write the whole page."""
    parts = [
        TITLE,
        "## Commands",
        *commands(),
        "## The study file",
        *(section(model) for root in SECTIONS for model in models(root)),
        "## Names",
        *names(),
        "## Python",
        *python(),
        "## A run folder",
        fenced(inspect.getdoc(sharetune.results.reading.attributes) or ""),
        "## Errors",
        fenced(inspect.getdoc(sharetune.spaces.errors) or ""),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def commands() -> Iterator[str]:
    """Yield a section for each command: its usage, its help, and its options."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        options = [p for p in command.params if p.param_type_name == "option"]
        arguments = [p.metavar or p.name.upper() for p in command.params if p not in options]
        usage = " ".join(["sharetune", name, *arguments, *(["[OPTIONS]"] if options else [])])
        shown = table(("option", "", "default"), [_option(option) for option in options])
        yield f"### `{usage}`\n\n{command.help}\n\n{shown}"


def _option(option: Any) -> tuple[str, str, str]:
    said = option.show_default
    default = said if isinstance(said, str) else option.default
    if option.required:
        return f"`{option.opts[0]}`", option.help, "needed"
    return f"`{option.opts[0]}`", option.help, "" if default in (None, False) else f"`{default}`"


def models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """List a section and the sections that its keys hold, in the order they are first named."""
    if issubclass(model, Named):
        return []
    found: dict[type[BaseModel], None] = {model: None}
    for field in model.model_fields.values():
        for inner in _inner(field.annotation):
            found |= dict.fromkeys(models(inner))
    return list(found)


def _inner(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _inner(argument)


def section(model: type[BaseModel], heading: str = "") -> str:
    """Write a section's docstring, and a table of its keys with their descriptions."""
    rows = [_key(name, field) for name, field in model.model_fields.items()]
    keys = table(("key", "value", "default", "meaning"), [row for row in rows if row[1] != "null"])
    return f"{heading or f'### {model.__name__}'}\n\n{prose(model)}\n\n{keys}"


def _key(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    limits = [
        f"{sign} {getattr(rule, bound):g}"
        for rule in field.metadata
        for bound, sign in SIGNS.items()
        if getattr(rule, bound, None) is not None
    ]
    names = _names(field.metadata) or _names_in(field.annotation)
    value = " ".join([names or _type(field.annotation), *limits])
    default = "needed" if field.is_required() else _default(field)
    return f"`{name}`", value, default, field.description or ""


def _names(metadata: Iterable[Any]) -> str:
    """The names of the registry that a field's value must be in; nothing for other fields."""
    checks = [rule.func for rule in metadata if isinstance(rule, AfterValidator)]
    found = [check.__self__ for check in checks if isinstance(check, MethodType)]
    registry = next((owner for owner in found if isinstance(owner, Registry)), {})
    return " · ".join(f"`{name}`" for name in registry)


def _names_in(annotation: Any) -> str:
    """The same for ``Annotated[...] | None``."""
    inner = (getattr(part, "__metadata__", ()) for part in getattr(annotation, "__args__", ()))
    return next((f"{names} or null" for names in map(_names, inner) if names), "")


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    literals, origin = getattr(annotation, "__args__", ()), get_origin(annotation)
    if origin is Literal:
        return " · ".join(f"`{literal}`" for literal in literals)
    if origin is tuple and isinstance(literals[0], type) and issubclass(literals[0], Named):
        return "names, each with its keys"
    if origin in (tuple, list):
        return f"list of {_type(literals[0])}"
    if literals and origin is not dict:
        return " or ".join(dict.fromkeys(_type(literal) for literal in literals))
    name = getattr(annotation, "__name__", "value")
    return WORDS.get(name, name)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Assignment | Named):
        return f"`{value.name}`"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{PLAIN.get(value, value) if value is None or value is False else value}`"


def names() -> Iterator[str]:
    """Yield each registry as a table of names and their descriptions."""
    for kind in KINDS:
        entries = sorted(line.split("  ", 1) for line in listing(kind).split("\n"))
        rows = [(f"`{name}`", text.strip()) for name, text in entries]
        yield f"### {kind.capitalize()}\n\n{table(('name', ''), rows)}"
        for name, model in sorted(WITH_KEYS.get(kind, dict)().items()):
            if set(model.model_fields) - {"name"}:
                yield section(model, f"#### `{name}`")


def python() -> Iterator[str]:
    """Yield each public function and class: its signature and docstring."""
    for module, members in PYTHON.items():
        home = importlib.import_module(module)
        yield f"### `{module}`"
        for name in members:
            member = getattr(home, name)
            if name in SHOWN_AS_SECTION:
                yield f"`{name}`: [above](#{name.lower()})."
            elif isinstance(member, type):
                yield f"#### `{name}`\n\n{prose(member)}\n\n{methods(member)}"
            else:
                yield f"#### `{name}`\n\n{fenced(_signature(member), 'python')}\n\n{prose(member)}"


def methods(owner: type) -> str:
    """List a class's own public methods, each with the first paragraph of its docstring."""
    lines = []
    for name, member in vars(owner).items():
        function = getattr(member, "__func__", member)
        documented = inspect.isfunction(function) and function.__doc__ and not name.startswith("_")
        if documented and "validator" not in repr(member):
            lines.append(f"- `{name}`: {prose(function).split(chr(10) + chr(10))[0]}")
    return "\n".join(lines)


def _signature(function: Any) -> str:
    found = inspect.signature(function)
    signature = str(found)
    if len(signature) > WIDTH:
        lines = _parameters(found)
        signature = f"(\n    {f',{chr(10)}    '.join(lines)},\n) -> {signature.split(') -> ')[-1]}"
    plain = re.sub(r"\b(?:[a-z_]+\.)+([A-Z]\w+|dtype|device)", r"\1", signature)
    return f"{function.__name__}{plain}"


def _parameters(signature: inspect.Signature) -> list[str]:
    found = list(signature.parameters.values())
    named = next((i for i, p in enumerate(found) if p.kind is p.KEYWORD_ONLY), None)
    texts = [str(parameter) for parameter in found]
    starred = any(p.kind is p.VAR_POSITIONAL for p in found)
    return texts if named is None or starred else [*texts[:named], "*", *texts[named:]]


def prose(member: Any) -> str:
    """Turn a docstring into Markdown."""
    text = inspect.getdoc(member) or ""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"(?m)^(?:>>>|\.\.\.) .*\n?", "", text).strip()


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write a Markdown table; empty without rows."""
    if not rows:
        return ""
    cells = [[cell.replace("|", r"\|") for cell in line] for line in rows]
    lines = [head, ("---",) * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str = "") -> str:
    """Write a block of code."""
    return f"```{language}\n{text}\n```"


if __name__ == "__main__":
    PAGE.write_text(reference(), "utf-8")
    print(f"wrote {PAGE}")
