"""Keep weights in float32 while they are trained, and in the checkpoint's dtype where stored.

Updates of fine-tuning are too small for 16 bits: a norm's weight of 1 moves in steps of 0.008 in
bfloat16, and an update that is smaller than half a step is lost.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.errors import CandidateFault

TRAINED = torch.float32
"""The dtype of weights in training, whatever the checkpoint's is."""


def saved_dtype(model: PreTrainedModel) -> torch.dtype:
    """Return the dtype of the checkpoint that `model`, which may be a skeleton, is built from.

    It is the one that its configuration names; float32 where it names none.
    """
    named = getattr(model.config, "dtype", None)
    found = getattr(torch, named, None) if isinstance(named, str) else named
    return found if isinstance(found, torch.dtype) and found.is_floating_point else TRAINED


def fitting_dtypes(model: PreTrainedModel, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """Return the function that gives each tensor's dtype by its name where a model is in `dtype`.

    It is `dtype`, except for tensors that the model family needs in float32.
    """
    kept = set(model._keep_in_fp32_modules_strict if dtype != torch.float32 else ())
    kept |= set(model._keep_in_fp32_modules if dtype == torch.float16 else ())

    def fitting(name: str) -> torch.dtype:
        # in a bank's key underscores replace the dots of a path
        return torch.float32 if any(re.search(rf"[._]{k}\b", name) for k in kept) else dtype

    return fitting


def cast_(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Bring the floating-point tensors that `model` saves to `dtype`, in place; return it.

    Tensors that the model family needs in float32 are in float32. Raises :class:`CandidateFault` if
    a finite weight is too large for `dtype`.
    """
    fitting = fitting_dtypes(model, dtype)
    saved = model.state_dict(keep_vars=True)
    for name, tensor in saved.items():
        if tensor.is_floating_point():
            tensor.data = _converted(tensor.data, fitting(name), name)
    model.config.dtype = dtype
    return model


def _converted(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    found = tensor.to(dtype)
    narrower = torch.finfo(dtype).max < torch.finfo(tensor.dtype).max
    if narrower and not tensor.is_meta and bool((found.isinf() & tensor.isfinite()).any()):
        raise CandidateFault(f"{name} holds weights that are too large for {dtype}")
    return found
