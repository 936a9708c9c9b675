"""Write an ordinary model of the class it was shared from, which loads without ShareTune."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.spaces.forms import Narrow
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.exports.base import EXPORTS, FOLDER, Needs, Written
from sharetune.trainers.exports.in_torch import in_torch
from sharetune.trainers.models.mixtures import counts_experts, find_mixtures
from sharetune.trainers.models.narrowing import pad_
from sharetune.trainers.models.sharing import is_shared, materialize_
from sharetune.trainers.models.structure import find_stacks


@EXPORTS.register("dense")
@Needs(equal_layers=True)
def export_dense(model: PreTrainedModel, folder: Path) -> Written:
    """every layer with weights of its own: as large as unshared, loads without ShareTune"""
    dense = materialize_(copy.deepcopy(model))
    if is_shared(dense):
        raise ModelError(
            f"layers that reuse what others compute have no dense form: {dense.sharing.plan}",
            "export as shared or onnx",
        )
    note = widen(dense) if _is_narrow(model) else ""
    return replace(save_ordinary(dense, folder, note), is_once=False)


def _is_narrow(model: PreTrainedModel) -> bool:
    """Whether layers may be narrower than the configuration says."""
    plan = model.sharing.plan if is_shared(model) else SharingPlan()
    uniform = all(stack.shape.is_uniform for stack in find_stacks(model).values())
    return not uniform or any(isinstance(group.form, Narrow) for group in plan.groups)


def widen(model: PreTrainedModel) -> str:
    """Make all layers of a dense model as wide as its configuration says; return a note.

    The configuration is given the number of experts that all layers have. Raises
    :class:`ModelError` if they have unlike numbers.
    """
    _settle_experts_(model, _as_configured(model))
    added = pad_(model, find_stacks(_as_configured(model)))
    what = "heads and neurons that were removed are zeros: its class has one width only."
    return f"{added} {what}" if added else ""


def _as_configured(model: PreTrainedModel) -> PreTrainedModel:
    with torch.device("meta"):
        return type(model)._from_config(copy.deepcopy(model.config))


def _settle_experts_(model: PreTrainedModel, whole: PreTrainedModel) -> None:
    """Write the number of experts of a dense model into its configuration, which makes `whole`."""
    own, before = ({mixture.experts for mixture in find_mixtures(one)} for one in (model, whole))
    if own == before:
        return
    if len(own | before) != 2 or len(own) != 1:
        raise ModelError(
            f"layers have unlike numbers of experts, {', '.join(map(str, sorted(own)))}, and a "
            "class of transformers has as many in each",
            "export as shared or code, or let all layers that have experts keep as many",
        )
    config, (count,), (once,) = model.config.get_text_config(), own, before
    for name, number in list(vars(config).items()):
        if number == once and type(number) is int and counts_experts(name):
            setattr(config, name, count)


def save_ordinary(model: PreTrainedModel, folder: Path, note: str = "") -> Written:
    """Save a model of a class of transformers."""
    model.save_pretrained(folder)
    kind: Any = type(model)
    return in_torch(
        lambda path: kind.from_pretrained(path).eval(),
        f"from transformers import {kind.__name__}\n"
        f'model = {kind.__name__}.from_pretrained("{FOLDER}")',
        note,
    )
