"""Describe the mistakes that pydantic finds in one sentence each, in the words of a study file."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from sharetune.spaces.errors import ConfigError, DataError, SharetuneError
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.texts import shortened, shown


def described(
    error: ValidationError,
    source: str,
    model: type[BaseModel],
    kind: type[SharetuneError] = ConfigError,
) -> SharetuneError:
    """Join all mistakes in what `model` reads into one error of this kind, with the first's hint.

    `source` is the file, or the class, that they are in.
    """
    lines, hints = [], []
    for mistake in error.errors():
        place = shortened(".".join(map(str, mistake["loc"])))
        cause = mistake.get("ctx", {}).get("error")
        lines.append(f"{place}: {_text(mistake, cause)}" if place else _text(mistake, cause))
        hints.append(cause.hint if isinstance(cause, SharetuneError) else _hint(mistake, model))
    head = lines[0] if len(lines) == 1 else "; ".join(lines)
    return kind(f"{source}: {head}", next(filter(None, hints), "see docs/reference.md"))


def missing_column(source: str, what: str, asked: str, columns: Iterable[str]) -> DataError:
    """Return the error for a table, read from `source`, that has no column of `what`.

    `what` is the task's key for it, `asked` what was looked for.
    """
    return DataError(
        f"{source} has no {what} column: looked for {asked}, and the table has "
        f"{', '.join(map(repr, columns))}",
        f"set task.{what} to the column's name; on the command line by --set task.{what}=NAME",
    )


def kind_of(error: ValidationError) -> type[SharetuneError]:
    """Return the kind of our errors that all mistakes come from, else :class:`ConfigError`."""
    causes = [mistake.get("ctx", {}).get("error") for mistake in error.errors()]
    kinds = {type(cause) if isinstance(cause, SharetuneError) else ConfigError for cause in causes}
    return kinds.pop() if len(kinds) == 1 else ConfigError


def _text(mistake: Any, cause: Exception | None) -> str:
    if isinstance(cause, SharetuneError):
        return cause.message
    if mistake["type"] == "extra_forbidden":
        return "unknown key"
    if mistake["type"] == "missing":
        return "missing key"
    if mistake["type"] == "frozen_instance":
        return f"cannot be changed to {shown(mistake['input'])}"
    if mistake["type"] == "model_type":
        return f"must be a section of keys, but got {shown(mistake['input'])}"
    needed = mistake["msg"].lower().replace("valid tuple", "list").replace("dictionary", "section")
    return f"{needed.replace('tuple', 'list')}, but got {shown(mistake['input'])}"


def _hint(mistake: Any, model: type[BaseModel]) -> str:
    if mistake["type"] == "frozen_instance":
        return f"settings are fixed: make a new {model.__name__}"
    if mistake["type"] != "extra_forbidden":
        return ""
    *path, key = mistake["loc"]
    fields = list(_section(model, path).model_fields)
    return did_you_mean(str(key), fields)


def _section(model: type[BaseModel], path: list[Any]) -> type[BaseModel]:
    """Return the model of the section that `path` leads to, as far as it can be followed."""
    for step in path:
        field = model.model_fields.get(str(step))
        inner = inner_model(field.annotation) if field else None
        model = inner or model
    return model


def inner_model(annotation: object) -> type[BaseModel] | None:
    """Return the first model of settings that a field's type holds; None: it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(inner_model, getattr(annotation, "__args__", ()))), None)
