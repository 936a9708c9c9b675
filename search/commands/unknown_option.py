"""Answer an option that a command does not have by what was probably meant."""

import ast
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from sharetune.spaces.errors import ConfigError, SharetuneError

if TYPE_CHECKING:
    from pydantic import BaseModel

MOST_NAMED = 3
"""Keys of a study that a hint names."""

ALIKE = 0.75
"""Likeness, of 0..1, from which a key may be a misspelt one."""


class Commands(TyperGroup):
    """The commands, whose unknown options end in one error and a hint."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises ``SystemExit`` with code 2 for an unknown option."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__name__ != "NoSuchOption":  # typer brings click along, in some versions
                raise
            print(_unknown(error).as_text(), file=sys.stderr)
            raise SystemExit(2) from None


def _unknown(error: Any) -> SharetuneError:
    command, option = error.ctx.command, error.option_name
    options = [name for param in command.params for name in param.opts if name.startswith("-")]
    near = get_close_matches(option, options, n=1, cutoff=ALIKE)
    hint = f"did you mean {near[0]}?" if near else _of_setting(option, command.name, options)
    return ConfigError(f"sharetune {command.name} has no option {option}", hint)


def _of_setting(option: str, command: str, options: Sequence[str]) -> str:
    all_of_them = f"options: {', '.join(options)}; see sharetune {command} --help"
    if "--set" not in options:
        return all_of_them
    keys = nearest_keys(option.lstrip("-").replace("-", "_"))
    here = [key for key in keys if key.startswith("task.")] if command == "init" else keys
    if here:
        return f"it is a key of the study: {' or '.join(f'--set {key}=VALUE' for key in here)}"
    if keys:
        sets = f"sharetune search STUDY.yaml --set {keys[0]}=VALUE"
        return f"it is a key of the study that init writes: {sets}, or change it in the file"
    return f"{all_of_them}; keys of the study, as in docs/reference.md, by --set KEY=VALUE"


def nearest_keys(name: str) -> list[str]:
    """Return the keys of a study, such as ``budget.trials``, that end in `name`, else like ones.

    The ones with the fewest sections come first, at most three.
    """
    ends: dict[str, list[str]] = {}
    for key in sorted({*setting_keys()}, key=lambda key: (key.count("."), key)):
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    exact = ends.get(name.rpartition(".")[2])
    if exact:
        return exact[:MOST_NAMED]
    like = get_close_matches(name, list(ends), n=1, cutoff=ALIKE)
    words = [end for end in ends if name in end.split("_") or end in name.split("_")]
    return [ends[end][0] for end in dict.fromkeys([*like, *words])][:MOST_NAMED]


def setting_keys() -> Iterator[str]:
    """Yield the keys of a study file, with dots between those inside one another.

    Those of tasks are read from their files, so that nothing heavy is imported.
    """
    from sharetune.search.commands.plain_checks import TASKS
    from sharetune.search.config import StudyConfig
    from sharetune.spaces.space import SECTIONS

    yield from _keys(StudyConfig, "")
    for section, model in SECTIONS.items():
        yield from _keys(model, f"space.{section}.")
    for node in TASKS.nodes():
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(func=ast.Name(id="Field"))):
                yield f"task.{name}"


def _keys(model: "type[BaseModel]", before: str) -> Iterator[str]:
    from sharetune.spaces.mistakes import inner_model

    for name, field in model.model_fields.items():
        inner = inner_model(field.annotation)
        yield f"{before}{name}"
        if inner is not None:
            yield from _keys(inner, f"{before}{name}.")
