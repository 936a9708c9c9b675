"""Write the shared model as it is: each bank once, loaded with ShareTune."""

import copy
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from sharetune.trainers.exports.base import EXPORTS, FOLDER, Needs, Written
from sharetune.trainers.exports.in_torch import in_torch
from sharetune.trainers.loading import load_shared
from sharetune.trainers.models.shared_model import SharedModel


@EXPORTS.register("shared")
@Needs(sharing=True)
def export_shared(model: PreTrainedModel, folder: Path) -> Written:
    """each bank stored once: the smallest folder, loaded with ShareTune"""
    assert isinstance(model, SharedModel)
    named = copy.copy(model)
    base = {key: value for key, value in model.sharing.base.items() if key != "_name_or_path"}
    named.sharing = replace(model.sharing, base=base)  # without this machine's path
    named.save_pretrained(folder)
    lines = f'from sharetune import load_shared\nmodel = load_shared("{FOLDER}")'
    return in_torch(load_shared, lines)
