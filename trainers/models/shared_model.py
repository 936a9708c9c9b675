"""Define a shared model's class, its configuration, and the files it is saved as.

``config.json`` holds the unshared model's configuration and the plan. Its model type,
``sharetune``, is unknown to a plain Transformers installation, which therefore refuses the folder
instead of filling layers with random numbers. A concrete class of the library is refused, too: the
configuration names a weights file that is none, and no class finds a model type of its own in it.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ModelError
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers.models.activation_reuse import HandsOver

MODEL_TYPE = "sharetune"
"""The model type in ``config.json`` of a saved shared model."""

UNSHARED_CLASS = "_unshared_class"
"""The attribute of a shared model's class that names the class it had before."""

BASE_TYPE = "base_model_type"
"""The key for the unshared model's type in ``config.json``. Folders of older versions hold it in
`base`, where a concrete class of the library finds it and takes `base` for its own."""

NO_WEIGHTS = "a shared model: load it with sharetune.load_shared(folder)"
"""The weights file in ``config.json``, which transformers repeats when it refuses the name."""

SET_BY_LIBRARY = {"architectures", "dtype", "transformers_version", "_name_or_path"}
"""Settings that the library changes by itself when a model is saved or loaded."""


@dataclass(frozen=True)
class Sharing:
    """How a model was shared, as stored in ``model.sharing``.

    `plan` is bound to the model, `base` is the configuration before sharing and `settled` the one
    after, `orders` gives, by stack, the original layer that runs at each position, `shapes` the
    stacks before sharing, and `compression` was applied after training. `places`, of a model whose
    stacks cannot be found any more, as layers of other kinds are in their list or one layer is
    left, gives each stack's list and the places it now runs at.
    """

    plan: SharingPlan
    base: dict[str, Any]
    orders: dict[str, tuple[int, ...]]
    shapes: dict[str, StackShape]
    compression: Compression = field(default_factory=Compression)
    settled: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    places: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    def below(self, prefix: str) -> "Sharing":
        """Return the same for the part of the model at the path `prefix`."""
        places = {
            name: (path.removeprefix(f"{prefix}."), own)
            for name, (path, own) in self.places.items()
        }
        return replace(self, places=places)


class SharedConfig(PreTrainedConfig):
    """The configuration of a saved shared model: `base` and `plan` as plain data.

    It also has the attributes of the unshared model's configuration, such as `num_hidden_layers`,
    which is the depth before sharing.
    """

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, object], **kwargs: object) -> Any:
        """Return the configuration that ``config.json`` holds as `config_dict`."""
        own = vars(base_config(base_of(config_dict)))
        return super().from_dict(copy.deepcopy(own) | config_dict, **kwargs)


def base_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the unshared model's configuration, with its model type, from a ``config.json``."""
    base = dict(saved["base"])
    return base if BASE_TYPE not in saved else base | {"model_type": saved[BASE_TYPE]}


def base_config(base: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the configuration of which `base` is the plain data."""
    settings = copy.deepcopy(dict(base))
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


class SharedModel(HandsOver):
    """The mixin that turns a transformers class into the class of its shared models."""

    sharing: Sharing
    dtype: torch.dtype
    rebuild: ClassVar[Callable[..., PreTrainedModel]]
    """``(class, saved configuration) -> model`` on the meta device, as loading builds it."""

    def __reduce_ex__(self, protocol: object) -> Any:
        return _empty, (getattr(type(self), UNSHARED_CLASS),), self.__dict__

    def save_pretrained(self, save_directory: str | Path, **kwargs: object) -> None:
        """Write weights (each bank once) and configuration, as the method of transformers does.

        Tensors keep the names they have in the model. For some families transformers writes older
        names, which it can only read back into an unshared model. Raises :class:`ModelError` if
        the model was changed after sharing so that its configuration and plan do not build it.
        """
        kwargs["save_original_format"] = False
        if getattr(self, "_hf_peft_config_loaded", False):  # only the adapter is saved
            super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
            return
        now = self.config.to_dict()  # type: ignore[attr-defined]
        base = _with_changes(self.sharing, now)
        base["dtype"] = str(self.dtype).removeprefix("torch.")
        self.sharing = replace(self.sharing, base=base, settled=now)
        config = self._saved_config()
        _refuse_other_tensors(self, config)  # type: ignore[arg-type]
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        path = Path(save_directory) / "config.json"
        path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def _saved_config(self) -> dict[str, Any]:
        base = dict(self.sharing.base)
        return {
            "model_type": MODEL_TYPE,
            "architectures": [getattr(type(self), UNSHARED_CLASS).__name__],
            BASE_TYPE: base.pop("model_type"),
            "base": base,
            "plan": self.sharing.plan.written(),
            "units": {
                name: {"heads": shape.heads, "neurons": shape.neurons}
                | ({"experts": shape.experts} if shape.experts else {})
                for name, shape in self.sharing.shapes.items()
            },
            "compression": self.sharing.compression.model_dump(exclude_defaults=True),
            "transformers_weights": NO_WEIGHTS,
            "transformers_version": transformers.__version__,
        }


def _with_changes(sharing: Sharing, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration before sharing with what was changed after it.

    Raises :class:`ModelError` for a change of what sharing itself set, such as the depth.
    """
    base = copy.deepcopy(sharing.base)
    for name in (now.keys() | sharing.settled.keys()) - SET_BY_LIBRARY:
        before, after = sharing.settled.get(name), now.get(name)
        if before == after:
            continue
        if before != base.get(name):
            raise ModelError(
                f"{name} of the configuration follows from the plan, but was changed from "
                f"{before!r} to {after!r}",
                f"set it back, or set {name} before sharing",
            )
        base[name] = copy.deepcopy(after)
    return base


def _refuse_other_tensors(model: PreTrainedModel, saved: Mapping[str, object]) -> None:
    """Raise :class:`ModelError` unless a model built from `saved` has the tensors of `model`."""
    kind: Any = type(model)
    own = {name: tuple(t.shape) for name, t in model.state_dict(keep_vars=True).items()}
    built = kind.rebuild(getattr(kind, UNSHARED_CLASS), saved).state_dict(keep_vars=True)
    there = {name: tuple(tensor.shape) for name, tensor in built.items()}
    differing = sorted(
        name for name in own.keys() | there.keys() if own.get(name) != there.get(name)
    )
    if differing:
        name = differing[0]
        raise ModelError(
            f"{type(model).__name__} was changed after sharing, and its configuration does not say "
            f"how: {name} is {_shape_text(own, name)}, but would be {_shape_text(there, name)} "
            "when it is loaded",
            "change the configuration with it, or call materialize_(model) and save that",
        )


def _shape_text(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return f"of shape {shapes[name]}" if name in shapes else "missing"


def _empty(unshared: object) -> PreTrainedModel:
    """Return a shared model without content, as unpickling needs it."""
    kind: Any = shared_class(unshared)
    return kind.__new__(kind)  # type: ignore[no-any-return]


@cache
def shared_class(unshared: Any) -> type[PreTrainedModel]:
    """Return the class of shared models whose unshared class is `unshared`."""
    return type(f"Shared{unshared.__name__}", (SharedModel, unshared), {UNSHARED_CLASS: unshared})


def unshared_class(shared: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the unshared class; the inverse of :func:`shared_class`."""
    unshared: type[PreTrainedModel] = getattr(shared, UNSHARED_CLASS)
    return unshared


def body_(model: PreTrainedModel) -> PreTrainedModel:
    """Return the body of a shared `model`, without its head, as a shared model of its own."""
    body: Any = model.base_model
    if body is not model:
        body.banks = model.banks
        body.sharing = model.sharing.below(model.base_model_prefix)
        kind: Any = type(body)
        body.__class__ = shared_class(kind)
    return body  # type: ignore[no-any-return]


def never_saved(model: PreTrainedModel) -> set[str]:
    """Return the names of tensors that are computed, not saved, such as Marian's positions."""
    return set(model._keys_to_ignore_on_save or ())
