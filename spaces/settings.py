"""The base of all settings that users write: frozen, finite, and strict about keys and booleans."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sharetune.spaces.errors import ConfigError, SharetuneError
from sharetune.spaces.mistakes import described, kind_of
from sharetune.spaces.texts import shortened, shown
from sharetune.spaces.yaml_text import LARGEST

Value = TypeVar("Value")
Model = TypeVar("Model", bound=BaseModel)

MOST = 10**10
"""Largest whole number of a setting: more than any count of trials, steps or tokens."""


REFERENCE = "see docs/reference.md"
"""Hint of errors about settings that no other hint fits."""

_is_reading: ContextVar[bool] = ContextVar("_is_reading", default=False)
"""Whether settings are being read, so that those inside them keep their mistakes for them."""


class StrictModel(BaseModel):
    """Base of all settings. Unknown keys, infinite numbers and booleans as numbers are mistakes.

    They are raised as one :class:`SharetuneError`, also by the constructor: of the kind of the
    rule that was broken, else a :class:`ConfigError`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **data: Any) -> None:
        with _one_error(type(self)):
            super().__init__(**data)

    # settings inside others are read by pydantic, which knows their place, and not called
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: object) -> None:
        with _one_error(type(self)):
            super().__setattr__(name, value)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Read settings from plain data. Raises :class:`SharetuneError`."""
        with _one_error(cls):
            return super().model_validate(obj, **options)

    @model_validator(mode="before")
    @classmethod
    def _numbers_make_sense(cls, data: Any) -> Any:
        for key, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(key) if isinstance(key, str) else None
            if field is not None:
                _refuse_no_number(key, value, _kinds(field.annotation))
        return data


def read_settings(model: type[Model], data: object, source: str, **context: object) -> Model:
    """Read `data` as settings; errors name `source`, which is a file or what they are.

    `context` is passed on to validators. Raises :class:`ConfigError` that lists every mistake.
    """
    with _one_error(model, source):
        return model.model_validate(data, context=context)


def validated(model: type[Model], data: object) -> Model:
    """Read `data` as settings. Raises pydantic's ``ValidationError``, with each mistake's place."""
    return cast(Model, model.__pydantic_validator__.validate_python(data))


@contextmanager
def _one_error(model: type[BaseModel], source: str | None = None) -> Iterator[None]:
    """Turn whatever reading a `model` raises into one error; the outermost model's reading does."""
    if _is_reading.get():
        yield
        return
    outermost = _is_reading.set(True)
    try:
        with one_door(source or model.__name__, ConfigError, REFERENCE):
            yield
    except ValidationError as error:
        kind = kind_of(error) if source is None else ConfigError
        raise described(error, source or model.__name__, model, kind) from None
    finally:
        _is_reading.reset(outermost)


def _refuse_no_number(key: str, value: Any, kinds: set[Any]) -> None:
    """Raise :class:`ConfigError` for a boolean in place of a number, and for a huge number."""
    if isinstance(value, list | tuple):
        inside = {one for kind in kinds if get_origin(kind) is tuple for one in get_args(kind)}
        for each in value:
            _refuse_no_number(key, each, inside)
    if not kinds & {int, float}:
        return
    if isinstance(value, bool) and bool not in kinds:
        raise ConfigError(f"{key} must be a number, but got {str(value).lower()}", "write a number")
    most = MOST if int in kinds else LARGEST
    if isinstance(value, int) and abs(value) > most:
        raise ConfigError(
            f"{key} must be at most {most:,}, but got {shown(value)}", "write a smaller one"
        )


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
                f"{shown(value)} cannot be read: {reason(error)}", REFERENCE
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
