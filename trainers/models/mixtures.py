"""Find mixtures of experts in layers, and remove experts of one.

A mixture is a module that holds stacked experts and their router. What belongs to each expert is
found by shape: every tensor of experts and router that has one dimension of as many entries as
there are experts. Whether that is all is tried on a copy, before anything is changed
(:func:`reason_to_keep`).
"""

import copy
import inspect
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharetune.trainers.models.modules import SharedExperts, resolved

SHARED_WORD = re.compile(r"shared", re.IGNORECASE)
"""A word in the name of a module of a mixture that all tokens go through."""

TOP_K = re.compile(r"^(moe_)?top_?k$|per_tok(en)?$|^num_selected_experts$")
"""Attributes for the number of experts that a token is sent to."""

GROUPS = re.compile(r"^(n|num)_(expert_)?groups?$")
"""Attributes for the number of groups of experts, of which a router takes some first."""

GROUPS_TAKEN = re.compile(r"^top_?k_groups?$")
"""Attributes for the number of groups that a router takes."""

SIZE = re.compile(r"expert")
"""A word in attributes that may be the number of experts."""

NO_SIZE = re.compile(r"shared|group|top_?k|per_tok|selected|dim|size|capacity")
"""A word in attributes that are another number, though experts are in their name."""

LEAST_IN_GROUP = 2
"""Experts that a group must have: routers rank groups by the best two of each."""

SHUT = 1e4
"""How far below zero a router's logit must be for an expert not to be taken."""

TRIALS = 4
"""Tokens on which removing experts is tried."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}
"""The largest difference, relative to the largest output, that rounding makes. A wrong guess gives
differences of the size of the output."""

LOW_PRECISION_TOLERANCE = 0.1
"""The same for types of 16 bits, whose rounding adds up over the layers."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of `experts` experts at `path` of a layer; each token is sent to `top_k` of them.

    A router with several `groups` of equal size takes `groups_taken` of them first; 0: it knows no
    groups. `own` are the names, in the layer, of the experts' tensors, whose first dimension they
    are; `router` those of the router that have an entry an expert, with the axis of these entries.
    """

    path: str
    experts: int
    top_k: int
    groups: int
    groups_taken: int
    own: tuple[str, ...]
    router: tuple[tuple[str, int], ...]

    @property
    def tensors(self) -> tuple[tuple[str, int], ...]:
        """Return the names of all tensors that have an entry an expert, and its axis."""
        return tuple((name, 0) for name in self.own) + self.router

    @property
    def step(self) -> int:
        """Return the number of which kept experts are a multiple: groups stay equal in size."""
        return max(1, self.groups)

    @property
    def least(self) -> int:
        """Return the number of experts that must stay."""
        if not self.groups:
            return self.top_k
        own = math.ceil(self.top_k / max(1, self.groups_taken))
        return self.groups * max(LEAST_IN_GROUP, own)

    def most_important(self, importance: Tensor, count: int) -> Tensor:
        """Return the `count` experts of the greatest `importance` (experts), equally of all groups,
        in order."""
        own = importance.unflatten(0, (self.step, -1))
        best = own.topk(count // self.step, dim=1).indices.sort(dim=1).values
        return (best + torch.arange(self.step)[:, None] * own.shape[1]).flatten()


def are_experts(path: str, module: nn.Module) -> bool:
    """Return whether `module`, at `path`, holds a mixture's experts in tensors of experts x out x
    in."""
    stacked = any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
    return stacked and "expert" in (path + type(module).__name__).lower()


def find_mixtures(layer: nn.Module) -> Iterator[Mixture]:
    """Yield the mixtures of a layer whose router is of a known kind.

    Its experts may be in a bank.
    """
    blocks: dict[str, dict[str, nn.Module]] = defaultdict(dict)
    for path, module in layer.named_modules():
        own = module.entry if isinstance(module, SharedExperts) else resolved(module)
        holder, _, name = path.rpartition(".")
        if are_experts(path, own) and not SHARED_WORD.search(name):
            blocks[holder][path] = own
    for path, experts in blocks.items():
        found = _mixture(layer, path, experts) if path else None
        if found is not None:
            yield found


def _mixture(layer: nn.Module, path: str, experts: dict[str, nn.Module]) -> Mixture | None:
    """Return the mixture of the module at `path`, whose `experts` are given by path, if known."""
    own = [(f"{p}.{name}", t) for p, m in experts.items() for name, t in _tensors(m)]
    counts = {len(tensor) if tensor.dim() else 0 for _, tensor in own}
    rest = list(_router_modules(layer, path, experts))
    numbers = [found for _, module in rest for found in _integers(module)]
    top_k = _largest(numbers, TOP_K)
    if len(counts) != 1 or not top_k:
        return None
    (count,) = counts
    router = [
        (f"{p}.{name}", tensor, axis)
        for p, module in rest
        for name, tensor in _tensors(module, recurse=False)
        if (axis := _axis(tensor, count)) is not None
    ]
    groups = _largest(numbers, GROUPS)
    if sum(t.numel() > count for _, t, _ in router) != 1 or (groups and count % groups):
        return None
    return Mixture(
        path,
        count,
        top_k,
        groups,
        _largest(numbers, GROUPS_TAKEN),
        tuple(name for name, _ in own),
        tuple((name, axis) for name, _, axis in router),
    )


def _router_modules(
    layer: nn.Module, path: str, experts: Iterable[str]
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the module at `path` and all in it but its experts and what all tokens go through."""
    for inner, module in layer.get_submodule(path).named_modules():
        whole = f"{path}.{inner}".rstrip(".")
        inside = any(f"{whole}.".startswith(f"{other}.") for other in experts)
        if not inside and not SHARED_WORD.search(inner):
            yield whole, resolved(module)


def _tensors(module: nn.Module, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=recurse)
    yield from module.named_buffers(recurse=recurse)


def _integers(module: nn.Module) -> list[tuple[str, int]]:
    return [(n, v) for n, v in vars(module).items() if type(v) is int]


def _largest(numbers: Iterable[tuple[str, int]], word: re.Pattern[str]) -> int:
    return max((number for name, number in numbers if word.search(name)), default=0)


def _axis(tensor: Tensor, count: int) -> int | None:
    """Return the dimension of `count` entries; the first of two, as a matrix out x in has it."""
    return next((axis for axis, size in enumerate(tensor.shape) if size == count), None)


def counts_experts(name: str) -> bool:
    """Return whether a module's attribute of this name may be its number of experts."""
    return SIZE.search(name) is not None and NO_SIZE.search(name) is None


def keep_experts_(layer: nn.Module, mixture: Mixture, kept: Tensor) -> None:
    """Remove, in place, all experts of a layer's mixture but `kept`, and their router's entries."""
    for name, axis in mixture.tensors:
        tensor = layer_tensor(layer, name).detach()
        _set_tensor(layer, name, tensor.index_select(axis, kept.to(tensor.device)).contiguous())
    for module in layer.get_submodule(mixture.path).modules():
        if isinstance(module, nn.Linear):
            module.out_features = len(module.weight)
        for name, number in _integers(module):
            if number == mixture.experts and counts_experts(name):
                setattr(module, name, len(kept))


def _set_tensor(layer: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or a buffer of a layer by another of its kind."""
    holder, _, own = name.rpartition(".")
    module, before = layer.get_submodule(holder), layer_tensor(layer, name)
    is_parameter = isinstance(before, nn.Parameter)
    setattr(module, own, nn.Parameter(tensor, before.requires_grad) if is_parameter else tensor)


def weight_sizes(layer: nn.Module, mixture: Mixture) -> Tensor:
    """Return the norm of the weights of each expert, its router's included (experts)."""
    found = [
        layer_tensor(layer, name).detach().float().movedim(axis, 0).flatten(1)
        for name, axis in mixture.tensors
        if layer_tensor(layer, name).dim() > 1
    ]
    return torch.stack([part.norm(dim=1).cpu() for part in found]).norm(dim=0)


def layer_tensor(layer: nn.Module, name: str) -> Tensor:
    """Return a parameter or a buffer of a layer by its name."""
    holder, _, own = name.rpartition(".")
    return getattr(layer.get_submodule(holder), own)  # type: ignore[no-any-return]


class WholeRouterLogits:
    """A forward hook that gives a model's router logits (tokens x experts) as many `experts` as the
    configuration says, those that were removed at minus infinity.

    The loss that balances experts counts on that number, in every layer.
    """

    def __init__(self, experts: int) -> None:
        self.experts = experts

    def __call__(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Return the output of the module that holds the layers."""
        logits = getattr(output, "router_logits", None)
        if isinstance(logits, tuple):
            output.router_logits = tuple(map(self._whole, logits))
        return output

    def _whole(self, logits: Tensor | None) -> Tensor | None:
        if logits is None:
            return None
        lacking = max(0, self.experts - logits.shape[-1])
        return functional.pad(logits, (0, lacking), value=-math.inf)


def whole_router_logits_(holder: nn.Module, experts: int) -> None:
    """Let `holder`, whose layers have fewer than `experts` experts, return logits of that many."""
    if not any(isinstance(hook, WholeRouterLogits) for hook in holder._forward_hooks.values()):
        holder.register_forward_hook(WholeRouterLogits(experts))


def without_balancing(model: nn.Module) -> dict[str, bool]:
    """Return the keywords of a model's pass with which its loss is that of its answers alone.

    With ``output_router_logits`` in its configuration a loss that balances experts is added, which
    says nothing of the answers, and which narrowed mixtures have more of.
    """
    name = "output_router_logits"
    return {name: False} if name in inspect.signature(model.forward).parameters else {}


def expert_norms(
    experts: nn.Module, given: Sequence[Any], output: Any, count: int
) -> Tensor | None:
    """Return the norm of what each of `count` experts adds to each token (tokens x experts).

    `given` are the arguments of a call of the module `experts`, `output` what it returned. None if
    it is called in no known way: with tokens, the experts chosen for each and their weights, or
    with all tokens for each expert, one expert after the other.
    """
    if len(given) == 1 and isinstance(output, Tensor) and len(output) % count == 0:
        return output.unflatten(0, (count, -1)).norm(dim=-1).T
    tensors = [value for value in given if isinstance(value, Tensor)]
    chosen = [value for value in tensors if value.dtype == torch.long and value.dim() == 2]
    if len(tensors) != 3 or len(chosen) != 1:
        return None
    indices = chosen[0]
    weights = [t for t in tensors if t.is_floating_point() and t.shape == indices.shape]
    if len(weights) != 1:
        return None
    norms = torch.zeros(len(indices), count + 1, device=indices.device)  # one for no expert at all
    for place in range(indices.shape[1]):
        own = [
            value[:, place : place + 1] if value is indices or value is weights[0] else value
            for value in given
        ]
        found = experts.forward(*own).norm(dim=-1, keepdim=True)
        norms.scatter_add_(1, indices[:, place : place + 1], found.to(norms.dtype))
    return norms[:, :count]


def reason_to_keep(layer: nn.Module, mixture: Mixture) -> str:
    """Return why no experts of a layer's mixture can be removed; empty if they can.

    Without some it must compute what it does if its router never takes them. It is tried on a few
    made-up tokens, without changing the layer. In types of 16 bits experts of equal logits are
    common, of which either may be taken, so that a difference there is tried again in float32.
    """
    try:
        same = _can_lose_experts(layer, mixture)
        if not same and layer_tensor(layer, mixture.own[0]).dtype not in TOLERANCE:
            same = _can_lose_experts(copy.deepcopy(_alone(layer, mixture)).float(), mixture)
    except Exception as error:  # whatever a foreign module raises
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return f"{mixture.path} does not run on a made-up token: {first}"
    return "" if same else f"{mixture.path} computes something else with fewer"


def _can_lose_experts(layer: nn.Module, mixture: Mixture) -> bool:
    """Return whether half of the experts can go, as far as a few tokens tell."""
    count = max(mixture.least, mixture.step * (mixture.experts // mixture.step // 2))
    kept = mixture.most_important(torch.arange(float(mixture.experts)), count)
    goes = torch.ones(mixture.experts, dtype=torch.bool)
    goes[kept] = False
    cut = _alone(layer, mixture)
    keep_experts_(cut, mixture, kept)
    return all(_same_without(layer, cut, mixture, goes, seed) for seed in range(TRIALS))


def _same_without(
    layer: nn.Module, cut: nn.Module, mixture: Mixture, goes: Tensor, seed: int
) -> bool:
    """Return whether `cut` answers a made-up token as the layer does whose router does not take
    the experts that `goes` marks."""
    shut = _alone(layer, mixture)
    token = _token(shut, mixture, seed)
    away = -SHUT * token.flatten() / token.square().sum()  # its product with the token is -SHUT
    for name, axis in mixture.router:
        entries = layer_tensor(shut, name).detach().clone().movedim(axis, 0)
        is_matrix = entries.numel() > len(goes)
        entries[goes.to(entries.device)] = away.reshape(entries.shape[1:]) if is_matrix else -SHUT
        _set_tensor(shut, name, entries.movedim(0, axis))
    return equal_but_for_rounding(_answer(shut, mixture, token), _answer(cut, mixture, token))


def equal_but_for_rounding(one: Tensor, other: Tensor) -> bool:
    """Return whether two outputs differ by no more than rounding to the type of `one` explains."""
    allowed = TOLERANCE.get(one.dtype, LOW_PRECISION_TOLERANCE) * float(one.abs().max())
    return one.shape == other.shape and float((one - other).abs().max()) <= allowed


def _alone(layer: nn.Module, mixture: Mixture) -> nn.Module:
    """Return a module that has one mixture of a layer, at the same path, with the same tensors."""
    block = layer.get_submodule(mixture.path)
    same: list[Any] = [tensor for _, tensor in _tensors(block)]
    same += [module.config for module in block.modules() if hasattr(module, "config")]
    found = copy.deepcopy(block, {id(one): one for one in same}).eval()
    for name in reversed(mixture.path.split(".")):
        holder = nn.Module()
        holder.add_module(name, found)
        found = holder
    return found


def _token(layer: nn.Module, mixture: Mixture, seed: int) -> Tensor:
    """Return a made-up token (1 x 1 x width) of the mixture's type."""
    sizes = {name: layer_tensor(layer, name) for name, _ in mixture.router}
    matrix = max(sizes.values(), key=Tensor.numel)
    generator = torch.Generator().manual_seed(seed)
    token = torch.randn(1, 1, matrix.numel() // mixture.experts, generator=generator)
    return token.to(matrix.device, layer_tensor(layer, mixture.own[0]).dtype)


def _answer(layer: nn.Module, mixture: Mixture, token: Tensor) -> Tensor:
    with torch.no_grad():
        output = layer.get_submodule(mixture.path)(token)
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
