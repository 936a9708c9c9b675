"""Match units of a layer with those of another so that similar ones meet, exactly or nearly so.

An exact assignment of n units takes a time of order n³: 8,192 take over a minute. More than `EXACT`
units are compared in the directions in which those of the other layer lie, each keeps the nearest
as its candidates, and an assignment among candidates only (Jonker and Volgenant, 1987, for sparse
costs) gives it one of them, or none. Those left without are matched among themselves.
`benchmarks/matching.py` measures what is lost.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

EXACT = 2048
"""Units up to which the assignment is exact, which takes half a second for as many."""

DIRECTIONS = 384
"""Directions in which more units are compared, instead of by all their features."""

CANDIDATES = 24
"""Nearest units among which a unit gets its partner."""

ROWS = 2048
"""Units that are compared with all others at once, which bounds memory."""

Meeting = tuple[Callable[[], Tensor], Sequence[tuple["Partners", Tensor]]]
"""A function that computes the features of a layer's units; partners, and rows that meet them."""


def matched(meetings: Sequence[Meeting]) -> list[Tensor]:
    """Return the rows of each meeting in the order of its partners, several at once.

    A layer's features are held only while its units are matched: all layers' take more memory
    than the model.
    """

    def match(meeting: Meeting) -> Tensor:
        compute, parts = meeting
        features = compute()
        return torch.cat([rows[partners.match(features[rows])] for partners, rows in parts])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(match, meetings))


class Partners:
    """Units of one layer, (units x features) of length 1, that those of other layers meet."""

    def __init__(self, features: Tensor, exact: int = EXACT) -> None:
        self.features, self.exact = features, exact

    def match(self, own: Tensor) -> Tensor:
        """Return the row of `own` that meets each of the partners, each row once.

        Up to `exact` units the sum of similarities is the largest that there is, above nearly so.
        """
        if len(own) <= self.exact:
            similarity = (self.features @ own.T).double().cpu().numpy()
            return torch.as_tensor(linear_sum_assignment(similarity, maximize=True)[1])
        found = _assigned(*self._nearest(own), len(own))
        left = (found < 0).nonzero().flatten()
        if len(left) == len(found):  # similar to none, such as units that never answer
            return torch.arange(len(found))
        if len(left):
            free = torch.ones(len(own), dtype=torch.bool)
            free[found[found >= 0]] = False
            rest = free.nonzero().flatten()
            found[left] = rest[Partners(self.features[left]).match(own[rest])]
        return found

    @cached_property
    def _directions(self) -> tuple[Tensor, Tensor]:
        """Return the directions in which the partners are longest, and the partners in these.

        By a randomised range finder (Halko et al., arXiv 0909.4061).
        """
        features = self.features
        width = min(DIRECTIONS, *features.shape)
        drawn = torch.randn(features.shape[1], width, generator=torch.Generator().manual_seed(0))
        basis, _ = torch.linalg.qr(features.T @ (features @ drawn.to(features)))
        return basis, features @ basis

    def _nearest(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the similarities to, and the rows of, each partner's nearest units of `own`."""
        basis, partners = self._directions
        reduced = (own @ basis).T
        parts = [(part @ reduced).topk(CANDIDATES, dim=1) for part in partners.split(ROWS)]
        return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def _assigned(similarities: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Return for each row one of its `candidates` below `count`, each once, or -1 for none.

    The sum of similarities is the largest that there is, where none counts 0.
    """
    rows, width = similarities.shape
    none = np.arange(rows) + count
    columns = np.column_stack([candidates.cpu().numpy(), none])
    costs = np.full((rows, width + 1), 2.0)
    costs[:, :-1] -= similarities.double().cpu().numpy()
    starts = np.arange(rows + 1) * (width + 1)
    graph = csr_array((costs.ravel(), columns.ravel(), starts), shape=(rows, count + rows))
    chosen = torch.as_tensor(min_weight_full_bipartite_matching(graph)[1], dtype=torch.long)
    return torch.where(chosen < count, chosen, -1)
