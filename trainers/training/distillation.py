"""Compute the losses by which a student learns from a teacher.

Formulas and papers are in `spaces/distillation.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from sharetune.spaces.distillation import FADINGS, TERMS, Distillation
from sharetune.spaces.errors import ModelError
from sharetune.spaces.registry import Registry
from sharetune.trainers.models.structure import Slot, find_stacks

LOGITS = "teacher_logits"


@dataclass(frozen=True)
class Answers:
    """A model's answer to a batch: `logits` (batch, classes), `hidden` states after each layer
    (batch, tokens, width) and the last layer's queries, keys and values in `relations`."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    relations: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Lesson:
    """The source of a student: a teacher, or its `logits` for all rows (examples, classes)."""

    teacher: PreTrainedModel | None = None
    logits: Tensor | None = None


Term = Callable[[Answers, Answers, Tensor, Distillation, int], Tensor]
"""``(student, teacher, mask, settings, heads) -> scalar``, mask (batch, tokens) 0 on padding."""

TEACHINGS: Registry[Term] = Registry("distillation term")


@TEACHINGS.register("logits")
def soft_targets(
    student: Answers, teacher: Answers, mask: Tensor, settings: Distillation, heads: int
) -> Tensor:
    """T^2 KL(teacher / T || student / T), the mean over examples"""
    hot = settings.temperature
    told = functional.log_softmax(teacher.logits.float() / hot, -1)
    said = functional.log_softmax(student.logits.float() / hot, -1)
    return hot**2 * functional.kl_div(said, told, log_target=True, reduction="batchmean")


@TEACHINGS.register("hidden")
def hidden_states(
    student: Answers, teacher: Answers, mask: Tensor, settings: Distillation, heads: int
) -> Tensor:
    """the mean square between hidden states, the mean over layers and tokens"""
    weight = mask.to(student.logits.dtype)[..., None]
    pairs = [
        (own, teacher.hidden[i])
        for own, i in zip(student.hidden, layer_map(student, teacher), strict=True)
    ]
    squares = [((own - other).square() * weight).mean(-1).sum() for own, other in pairs]
    return torch.stack(squares).mean() / weight.sum()


@TEACHINGS.register("relations")
def self_relations(
    student: Answers, teacher: Answers, mask: Tensor, settings: Distillation, heads: int
) -> Tensor:
    """KL of softmax(A A^T / sqrt(d)), the mean over heads and tokens, summed over q, k and v"""
    total = student.logits.new_zeros(())
    for own, other in zip(student.relations, teacher.relations, strict=True):
        told, said = relation(other, heads, mask), relation(own, heads, mask)
        divergence = (told.exp() * (told - said)).nan_to_num(0.0).sum(-1)
        total = total + (divergence * mask[:, None]).sum() / (heads * mask.sum())
    return total


def relation(values: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Return the log softmax of scaled products of all tokens: (batch, tokens, width) ->
    (batch, heads, tokens, tokens); padding is -inf."""
    split = values.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    products = split @ split.mT / split.shape[-1] ** 0.5
    return products.masked_fill(mask[:, None, None] == 0, -torch.inf).log_softmax(-1)


def layer_map(student: Answers, teacher: Answers) -> list[int]:
    """Return the teacher's layer for each of the student's, 0-based."""
    n, many = len(student.hidden), len(teacher.hidden)
    return [int((layer + 1) * many / n + 0.5) - 1 for layer in range(n)]


class Taught(torch.utils.data.Dataset):
    """Rows with the teacher's logits for each."""

    def __init__(self, rows: Any, logits: Tensor) -> None:
        self.rows, self.logits = rows, logits

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], LOGITS: self.logits[index]}


def taught_collate(collate: Callable[[list[dict[str, Any]]], Any]) -> Callable[..., Any]:
    """Wrap `collate` for rows of :class:`Taught`."""

    def together(rows: list[dict[str, Any]]) -> Any:
        said = torch.stack([row.pop(LOGITS) for row in rows])
        return {**collate(rows), LOGITS: said}

    return together


class Distiller:
    """Adds the terms of distillation to a student's loss.

    `teacher` answers every batch, unless a batch brings its logits. Hooks on the student stay
    only inside :meth:`listening`.
    """

    def __init__(
        self, settings: Distillation, student: PreTrainedModel, teacher: PreTrainedModel | None
    ) -> None:
        self.settings, self.student = settings, student
        self.teacher = None if teacher is None else teacher.to(student.device).eval()
        self.heads = settings.relation_heads or (_heads(student) if settings.relations else 1)
        self._own: dict[str, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the student's last queries, keys and values, if a term needs them."""
        with ExitStack() as hooks:
            if self.settings.relations:
                hooks.enter_context(_kept_relations(self.student, self._own))
            yield

    @property
    def requests(self) -> dict[str, bool]:
        """Keywords of the student's forward pass that return what the terms need."""
        return {"output_hidden_states": True} if self.settings.hidden else {}

    def loss(
        self, task_loss: Tensor, outputs: Any, inputs: Mapping[str, Any], progress: float
    ) -> Tensor:
        """Return the whole loss at `progress` (0..1) of the training."""
        settings = self.settings
        labelled = progress >= settings.without_labels
        total = settings.task * task_loss if labelled else 0 * task_loss
        weight = FADINGS[settings.schedule](progress)
        student = Answers(outputs.logits, _hidden(outputs), _values(self._own))
        teacher, mask = self._taught(inputs, student), _mask(inputs, outputs.logits)
        for term in TERMS:
            strength = getattr(settings, term)
            if strength:
                value = TEACHINGS[term](student, teacher, mask, settings, self.heads)
                total = total + weight * strength * value
        return total

    def _taught(self, inputs: Mapping[str, Any], student: Answers) -> Answers:
        if LOGITS in inputs:
            return Answers(inputs[LOGITS])
        assert self.teacher is not None, "a batch without its logits needs the teacher itself"
        told: dict[str, Tensor] = {}
        asked = {k: v for k, v in inputs.items() if k != "labels"}
        with torch.no_grad(), ExitStack() as hooks:
            if self.settings.relations:
                hooks.enter_context(_kept_relations(self.teacher, told))
            outputs = self.teacher(**asked, **self.requests)
        return Answers(outputs.logits, _hidden(outputs), _values(told))


def check_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    settings: Distillation,
    labels: Sequence[str],
) -> None:
    """Raise :class:`ModelError` if `teacher` cannot teach `student`; shapes are enough.

    A teacher that has names for its labels must have these, in this order."""
    names = list((teacher.config.id2label or {}).values())
    nameless = all(str(name).startswith("LABEL_") for name in names)
    own = [("labels", [*labels], [*labels] if nameless and len(names) == len(labels) else names)]
    pairs = [("tokens", "vocab_size")]
    pairs += [("hidden features", "hidden_size")] if settings.hidden else []
    sizes = [
        (what, *(getattr(m.config, key, None) for m in (student, teacher))) for what, key in pairs
    ]
    for what, wanted, found in [*own, *sizes]:
        if wanted != found:
            raise ModelError(
                f"teacher {settings.teacher!r} has other {what} than the student: {found}, not "
                f"{wanted}",
                "name a teacher fine-tuned on these labels from a model of the same family, or "
                "unshared",
            )
    for model in (student, teacher) if settings.relations else ():
        widths = {_width(model, slot) for slot in _qkv(model)[1]}
        heads = settings.relation_heads or _heads(student)
        if any(width % heads for width in widths):
            raise ModelError(
                f"queries, keys and values of {sorted(widths)} columns cannot be divided into "
                f"{heads} relation heads",
                "set relation_heads to a number that divides them",
            )


def _hidden(outputs: object) -> tuple[Tensor, ...]:
    """Return the hidden states after every layer, the embeddings left out."""
    states = getattr(outputs, "hidden_states", None) or getattr(
        outputs, "decoder_hidden_states", None
    )
    return tuple((states or ())[1:])


def _mask(inputs: Mapping[str, Any], logits: Tensor) -> Tensor:
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(inputs["input_ids"])
    return mask.to(logits.device)


def _values(kept: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(kept[role] for role in ("q", "k", "v") if role in kept)


def _heads(model: PreTrainedModel) -> int:
    return list(find_stacks(model).values())[-1].shape.heads_of(-1)


def _qkv(model: PreTrainedModel) -> tuple[nn.Module, list[Slot]]:
    """Return the top layer, and the matrices of its self-attention's queries, keys and values."""
    stack = list(find_stacks(model).values())[-1]
    found: dict[str, Slot] = {}
    for slot in stack.layer_slots[-1]:
        if set(slot.roles) & {"q", "k", "v"} and not found.keys() & set(slot.roles):
            found |= dict.fromkeys(slot.roles, slot)
    return stack.layers[-1], list(dict.fromkeys(found.values()))


def _width(model: PreTrainedModel, slot: Slot) -> int:
    return sum(slot.sections) // len(slot.roles) if len(slot.roles) > 1 else slot.sections[0]


@contextmanager
def _kept_relations(model: PreTrainedModel, kept: dict[str, Tensor]) -> Iterator[None]:
    """Keeps the top layer's queries, keys and values of the latest forward pass in `kept`."""
    layer, slots = _qkv(model)
    handles = []
    for slot in slots:

        def keep(_: nn.Module, __: object, output: Tensor, slot: Slot = slot) -> None:
            kept.update(zip(slot.roles, _by_role(output, slot), strict=True))

        handles.append(layer.get_submodule(slot.path).register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_role(output: Tensor, slot: Slot) -> tuple[Tensor, ...]:
    """Return the columns of each role; a fused matrix has them in sections, or head by head."""
    if len(slot.sections) == len(slot.roles):
        return output.split(slot.sections, -1)
    by_head = output.unflatten(-1, (slot.units, len(slot.roles), -1))
    return tuple(part.flatten(-2) for part in by_head.unbind(-2))
