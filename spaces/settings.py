"""The base of all settings that users write: frozen, finite, and strict about keys and booleans."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sharetune.spaces.errors import ConfigError, SharetuneError
from sharetune.spaces.texts import shortened, shown
from sharetune.spaces.yaml_text import LARGEST

Value = TypeVar("Value")

MOST = 10**10
"""Largest whole number of a setting: more than any count of trials, steps or tokens."""


class StrictModel(BaseModel):
    """Base of all settings. Unknown keys, infinite numbers and booleans as numbers are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_make_sense(cls, data: Any) -> Any:
        for key, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(key) if isinstance(key, str) else None
            kinds = set() if field is None else _kinds(field.annotation)
            if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
                raise ConfigError(
                    f"{key} must be a number, but got {str(value).lower()}", "write a number"
                )
            most = MOST if int in kinds else LARGEST
            if isinstance(value, int) and kinds & {int, float} and abs(value) > most:
                raise ConfigError(
                    f"{key} must be at most {most:,}, but got {shown(value)}", "write a smaller one"
                )
        return data


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that a field's type joins, such as int and None."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    return {get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds}


def reader(read: Callable[[Any], Value]) -> Callable[[Any], Value]:
    """Turn errors by which a reader of a field meets a value of another type into one mistake."""

    @wraps(read)
    def reading(value: Any) -> Value:
        try:
            return read(value)
        except (ValidationError, SharetuneError):
            raise
        except Exception as error:  # whatever the value's type does not have
            raise ConfigError(
                f"{shown(value)} cannot be read: {reason(error)}", "see docs/reference.md"
            ) from error

    return reading


@contextmanager
def one_door(what: str, error: type[SharetuneError], hint: str) -> Iterator[None]:
    """Turn any failure of reading `what` into one `error`; ours and pydantic's pass as they are."""
    try:
        yield
    except (ValidationError, SharetuneError):
        raise
    except Exception as failure:
        raise error(f"{what} cannot be read: {reason(failure)}", hint) from failure


def reason(error: BaseException) -> str:
    """Write an error's kind and text in one short line."""
    text = " ".join(str(error).split())
    return shortened(f"{type(error).__name__}: {text}" if text else type(error).__name__)
