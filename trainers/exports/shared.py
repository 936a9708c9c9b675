"""Write the shared model as it is: each bank once, loaded with ShareTune."""

import copy
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import EXPORTS, FOLDER, Written, answering
from sharetune.trainers.loading import load_shared
from sharetune.trainers.models.shared_model import SharedModel


@EXPORTS.register("shared")
def export_shared(model: PreTrainedModel, folder: Path) -> Written:
    """each bank stored once: the smallest folder, loaded with ShareTune"""
    if not isinstance(model, SharedModel):
        raise ModelError(
            f"{type(model).__name__} shares nothing", "call share_(model, plan) first, or use dense"
        )
    named = copy.copy(model)
    base = {key: value for key, value in model.sharing.base.items() if key != "_name_or_path"}
    named.sharing = replace(model.sharing, base=base)  # without this machine's path
    named.save_pretrained(folder)
    return Written(
        reload=lambda path: answering(load_shared(path)),
        load=f'from sharetune import load_shared\nmodel = load_shared("{FOLDER}")',
        tolerance=1e-5,
    )
