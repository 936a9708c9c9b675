"""Read and write entries chosen by name, with knobs: ``tie``, or ``{bank: {ratio: 0.7}}``."""

from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.registry import Registry
from sharetune.spaces.settings import StrictModel, validated
from sharetune.spaces.texts import shown


class Named(StrictModel):
    """Base of a class that a registry holds under `name`; its fields are the knobs."""

    name: ClassVar[str]


Chosen = TypeVar("Chosen", bound=Named)


def read_named(
    registry: Registry[type[Chosen]], value: object, *, example: str, error: type[SharetuneError]
) -> Chosen:
    """Build the entry of `registry` that `value` names, with its knobs. Raises `error`."""
    if isinstance(value, Named):
        return value  # type: ignore[return-value]
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, dict) or len(value) != 1:
        raise error(
            f"{_a(registry.kind)} is a name or one `name: knobs`, but got {shown(value)}",
            f"available: {', '.join(registry)}; for example {example}",
        )
    ((name, knobs),) = value.items()
    chosen = registry[name]
    try:
        return validated(chosen, {} if knobs is None else knobs)
    except ValidationError as mistake:
        raise _knob_error(chosen, mistake, error) from None


def write_named(choice: Named) -> str | dict[str, Any]:
    """Write an entry so that :func:`read_named` reads it back."""
    knobs = choice.model_dump(mode="json", exclude_defaults=True)
    return {choice.name: knobs} if knobs else choice.name


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _knob_error(
    chosen: type[Named], mistake: ValidationError, error: type[SharetuneError]
) -> SharetuneError:
    first = mistake.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SharetuneError):
        return error(f"{chosen.name}: {cause.message}", cause.hint)
    where = f"{chosen.name}.{first['loc'][0]}"
    knobs = ", ".join(chosen.model_fields) or "none"
    got = "" if first["type"] == "missing" else f", but got {shown(first['input'])}"
    return error(f"{where}: {first['msg'].lower()}{got}", f"knobs of {chosen.name}: {knobs}")
