"""Draw a plan on a model's layers and count its stored parameters, from the configuration alone."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.evaluator import Sizes
from sharetune.spaces.layer_text import layers_as_text, stacks_text, unchanged_text
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.stack_shape import lacking_parts
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.models.positions import most_tokens, refuse_beyond_positions
from sharetune.trainers.models.pretrained import ByArchitecture, skeleton
from sharetune.trainers.models.structure import (
    find_stacks,
    places_in_lists,
    stack_shapes,
)

TOKENS = 128
"""Tokens of the forward pass whose FLOPs are counted, if the model reads as many."""


def describe_plan(plan: SharingPlan, model: str, max_length: int | None = None) -> str:
    """Return the layers' drawing, and stored parameters, bytes, FLOPs and effective ratio.

    FLOPs are of `max_length` tokens; None: of `TOKENS`, or as
    many as the model reads. Raises :class:`SharetuneError` if it does not fit.
    """
    unshared = skeleton(ByArchitecture(), model)
    shapes = stack_shapes(unshared)
    bound = plan.bound(shapes)
    depths = {name: shape.depth for name, shape in shapes.items()}
    unchanged = unchanged_text(lacking_parts(shapes))
    layers = layers_as_text(bound, depths, places_in_lists(unshared))
    drawing = "\n".join([layers, *unchanged])
    length = min(TOKENS, most_tokens(unshared) or TOKENS) if max_length is None else max_length
    return f"{drawing}\n\n{_counts(unshared, bound, length)}"


def plan_sizes(
    unshared: PreTrainedModel, plans: Sequence[SharingPlan], tokens: int, named: str = "tokens"
) -> list[Sizes]:
    """Return the sizes of a model on the meta device, then those of the same with each plan.

    The model is run once, however many plans there are. Raises :class:`ConfigError` about `named`
    where the model reads fewer than `tokens` tokens, and :class:`PlanError` for a plan that does
    not fit.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ConfigError(f"{named} is {tokens!r}", "set it to a whole number from 1")
    refuse_beyond_positions(unshared, tokens, named)
    inputs = {k: v.to("meta") for k, v in _inputs(unshared, tokens).items()}
    counting = Counting(unshared, inputs)
    return [counting.facts(plan) for plan in (SharingPlan(), *plans)]


def _counts(unshared: PreTrainedModel, plan: SharingPlan, max_length: int) -> str:
    before, after = plan_sizes(unshared, [plan], max_length, "--max-length")
    rows = [
        _row("parameters", before["parameters"] / 1e6, after["parameters"] / 1e6, "M"),
        _row(
            "  in the stack", before["stack_parameters"] / 1e6, after["stack_parameters"] / 1e6, "M"
        ),
        _row("bytes on disk", before["bytes"] / 1e6, after["bytes"] / 1e6, "MB"),
        _row(f"FLOPs, {max_length} tokens", before["flops"] / 1e9, after["flops"] / 1e9, "G"),
        f"effective ratio      {after['effective_ratio']:.3f}",
    ]
    if before["cache_bytes"]:
        sizes = before["cache_bytes"] / 1e6, after["cache_bytes"] / 1e6
        rows.insert(-1, _row(f"cache, {max_length} tokens", *sizes, "MB"))
    stacks = stacks_text({name: len(stack.layers) for name, stack in find_stacks(unshared).items()})
    return "\n".join([f"{type(unshared).__name__}: {stacks}; plan: {plan}", *rows])


def _row(what: str, before: float, after: float, unit: str) -> str:
    return f"{what:20} {after:,.2f} {unit} of {before:,.2f} {unit} unshared ({after / before:.1%})"


def _inputs(model: PreTrainedModel, tokens: int) -> dict[str, torch.Tensor]:
    ids = torch.ones(1, tokens, dtype=torch.long, device="meta")
    name = model.main_input_name
    if name != "input_ids":
        return {k: v[:1] for k, v in model.dummy_inputs.items()}
    inputs = {"input_ids": ids}
    return inputs | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
