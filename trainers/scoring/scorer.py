"""Measure, without any training, how far a plan moves a model from its unshared self.

The distance is the Kullback-Leibler divergence of the model's answers from the unshared model's,
in nats a prediction; of a model without logits, the mean square between its outputs, as a fraction
of their variance. Effects of single edits nearly add up (docs/plan-search.md), which is why they
are worth measuring one by one.

An edit leaves everything before its first changed layer as it was. Those layers answer from
memory, so that an edit of the last layer costs a thirtieth of a forward pass of thirty layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.spaces.evaluator import Exchange, PlanScore
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.models.calibration import Activations, record_activations
from sharetune.trainers.models.feasibility import shares_keys_and_values
from sharetune.trainers.models.structure import Stack
from sharetune.trainers.scoring.editable import Batch, EditableModel, without_labels

IGNORED = -100
"""The label of a position that no loss and no score counts."""

DOUBLE_UP_TO = 4096
"""Classes up to which distances are computed in 64 bits: a new head's answers hardly differ, and
sums of 32 bits are off by 1e-8 nats. Logits over a vocabulary differ more, and take memory."""

HIDDEN = "hidden"
"""Name of a hidden state among the answers."""

OUTPUTS = ("logits", "start_logits", "end_logits")
"""Fields of a model's output that hold logits over classes, tokens or places."""


@dataclass(frozen=True)
class Likelihood:
    """Probabilities p (predictions x classes) that a model gave by its logits z, with p.z
    (`product`), log sum exp z (`largest`) and sum p (`total`) of each prediction.

    Of other logits y, KL = p.(z - y) + (log sum exp y - log sum exp z) sum p: exactly 0 for
    the same ones.
    """

    probabilities: Tensor
    product: Tensor
    largest: Tensor
    total: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "Likelihood":
        """Take up the model's own `logits` (predictions x classes)."""
        largest = logits.logsumexp(-1)
        given = (logits - largest.unsqueeze(-1)).exp_()
        return cls(given, torch.linalg.vecdot(given, logits), largest, given.sum(-1))

    def divergence(self, logits: Tensor) -> float:
        """Return the mean Kullback-Leibler divergence of `logits`, in nats a prediction."""
        gained = self.product - torch.linalg.vecdot(self.probabilities, logits)
        found = gained + (logits.logsumexp(-1) - self.largest) * self.total
        return float(found.double().mean())


@dataclass(frozen=True)
class Reference:
    """The unshared model's answers to one batch at the positions that count, by name: what logits
    said, or hidden states; and each layer's output by stack."""

    answers: dict[str, Likelihood | Tensor]
    layers: dict[str, list[Any]]
    counts: Tensor | None


class Scorer(EditableModel):
    """Scores plans of the unshared `model` on `batches`, whose labels are used where they exist.

    `activations` are recorded on the batches if they are not given. Raises :class:`ModelError` if
    the model's outputs hold nothing to compare.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Sequence[Batch],
        activations: Activations | None = None,
    ) -> None:
        if activations is None:
            activations = record_activations(model, map(without_labels, batches))
        super().__init__(model, activations)
        self.batches = batches
        self.references = [self._reference(batch) for batch in batches]

    def score(self, plan: SharingPlan) -> PlanScore:
        """Measure the distance of `plan` from the unshared model. Raises :class:`PlanError`."""
        return self._measured(*self.shared(plan))

    def score_exchange(self, exchange: Exchange) -> PlanScore:
        """Measure the distance of the model with two layers in each other's place.

        Raises :class:`PlanError` for layers that are not alike.
        """
        return self._measured(*self.exchanged(exchange))

    def _measured(self, shared: PreTrainedModel, first: Mapping[str, int]) -> PlanScore:
        distance = loss = weight = 0.0
        for batch, reference in zip(self.batches, self.references, strict=True):
            with torch.no_grad(), _from_memory(shared, self.stacks, reference, first):
                output = shared(**batch, **self.options)
            found, count = _distance(output, reference)
            distance, weight = distance + found * count, weight + count
            if "labels" in batch:
                loss += float(output.loss) * count
        known = "labels" in self.batches[0]
        distance = max(0.0, distance)  # rounding
        return PlanScore(
            distance / weight,
            loss / weight if known else None,
            sum(len(next(iter(batch.values()))) for batch in self.batches),
        )

    def _reference(self, batch: Batch) -> Reference:
        layers: dict[str, list[Any]] = {name: [] for name in self.stacks}
        handles = [
            layer.register_forward_hook(lambda _, __, output, own=layers[name]: own.append(output))
            for name, stack in self.stacks.items()
            for layer in stack.layers
        ]
        try:
            with torch.no_grad():
                output = self.model(**batch, **self.options)
        finally:
            for handle in handles:
                handle.remove()
        counts = _counted(batch, output)
        answers = {
            name: found if name == HIDDEN else Likelihood.of(found.flatten(0, -2))
            for name, found in _answers(output, counts).items()
        }
        return Reference(answers, layers, counts)


@contextmanager
def _from_memory(
    shared: PreTrainedModel,
    stacks: Mapping[str, Stack],
    reference: Reference,
    first: Mapping[str, int],
) -> Iterator[None]:
    """Let layers that a plan cannot have changed answer with the unshared model's outputs.

    These are the layers below the first changed one of the first changed list, in the order of
    the forward pass, and all lists before it; none of a model whose layers hand on keys and values.
    """
    remembering: list[nn.Module] = []
    for path in () if shares_keys_and_values(shared.config) else _paths(stacks):
        own = {name: stack for name, stack in stacks.items() if stack.path == path}
        changed = [stack.places[first[name]] for name, stack in own.items() if name in first]
        for name, stack in own.items():
            for place, output in zip(stack.places, reference.layers[name], strict=True):
                if not changed or place < min(changed):
                    layer = shared.get_submodule(f"{path}.{place}")
                    layer.forward = _answering(output)  # type: ignore[method-assign]
                    remembering.append(layer)
        if changed:
            break
    try:
        yield
    finally:
        for layer in remembering:
            del layer.forward


def _paths(stacks: Mapping[str, Stack]) -> list[str]:
    """Return the paths of the lists that hold the stacks, each once, in order."""
    return list(dict.fromkeys(stack.path for stack in stacks.values()))


def _answering(output: object) -> Any:
    def forward(*_: object, **__: object) -> Any:
        return output

    return forward


def _answers(output: Any, counts: Tensor | None) -> dict[str, Tensor]:
    """The logits at the positions that count, or the last hidden state."""
    found = {name: output[name] for name in OUTPUTS if getattr(output, name, None) is not None}
    if found:
        return {name: _chosen(logits, counts) for name, logits in found.items()}
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise ModelError(
            f"{type(output).__name__} holds neither logits nor hidden states to compare",
            "score a model of a task that has one of them",
        )
    return {HIDDEN: _chosen(hidden, counts)}


def _chosen(values: Tensor, counts: Tensor | None) -> Tensor:
    chosen = values if counts is None else values[counts]
    return chosen.double() if chosen.shape[-1] <= DOUBLE_UP_TO else chosen.float()


def _distance(output: object, reference: Reference) -> tuple[float, int]:
    """The distance of one batch and the number of predictions it is the mean of."""
    answers = _answers(output, reference.counts)
    total = 0.0
    for name, wanted in reference.answers.items():
        if isinstance(wanted, Likelihood):
            total += wanted.divergence(answers[name].flatten(0, -2))
        else:
            total += float((answers[name] - wanted).square().mean() / wanted.var())
    return total, len(next(iter(answers.values())).flatten(0, -2))


def _counted(batch: Batch, output: object) -> Tensor | None:
    """Which positions of an output of one row a token count; None where all do."""
    logits = getattr(output, "logits", None)
    shape = None if logits is None else logits.shape[:-1]
    labels, mask = batch.get("labels"), batch.get("attention_mask")
    counts = None
    if labels is not None and labels.shape == shape and labels.dtype == torch.long:
        counts = labels != IGNORED
    elif mask is not None and mask.shape == shape:
        counts = mask.bool()
    return None if counts is None or counts.all() else counts
