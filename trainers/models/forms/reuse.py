"""Keys and values, or attention scores, of a bank's first layer in place of a layer's own.

Cross-Layer Attention (arXiv 2405.12981) shares keys and values, Reuse Transformers (arXiv
2110.06821) attention scores. Both are outputs of projections that are handed on: of k and v, or of
q and k, from which a reader computes the same scores again, so that fused attention kernels,
masks and positions work unchanged; keys and values are cached once as well (`shared_cache.py`). For
n layers the form stores ``out in`` parameters of each of both projections, and their biases, once.
"""

import torch
from torch import Tensor, nn

from sharetune.spaces.forms import Reuse
from sharetune.trainers.models.activation_reuse import Borrower, Handover, Lend
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.modules import dense_layer, linear


@BUILDERS.register("reuse")
def build_reuse(form: Reuse, matrices: Matrices, _: nn.ModuleDict, __: str) -> list[nn.Module]:
    """Return the first layer's matrix, and for each other layer a borrower of its output.

    Of a fused matrix the others keep the rows that are not reused.
    """
    handover = Handover()
    weight, *others = matrices.weights
    bias, *other_biases = matrices.biases
    owner = dense_layer(weight, bias, transposed=matrices.transposed)
    owner.register_forward_hook(Lend(handover))
    rows = matrices.slot.rows(form.roles())
    kept = sorted(set(range(len(weight))) - set(rows))
    readers = [
        Borrower(
            handover,
            rows=rows,
            own=_own_rows(other, other_bias, kept) if kept else None,
            shape=(weight.shape[0], weight.shape[1]),
            is_cached=form.what == "kv",
        )
        for other, other_bias in zip(others, other_biases, strict=True)
    ]
    readers[-1].is_last = True
    return [owner, *readers]


def _own_rows(weight: Tensor, bias: Tensor | None, rows: list[int]) -> nn.Linear:
    index = torch.tensor(rows, device=weight.device)
    return linear(weight[index], None if bias is None else bias[index])
