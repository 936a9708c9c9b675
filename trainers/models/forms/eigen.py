"""Decompose matrices into thin factors of a given rank, by eigenvectors.

The eigenvectors of ``M M^T`` are the left singular vectors of M, at a fraction of the cost of its
singular value decomposition. Given the inputs of the matrices, the error of their outputs is
minimised instead of their own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 1e-4
"""Fraction of the mean variance added to the diagonal: little next to any direction in use."""


def leading_eigenvectors(gram: Tensor, count: int) -> Tensor:
    """Return the `count` leading eigenvectors of `gram` (n x n, symmetric) as columns.

    The largest eigenvalue comes first.
    """
    return torch.linalg.eigh(gram).eigenvectors[:, -count:].flip(1)


def shared_input(
    weights: Sequence[Tensor], inputs: Sequence[Tensor] | None, rank: int
) -> tuple[Tensor, list[Tensor]]:
    """Return ``B (k x in), [C_l (out x k)]`` that minimise ``sum ||(W_l - C_l B) S||^2``.

    S S^T is the covariance of all layers' inputs together, or the identity without any.
    """
    exact = [weight.double() for weight in weights]
    gram = sum(weight.T @ weight for weight in exact)
    if inputs is None:
        right = leading_eigenvectors(gram, rank)
        basis, back = right.T, right
    else:
        moment = covariance(inputs, weights[0].device)
        # with mean variance 1 both factors have entries of the size of weights
        root = torch.linalg.cholesky(moment / moment.diagonal().mean())
        right = leading_eigenvectors(root.T @ gram @ root, rank)
        back = root @ right
        basis = torch.linalg.solve_triangular(root.T, right, upper=True).T
    dtype = weights[0].dtype
    return basis.to(dtype), [(weight @ back).to(dtype) for weight in exact]


def shared_output(
    weights: Sequence[Tensor], inputs: Sequence[Tensor] | None, rank: int
) -> tuple[Tensor, list[Tensor]]:
    """Return ``B (out x k), [C_l (k x in)]`` that minimise ``sum ||X_l (W_l - B C_l)^T||^2``.

    X_l are the layer's own inputs, or the identity without any.
    """
    exact = outputs = [weight.double() for weight in weights]
    if inputs is not None:
        outputs = [w @ x.to(w).T for w, x in zip(exact, inputs, strict=True)]
    basis = leading_eigenvectors(sum(output @ output.T for output in outputs), rank)
    dtype = weights[0].dtype
    return basis.to(dtype), [(basis.T @ weight).to(dtype) for weight in exact]


def covariance(inputs: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the second moment of all `inputs` (tokens x in), in x in.

    A small ridge keeps it invertible where there are fewer tokens than columns.
    """
    tokens = torch.cat(list(inputs)).to(device, torch.float64)
    moment = tokens.T @ tokens / len(tokens)
    ridge = RIDGE * moment.diagonal().mean()
    return moment + ridge * torch.eye(len(moment), dtype=torch.float64, device=device)
