"""Compute what is known before training: parameters, bytes, FLOPs, effective ratio."""

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ModelError
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.measuring.cache import cache_watched
from sharetune.trainers.measuring.exact import Sized, further_facts
from sharetune.trainers.models.modules import SharedLinear
from sharetune.trainers.models.shared_model import SharedModel, never_saved
from sharetune.trainers.models.structure import Slot, Stack, find_stacks, weight_out_in


def parameters(modules: Iterable[nn.Module]) -> int:
    """Return the number of parameters of these modules, each tensor counted once.

    A byte of a matrix in 4 bits holds two.
    """
    tensors = {id(p): p for module in modules for p in module.parameters()}
    return sum((2 if p.dtype == torch.uint8 else 1) * p.numel() for p in tensors.values())


def stack_parameters(model: PreTrainedModel, stacks: Iterable[Stack]) -> int:
    """Return the number of parameters of all layers of the stacks' lists and of their banks."""
    banks = [model.banks] if hasattr(model, "banks") else []
    return parameters(_lists(model, stacks) + banks)


def _lists(model: PreTrainedModel, stacks: Iterable[Stack]) -> list[nn.Module]:
    """Return the lists that hold the stacks, each once."""
    return [model.get_submodule(path) for path in dict.fromkeys(stack.path for stack in stacks)]


def saved_bytes(model: PreTrainedModel) -> int:
    """Return the size of the model's safetensors file in bytes, header included."""
    return file_bytes((name, t.shape, t.dtype) for name, t in saved_tensors(model))


def file_bytes(tensors: Iterable[tuple[str, Sequence[int], torch.dtype]]) -> int:
    """Return the bytes of the safetensors file with these names, shapes and dtypes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, dtype in sorted(tensors, key=lambda found: (-found[2].itemsize, found[0])):
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _dtype_name(dtype),
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"))
    return 8 + -(-len(text) // 8) * 8 + offset


def saved_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of the model's file."""
    seen: set[int] = set()
    left_out = {*model.all_tied_weights_keys, *never_saved(model)}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen and name not in left_out:
            seen.add(id(tensor))
            yield name, tensor


def _dtype_name(dtype: torch.dtype) -> str:
    kind = "F" if dtype.is_floating_point else "I" if dtype.is_signed else "U"
    name = "BF16" if dtype == torch.bfloat16 else f"{kind}{8 * dtype.itemsize}"
    return "BOOL" if dtype == torch.bool else name


def forward_flops(model: PreTrainedModel, inputs: dict[str, Tensor]) -> int:
    """Return the FLOPs of one forward pass, a multiply-add counted as two.

    Operations on 8-bit numbers count as well; see :func:`run_without_values`. Gradients stay on,
    because the counter fails on a bare parameter without them.
    """
    return run_without_values(model, inputs, flop_counter())


def run_without_values(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    counter: FlopCounterMode,
    forget: Callable[[], None] = lambda: None,
) -> int:
    """Return the FLOPs of one forward pass that computes nothing, counted by `counter`.

    Hooks may read the counter during the pass. A model on the meta device is run there, which takes
    a third of the time of fake tensors; where that fails, on these, which models detect, and then
    skip code that depends on values; where that fails too, on zeros. `forget` is called before each
    further pass. Raises :class:`ModelError` if it runs on none of them.
    """
    on_meta = all(tensor.is_meta for tensor in (*inputs.values(), *model.parameters()))
    for run in (_run, _run_on_fake) if on_meta else (_run_on_fake,):
        try:
            run(model, inputs, counter)
        except Exception:  # what a model raises that looks at values differs from model to model
            forget()
        else:
            return int(counter.get_total_flops())
    _run_on_zeros(model, inputs, counter)
    return int(counter.get_total_flops())


def _run(model: PreTrainedModel, inputs: dict[str, Tensor], counter: FlopCounterMode) -> None:
    with counter:
        model(**inputs)


def _run_on_fake(
    model: PreTrainedModel, inputs: dict[str, Tensor], counter: FlopCounterMode
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, counter:
        model(**{name: fake.from_tensor(tensor) for name, tensor in inputs.items()})


def _run_on_zeros(
    model: PreTrainedModel, inputs: dict[str, Tensor], counter: FlopCounterMode
) -> None:
    there = copy.deepcopy(model).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*there.parameters(), *there.buffers()):
            tensor.zero_()
    try:
        with counter, torch.no_grad():
            there(**{name: torch.ones_like(t, device="cpu") for name, t in inputs.items()})
    except Exception as error:
        raise ModelError(
            f"the sizes of {type(model).__name__} cannot be counted, because it does not run on a "
            f"made-up batch: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            "use a model of another class",
        ) from error


def flop_counter() -> FlopCounterMode:
    """Return a counter of the FLOPs of products of floats and of 8-bit numbers."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten._int_mm: _product_flops})


def _product_flops(left: Sequence[int], right: Sequence[int], **_: object) -> int:
    """Return the FLOPs of a product of matrices of these shapes."""
    return 2 * left[0] * left[1] * right[1]


def deployed_flops(model: PreTrainedModel, inputs: dict[str, Tensor]) -> int:
    """Return the FLOPs of one forward pass after every composed matrix has been built once.

    Composing costs the same for any number of tokens, and a materialised model never composes. Thin
    factors, by which a form multiplies instead, stay as they are.
    """
    ready = copy.deepcopy(model)
    for parent in list(ready.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SharedLinear) and child.composes:
                setattr(parent, name, child.materialize())
    return forward_flops(ready, inputs)


def matrix_parameters(layer: nn.Module, slots: Iterable[Slot]) -> int:
    """Return P, the number of shareable parameters of one layer: those of its matrices."""
    return sum(weight_out_in(layer.get_submodule(slot.path)).numel() for slot in slots)


def _expert_parameters(layer: nn.Module, stack: Stack) -> int:
    """Return the number of parameters of one layer's experts in matrices."""
    modules = dict(layer.named_modules())
    tensors = [p for path in stack.experts if path in modules for p in modules[path].parameters()]
    return sum(p.numel() for p in tensors if p.dim() > 1)


def shareable(stacks: Iterable[Stack]) -> tuple[int, float]:
    """Return ``(n P, P)`` summed over the stacks of an unshared model, P the mean of its layers."""
    whole, single = 0, 0.0
    for stack in stacks:
        layers = [
            matrix_parameters(layer, slots) + _expert_parameters(layer, stack)
            for layer, slots in zip(stack.layers, stack.layer_slots, strict=True)
        ]
        whole, single = whole + sum(layers), single + sum(layers) / len(layers)
    return whole, single


def facts(
    unshared: PreTrainedModel,
    shared: PreTrainedModel,
    inputs: dict[str, Tensor],
    compressed: PreTrainedModel | None = None,
) -> dict[str, float]:
    """Return all exact sizes of `shared`, which was made from a model equal to `unshared`.

    ``effective_ratio`` is ``(n P - stored) / (n P - P)`` over all matrices of all stacks: 0 for no
    sharing, 1 when every stack stores one layer. Sizes and FLOPs are those of `compressed`, if
    given. Runs on the meta device.
    """
    final = shared if compressed is None else compressed
    with cache_watched(final) as kept:
        flops = deployed_flops(final, inputs)
    stacks = list(find_stacks(unshared).values())
    before, after = stack_parameters(unshared, stacks), stack_parameters(shared, stacks)
    whole, single = shareable(stacks)
    other = _saved_vector_parameters(unshared, shared, stacks)
    return {
        "parameters": parameters([final]),
        "stack_parameters": stack_parameters(final, stacks),
        "bytes": saved_bytes(final),
        "flops": flops,
        "effective_ratio": round((before - after - other) / (whole - single), 6),
        "cache_bytes": sum(layer.all for layer in kept),
    } | further_facts(_sized(unshared, shared, inputs, final))


def _sized(
    unshared: PreTrainedModel,
    shared: PreTrainedModel,
    inputs: dict[str, Tensor],
    final: PreTrainedModel,
) -> Sized:
    plan = shared.sharing.plan if isinstance(shared, SharedModel) else SharingPlan()
    done = final.sharing.compression if isinstance(final, SharedModel) else Compression()
    return Sized(unshared, plan, done, inputs, lambda: final)


def _saved_vector_parameters(
    unshared: PreTrainedModel, shared: PreTrainedModel, stacks: Iterable[Stack]
) -> int:
    """Return the number of parameters saved in vectors (norms, biases), not in matrices."""

    def vectors(model: PreTrainedModel) -> int:
        roots = _lists(model, stacks)
        roots += [model.banks] if hasattr(model, "banks") else []
        return sum(p.numel() for root in roots for p in root.parameters() if p.dim() < 2)

    return vectors(unshared) - vectors(shared)
