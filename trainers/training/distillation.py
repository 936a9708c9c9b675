"""Compute the losses by which a student learns from a teacher.

Formulas and papers are in `spaces/distillation.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from sharetune.trainers.data.blocks import UNCOUNTED
from sharetune.trainers.models.structure import Slot, find_stacks
from sharetune.trainers.training.cached_answers import ANSWERS, CachedAnswers, Likely
from sharetune.trainers.training.micro_batches import WHOLE, Shares, hears_frames

Counted = Callable[[PreTrainedModel, Tensor, Mapping[str, Any]], Tensor]
"""``(model, logits, batch) -> (predictions, classes)``, those of a batch's logits that count."""


def all_count(model: PreTrainedModel, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Return `logits` (batch, classes) as they are: each example is one prediction."""
    return logits


@dataclass(frozen=True)
class Answers:
    """A model's answer to a batch: `logits` (predictions, classes), `hidden` states after each
    layer (batch, tokens, width) and the last layer's queries, keys and values in `relations`.

    A teacher may have its most `likely` classes in place of logits."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    relations: tuple[Tensor, ...] = ()
    likely: Likely | None = None


@dataclass(frozen=True)
class Lesson:
    """The source of a student: a teacher, or its `answers` to all rows.

    `counted` selects the predictions that are taught.
    """

    teacher: PreTrainedModel | None = None
    answers: CachedAnswers | None = None
    counted: Counted = all_count


Term = Callable[[Answers, Answers, Tensor, Distillation, int], Tensor]
"""``(student, teacher, mask, settings, heads) -> scalar``, mask (batch, tokens) 0 on padding."""

TEACHINGS: Registry[Term] = Registry("distillation term")


@TEACHINGS.register("logits")
def soft_targets(
    student: Answers, teacher: Answers, mask: Tensor, settings: Distillation, heads: int
) -> Tensor:
    """T^2 KL(teacher / T || student / T), the mean over predictions: examples, or tokens"""
    hot = settings.temperature
    said = functional.log_softmax(student.logits.float() / hot, -1)
    if teacher.likely is None:
        told = functional.log_softmax(teacher.logits.float() / hot, -1)
    else:
        told, said = teacher.likely.logs, teacher.likely.of_the_same(said)
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


class Distiller:
    """Adds the terms of distillation to a student's loss.

    The lesson's teacher answers every batch, unless a batch brings its answers. Hooks on the
    student stay only inside :meth:`listening`.
    """

    def __init__(self, settings: Distillation, student: PreTrainedModel, lesson: Lesson) -> None:
        self.settings, self.student, self.counted = settings, student, lesson.counted
        self.teacher = None
        if lesson.teacher is not None:
            place = settings.teacher_device or student.device
            self.teacher = lesson.teacher.to(place, getattr(torch, settings.teacher_dtype)).eval()
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
        self,
        task_loss: Tensor,
        outputs: Any,
        inputs: Mapping[str, Any],
        progress: float,
        shares: Shares = WHOLE,
    ) -> Tensor:
        """Return the whole loss at `progress` (0..1) of the training.

        `shares` weight the means over this part of a batch; `task_loss` is weighted already.
        """
        settings = self.settings
        labelled = progress >= settings.without_labels
        total = settings.task * task_loss if labelled else 0 * task_loss
        weight = FADINGS[settings.schedule](progress)
        teacher = self._taught(inputs)
        student = self._answers(self.student, outputs, inputs, self._own)
        masks = _masks(self.student, inputs, student)
        sides = list(zip(student, teacher, masks, strict=True))
        for term in TERMS:
            strength = getattr(settings, term)
            if strength:
                weights = self._weights(term, shares, len(sides))
                used = [pair for pair in zip(weights, sides, strict=True) if pair[0] is not None]
                values = [
                    share * TEACHINGS[term](*side, settings, self.heads) if share else 0 * task_loss
                    for share, side in used
                ]
                total = total + weight * strength * torch.stack(values).mean()
        return total

    def _weights(self, term: str, shares: Shares, stacks: int) -> list[float | None]:
        """Return the weight of this part in a term's mean, by stack; None where it is not used.

        Terms compare tokens, those of a decoder that writes labels; logits are of labels, or of the
        tokens that CTC hears.
        """
        decodes = self.student.config.is_encoder_decoder
        of_labels = decodes if term != "logits" else not hears_frames(self.student)
        last = shares.labels if of_labels else shares.tokens
        return [*[shares.tokens if term == "hidden" else None] * (stacks - 1), last]

    def _taught(self, inputs: Mapping[str, Any]) -> list[Answers]:
        if ANSWERS in inputs:
            told = inputs[ANSWERS]
            return [Answers(told[0], likely=Likely(*told) if len(told) > 1 else None)]
        assert self.teacher is not None, "a batch without its answers needs the teacher itself"
        kept: dict[str, Tensor] = {}
        asked = {k: _cast(v, self.teacher) for k, v in inputs.items() if k != "labels"}
        with torch.no_grad(), ExitStack() as hooks:
            if self.settings.relations:
                hooks.enter_context(_kept_relations(self.teacher, kept))
            outputs = self.teacher(**asked, **self.requests)
            return self._answers(self.teacher, outputs, inputs, kept)

    def _answers(
        self,
        model: PreTrainedModel,
        outputs: Any,
        inputs: Mapping[str, Any],
        kept: Mapping[str, Tensor],
    ) -> list[Answers]:
        """Return a model's answers, where the student lies, by stack.

        They are all of its last stack's, and before them the hidden states of an encoder.
        """

        def here(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
            return tuple(t.to(self.student.device, self.student.dtype) for t in tensors)

        (logits,) = here([outputs.logits])
        if self.settings.logits:
            logits = self.counted(self.student, logits, inputs)
        states = [
            here(found[1:])
            for name in ("encoder_hidden_states", "decoder_hidden_states", "hidden_states")
            if (found := getattr(outputs, name, None)) is not None
        ]
        *encoder, last = states or [()]
        kept_here = here(kept[role] for role in ("q", "k", "v") if role in kept)
        return [*(Answers(logits, side) for side in encoder), Answers(logits, last, kept_here)]


def check_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    settings: Distillation,
    labels: Sequence[str],
) -> None:
    """Raise :class:`ModelError` if `teacher` cannot teach `student`; shapes are enough.

    A teacher that has names for its labels must have these, in this order."""
    names = list((teacher.config.id2label or {}).values())
    nameless = all(str(name).startswith("LABEL_") for name in names) and len(names) == len(labels)
    own = [("labels", [*labels], [*labels] if nameless else names)] if labels else []
    pairs = [("tokens", "vocab_size")]
    pairs += [("hidden features", "hidden_size")] if settings.hidden else []
    sizes = [
        (what, *(getattr(m.config.get_text_config(), key, None) for m in (student, teacher)))
        for what, key in pairs
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


def _masks(
    model: PreTrainedModel, inputs: Mapping[str, Any], sides: Sequence[Answers]
) -> list[Tensor]:
    """Return, for each stack, which of its tokens count: (batch, tokens) of 0 and 1."""
    found = []
    for number, side in enumerate(sides):
        like = next(iter((*side.hidden, *side.relations)), None)
        if like is None:  # no term reads a mask
            found.append(torch.ones(1, 1))
            continue
        decodes = model.config.is_encoder_decoder and number == len(sides) - 1
        labels = inputs.get("labels") if decodes else None
        mask = inputs.get("attention_mask") if labels is None else labels != UNCOUNTED
        found.append(_of_length(mask, like, model))
    return found


def _of_length(mask: Tensor | None, like: Tensor, model: PreTrainedModel) -> Tensor:
    """Return `mask` for the tokens of `like` (batch, tokens, width): all count without a mask.

    A convolution makes fewer tokens of a recording's samples.
    """
    if mask is not None and mask.shape[1] != like.shape[1]:
        shortened = getattr(model, "_get_feature_vector_attention_mask", None)
        mask = None if shortened is None else shortened(like.shape[1], mask)
    if mask is None:
        return torch.ones(like.shape[:2], dtype=torch.long, device=like.device)
    return mask.long().to(like.device)


def _cast(value: Any, model: PreTrainedModel) -> Any:
    """Return a batch's tensor where `model` lies, floats in its dtype."""
    if not isinstance(value, Tensor):
        return value
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


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
