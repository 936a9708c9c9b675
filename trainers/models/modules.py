"""Modules that read their weights from a bank.

A bank is a ``ModuleDict`` at the model's root. Readers hold it without registering it, so that no
tensor has two names. They look their entry up at every use, so that replacing an entry (by
quantisation, for example) reaches every reader.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.errors import ModelError


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return an ``nn.Linear`` with copies of `weight` (out x in) and `bias` (out)."""
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    module.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone())
    return module


def dense_layer(weight: Tensor, bias: Tensor | None, *, transposed: bool) -> nn.Module:
    """Return an ``nn.Linear`` as :func:`linear` does, or a Conv1D if `transposed`."""
    dense = linear(weight, bias)
    if not transposed:
        return dense
    conv = Conv1D(dense.out_features, dense.in_features)
    conv.weight = nn.Parameter(dense.weight.detach().T.contiguous())
    conv.bias = dense.bias
    return conv


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module with the same configuration, which is the whole model's."""
    configs = [inner.config for inner in module.modules() if hasattr(inner, "config")]
    return deepcopy(module, {id(config): config for config in configs})


def product(module: nn.Module, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``hidden @ weight.T + bias``, (..., in) -> (..., out), as `module` multiplies."""
    if not isinstance(module, Multiplier):
        return functional.linear(hidden, module.weight, bias)  # type: ignore[arg-type]
    output = module.product(hidden)
    return output if bias is None else output + bias


class Multiplier(nn.Module):
    """A module that multiplies by its matrix in less than full precision."""

    def product(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T``: (..., in) -> (..., out)."""
        raise NotImplementedError


class ReadOnly(Tensor):
    """A view of weights that several layers read, which refuses to be changed at one of them.

    Merging an adapter would otherwise change all readers, or a matrix that was just composed.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, which returns a plain tensor. Raises :class:`ModelError` for a change."""
        if args and isinstance(args[0], cls) and _is_change(func):
            raise ModelError(
                "weights that several layers read cannot be changed at one of them, as merging an "
                "adapter does",
                "keep the adapter apart, or merge it into the dense model: export as dense first",
            )
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        return read_only(torch.Tensor.detach(args[0])) if func == GET_DATA else found


GET_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
"""Functions that read and replace a tensor's content, unseen by autograd."""

IN_PLACE = frozenset(
    ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__")
)
"""Operators that change a tensor."""


def _is_change(func: Any) -> bool:
    name = str(func.__name__)
    in_place = name.endswith("_") and not name.startswith("_") and name != "requires_grad_"
    return bool(func == SET_DATA) or in_place or name in IN_PLACE


def read_only(weight: Tensor) -> Tensor:
    """Return a view of `weight` for code that is not the reader's own.

    What stands for a tensor while a model is traced is returned as it is.
    """
    if type(weight) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
        return weight
    found = weight.as_subclass(ReadOnly)
    found._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers leaves it alone
    return found


BASE_LAYER = "base_layer"
"""The attribute of an adapter of PEFT that holds the layer it adapts."""


class RepeatedModule(nn.Module):
    """A second run of the module `name` of `holder`, which is at an earlier position.

    The module is looked up at every use, so that replacing it takes effect here, and is not
    registered, so that no tensor has two names. Attributes such as `weight` are the module's, but
    not the layer under its adapter: an adapter here would be merged into that.
    """

    def __init__(self, holder: nn.Module, name: str) -> None:
        nn.Module.__init__(self)
        self._holder = (holder,)
        self._name_there = name

    @property
    def source(self) -> nn.Module:
        """Return the module at the earlier position."""
        return self._holder[0].get_submodule(self._name_there)

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Return the module's output."""
        return self.source(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == BASE_LAYER:
            return super().__getattr__(name)
        return getattr(self.source, name)

    def materialize(self) -> nn.Module:
        """Return a private copy of the module."""
        return copied(self.source)


class RepeatedLinear(RepeatedModule, nn.Linear):
    """A second run of a linear layer, which adapters such as LoRA take for one."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Return the layer's matrix, which cannot be changed here."""
        return read_only(self.source.weight)  # type: ignore[arg-type]


def repeated(holder: nn.Module, name: str) -> RepeatedModule:
    """Return a second run of the module `name` of `holder`."""
    is_linear = isinstance(holder.get_submodule(name), nn.Linear)
    return (RepeatedLinear if is_linear else RepeatedModule)(holder, name)


def resolved(module: nn.Module) -> nn.Module:
    """Return the module that runs where `module` stands: itself, or the one it repeats."""
    return module.source if isinstance(module, RepeatedModule) else module


class BankReader(nn.Module):
    """A module with an unregistered reference to the entry `key` of `banks`."""

    def __init__(self, banks: nn.ModuleDict, key: str) -> None:
        nn.Module.__init__(self)
        self._banks = (banks,)
        self._key = key

    @property
    def entry(self) -> nn.Module:
        """Return the module whose tensors all readers of this entry share.

        Raises :class:`ModelError` if it has an adapter, which no reader would use.
        """
        entry = self._banks[0][self._key]
        if BASE_LAYER in entry._modules:
            raise ModelError(
                f"a bank's matrix cannot have an adapter, but {self._key} has one",
                "adapt the layers' own modules: exclude_modules=r'banks\\..*'",
            )
        return entry

    def extra_repr(self) -> str:
        return f"reads {self._key}"


class SharedModule(BankReader):
    """A module that runs with the tensors of the bank alone."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.entry(*args, **kwargs)

    def materialize(self) -> nn.Module:
        """Return a private copy of the bank's module."""
        return copied(self.entry)


class SharedNorm(SharedModule):
    """A normalisation layer whose tensors are in the bank."""

    @property
    def weight(self) -> Tensor:
        """Return the bank's scale."""
        return self.entry.weight  # type: ignore[return-value]


class SharedExperts(SharedModule):
    """The experts of a mixture, all of which are in the bank; the router is the layer's own."""


class SharedLinear(BankReader, nn.Linear):
    """A linear layer whose matrix is made from a bank and private tensors.

    It is an ``nn.Linear`` so that adapters such as LoRA take it for one.

    Subclasses define how, by the property :attr:`matrix`. `own_bias` (out) is the layer's own;
    without one the entry's bias is used. If `transposed`, the layer materialises as a Conv1D.
    """

    own_bias: nn.Parameter | None

    def __init__(
        self, banks: nn.ModuleDict, key: str, bias: Tensor | None, *, transposed: bool = False
    ) -> None:
        super().__init__(banks, key)
        own = None if bias is None else nn.Parameter(bias.detach().clone())
        self.register_parameter("own_bias", own)
        self.transposed = transposed

    @property
    def matrix(self) -> Tensor:
        """Return the layer's matrix, out x in."""
        return self.weight  # of a subclass that defines this instead

    @property
    def weight(self) -> Tensor:
        """Return the layer's matrix, out x in, for code that may not change it."""
        return read_only(self.matrix)

    @property
    def composes(self) -> bool:
        """Return whether `forward` builds the full matrix, which a materialised layer need not."""
        return True

    @property
    def bias(self) -> Tensor | None:
        """Return the layer's bias (out), its own or the bank's."""
        return self.entry.bias if self.own_bias is None else self.own_bias  # type: ignore[return-value]

    @property
    def in_features(self) -> int:
        """Return the number of columns of the matrix."""
        return int(self.matrix.shape[1])

    @property
    def out_features(self) -> int:
        """Return the number of rows of the matrix."""
        return int(self.matrix.shape[0])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T + bias``: (..., in) -> (..., out)."""
        return functional.linear(hidden, self.matrix, self.bias)

    def forward_apart(self, hidden: Tensor) -> Tensor:
        """Return the same as `forward` by separate products with bank and private tensors.

        Forms that allow it override this; their full matrix is then never built.
        """
        return type(self).forward(self, hidden)

    def start_from_(self, other: "SharedLinear") -> None:
        """Copy all private tensors but the bias of another reader of the bank, in place."""
        private = dict(other.named_parameters())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name != "own_bias":
                    parameter.copy_(private[name])

    def materialize(self) -> nn.Module:
        """Return a dense layer of the original class with the same function.

        It is frozen where all that it is made of is.
        """
        dense: Any = dense_layer(self.matrix, self.bias, transposed=self.transposed)
        made_of = [*self.named_parameters(), *self.entry.named_parameters()]
        trained = [p.requires_grad for name, p in made_of if name not in ("own_bias", "bias")]
        dense.weight.requires_grad_(any(trained))
        if self.bias is not None:
            dense.bias.requires_grad_(self.bias.requires_grad)
        return dense  # type: ignore[no-any-return]


@contextmanager
def products_apart(model: nn.Module) -> Iterator[None]:
    """Make shared layers multiply by bank and private tensors one by one, within the context.

    A runtime that folds constants would otherwise build the full matrix of every layer, and keep
    them all.
    """
    readers = [module for module in model.modules() if isinstance(module, SharedLinear)]
    for reader in readers:
        reader.forward = reader.forward_apart  # type: ignore[method-assign]
    try:
        yield
    finally:
        for reader in readers:
            del reader.forward
