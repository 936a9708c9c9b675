"""Describe the modules of a shared model as plain data, and build them again from it.

A layout holds what differs from a freshly built model of the same configuration: the banks, the
modules that read them or run again, matrices of other shapes, and other settings. Building from it
needs no plan, so that a model can be built where only torch and transformers are installed.

>>> layout = layout_of(model)                                          # doctest: +SKIP
>>> build_(fresh_copy(model), layout, {"BankLinear": BankLinear, "Linear": nn.Linear})
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations
from transformers import PreTrainedConfig, PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.models.activation_reuse import Handover, Lend
from sharetune.trainers.models.mixtures import WholeRouterLogits, whole_router_logits_
from sharetune.trainers.models.modules import BankReader, RepeatedModule, repeated
from sharetune.trainers.models.shared_cache import share_caches_
from sharetune.trainers.models.structure import BANKS

Spec = dict[str, Any]
"""One module as plain data: class, settings, shapes of its tensors, children and references."""

Layout = dict[str, Any]
"""``banks``, ``modules`` and ``settings`` by path, ``lends``: which outputs are reused, and
``routed``: the number of experts in a module's router logits."""

UNDESCRIBED = frozenset({"training", "name_or_path", "gradient_checkpointing"})
"""Attributes of modules that say how a model is used, not what it computes."""


def layout_of(model: PreTrainedModel) -> tuple[Layout, dict[str, type[Any]]]:
    """Return the layout of a model, shared or not, and the classes that it names.

    Raises :class:`ModelError` for a module that plain data cannot describe.
    """
    kind: Any = getattr(type(model), "_unshared_class", type(model))
    with torch.device("meta"):
        fresh: PreTrainedModel = kind._from_config(copy.deepcopy(model.config))
    describer = _Describer(model)
    return describer.layout(fresh), describer.classes


class _Describer:
    """Describe the modules of `model`; handovers are numbered in the order they are met."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.banks = list(getattr(model, BANKS, ()))
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.handovers: list[Handover] = []
        self.classes: dict[str, type[Any]] = {}

    def layout(self, fresh: nn.Module) -> Layout:
        """Return what differs between the model and a `fresh` one."""
        modules: dict[str, Spec] = {}
        settings: dict[str, dict[str, Any]] = {}
        for path, module, same in self._compared("", self.model, fresh):
            if same is None:
                modules[path] = self._spec(path, module)
            elif changed := self._changed(path, module, same):
                settings[path] = changed
        return {
            "banks": [
                {key: self._spec(key, entry) for key, entry in bank.items()} for bank in self.banks
            ],
            "modules": modules,
            "settings": settings,
            "lends": self._by_path(Lend, lambda hook: self._number(hook.handover)),
            "routed": self._by_path(WholeRouterLogits, lambda hook: hook.experts),
        }

    def _compared(
        self, path: str, module: nn.Module, fresh: nn.Module
    ) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
        """Yield each module with its fresh counterpart, or None where it must be described."""
        if path and not _is_alike(module, fresh):
            yield path, module, None
            return
        yield path, module, fresh
        children = {name: c for name, c in module.named_children() if path or name != BANKS}
        others = dict(fresh.named_children())
        if missing := sorted(set(children) ^ set(others)):
            raise ModelError(
                f"{type(self.model).__name__} has other modules than its configuration makes, "
                f"such as {f'{path}.{missing[0]}'.lstrip('.')}",
                "export as shared or dense",
            )
        for name, child in children.items():
            yield from self._compared(f"{path}.{name}".lstrip("."), child, others[name])

    def _changed(self, path: str, module: nn.Module, fresh: nn.Module) -> dict[str, Any]:
        """Return the settings of `module` that differ from a fresh one's."""
        own, others = _settings(module), _settings(fresh)
        return {
            name: self._plain(f"{path}.{name}", value)
            for name, value in own.items()
            if isinstance(value, PLAIN) and (name not in others or others[name] != value)
        }

    def _spec(self, path: str, module: nn.Module) -> Spec:
        """Return the description of one module with its children."""
        if isinstance(module, RepeatedModule):
            holder, name = module._holder[0], module._name_there
            return {"repeats": self.paths[id(holder)], "name": name}
        if module._non_persistent_buffers_set:
            raise ModelError(
                f"{path} is a {type(module).__name__} with buffers that are not saved, which code "
                "cannot build",
                "export as shared or dense",
            )
        spec: Spec = {
            "class": self._named(type(module)),
            "settings": {
                name: self._plain(f"{path}.{name}", value)
                for name, value in (_settings(module) | _private_flags(module)).items()
            },
            "tensors": {name: _shape(tensor) for name, tensor in module._parameters.items()},
            "buffers": {name: _shape(tensor) for name, tensor in module._buffers.items()},
            "children": {
                name: None if child is None else self._spec(f"{path}.{name}", child)
                for name, child in module._modules.items()
            },
        }
        if isinstance(module, BankReader):
            spec |= {"bank": self._bank(module), "key": module._key}
        return {name: value for name, value in spec.items() if value != {}}

    def _named(self, kind: type[Any]) -> str:
        if self.classes.setdefault(kind.__name__, kind) is not kind:
            raise ModelError(
                f"two classes are called {kind.__name__}, which code cannot tell apart",
                "give one of them another name",
            )
        return kind.__name__

    def _bank(self, reader: BankReader) -> int:
        return next(i for i, bank in enumerate(self.banks) if bank is reader._banks[0])

    def _plain(self, path: str, value: object) -> Any:
        """Return a setting as plain data; a dataclass as its name and its fields."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple | list):
            return [self._plain(path, item) for item in value]
        if isinstance(value, Handover):
            return {"Handover": self._number(value)}
        if isinstance(value, PreTrainedConfig) and (name := self._config_name(value)) is not None:
            return {"Config": name}
        if is_dataclass(value):
            own = {f.name: self._plain(path, getattr(value, f.name)) for f in fields(value)}
            return {self._named(type(value)): own}
        raise ModelError(
            f"{path} is a {type(value).__name__}, which a configuration cannot hold",
            "export as shared or dense",
        )

    def _config_name(self, config: PreTrainedConfig) -> str | None:
        """Return the attribute of the model's configuration that is `config`, empty if it is it."""
        whole = self.model.config
        parts = {name: part for name, part in vars(whole).items() if part is config}
        return "" if config is whole else next(iter(parts), None)

    def _number(self, handover: Handover) -> int:
        if not any(handover is other for other in self.handovers):
            self.handovers.append(handover)
        return next(i for i, other in enumerate(self.handovers) if other is handover)

    def _by_path(self, kind: type[Any], said: Callable[[Any], int]) -> dict[str, int]:
        """Return what is `said` of the forward hooks of a kind, by the path of their module."""
        return {
            path: said(hook)
            for path, module in self.model.named_modules()
            for hook in module._forward_hooks.values()
            if isinstance(hook, kind)
        }


COMMON_FLAGS = frozenset({*vars(nn.Module()), "_is_hf_initialized"})
"""Private flags of modules of any class."""

PLAIN = (bool, int, float, str, type(None), tuple)
"""Types of settings that are compared with a fresh model's."""


def _settings(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in UNDESCRIBED
    }


def _private_flags(module: nn.Module) -> dict[str, bool]:
    """Return what a class of the library notes about its modules, not what every module has."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool) and name.startswith("_") and name not in COMMON_FLAGS
    }


def _is_alike(module: nn.Module, fresh: nn.Module) -> bool:
    """Return whether both are of one class, with saved tensors of the same names and shapes."""
    own, others = _saved_shapes(module), _saved_shapes(fresh)
    return type_before_parametrizations(module) is type_before_parametrizations(fresh) and (
        own == others
    )


def _saved_shapes(module: nn.Module) -> dict[str, Any]:
    tensors = module._parameters | module._buffers
    unsaved = module._non_persistent_buffers_set
    return {name: _shape(tensor) for name, tensor in tensors.items() if name not in unsaved}


def _shape(tensor: Tensor | None) -> Any:
    """Return the shape, as ``{dtype: shape}`` if it holds no floats."""
    if tensor is None or tensor.is_floating_point():
        return None if tensor is None else list(tensor.shape)
    return {str(tensor.dtype).removeprefix("torch."): list(tensor.shape)}


def build_(
    model: nn.Module, layout: Layout, classes: Mapping[str, type[Any]], prefix: str = ""
) -> None:
    """Give a freshly built `model`, in place, the modules of `layout`, with empty tensors.

    `classes` are those that the layout names. Paths lose `prefix`: the body of a model with a head
    has no such level.
    """
    builder = Builder(layout, classes, getattr(model, "config", None))
    model.banks = builder.banks

    def at(path: str) -> str:
        return f"{path}.".removeprefix(prefix).rstrip(".")

    for path, settings in layout["settings"].items():
        for name, value in settings.items():
            setattr(model.get_submodule(at(path)), name, builder.decoded(value))
    for path, spec in layout["modules"].items():
        if "repeats" in spec:
            module = repeated(model.get_submodule(at(spec["repeats"])), spec["name"])
        else:
            module = builder.module(spec)
        model.set_submodule(at(path), module)
    for path, number in layout["lends"].items():
        model.get_submodule(at(path)).register_forward_hook(Lend(builder.handover(number)))
    for path, experts in layout["routed"].items():
        whole_router_logits_(model.get_submodule(at(path)), experts)
    share_caches_(model)


class Builder:
    """Build modules from their descriptions; those that share a bank or a handover get the same.

    Settings that are the model's configuration, or a part of it, are that of `config`.
    """

    def __init__(
        self, layout: Layout, classes: Mapping[str, type[Any]], config: object = None
    ) -> None:
        self.classes, self.config = classes, config
        self.handovers: dict[int, Handover] = {}
        self.banks = nn.ModuleList(
            nn.ModuleDict({key: self.module(entry) for key, entry in bank.items()})
            for bank in layout["banks"]
        )

    def module(self, spec: Spec) -> Any:
        """Return the described module, with empty tensors."""
        kind: Any = self.classes[spec["class"]]
        module = kind.__new__(kind)
        nn.Module.__init__(module)
        for name, value in spec.get("settings", {}).items():
            setattr(module, name, self.decoded(value))
        for name, shape in spec.get("tensors", {}).items():
            module.register_parameter(name, None if shape is None else _empty(shape))
        for name, shape in spec.get("buffers", {}).items():
            module.register_buffer(name, None if shape is None else _empty(shape).data)
        for name, child in spec.get("children", {}).items():
            module.add_module(name, None if child is None else self.module(child))
        if "bank" in spec:
            module._banks, module._key = (self.banks[spec["bank"]],), spec["key"]
        return module

    def decoded(self, value: object) -> Any:
        """Return the setting that plain data describes; lists are tuples."""
        if isinstance(value, list):
            return tuple(self.decoded(item) for item in value)
        if not isinstance(value, dict):
            return value
        ((name, own),) = value.items()
        if name == "Handover":
            return self.handover(own)
        if name == "Config":
            return getattr(self.config, own) if own else self.config
        return self.classes[name](**{key: self.decoded(item) for key, item in own.items()})

    def handover(self, number: int) -> Handover:
        """Return the handover of this number."""
        return self.handovers.setdefault(number, Handover())


def _empty(shape: Any) -> nn.Parameter:
    """Return a parameter of this shape, which a dtype may come with, and no certain values."""
    if isinstance(shape, list):
        return nn.Parameter(torch.empty(shape))
    ((dtype, sizes),) = shape.items()
    return nn.Parameter(torch.empty(sizes, dtype=getattr(torch, dtype)), requires_grad=False)
