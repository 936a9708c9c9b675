"""Write an ordinary model of the class it was shared from, which loads without ShareTune."""

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import EXPORTS, FOLDER, Needs, Written, answering
from sharetune.trainers.models.sharing import is_shared, materialize_


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
    return save_ordinary(dense, folder)


def save_ordinary(model: PreTrainedModel, folder: Path, note: str = "") -> Written:
    """Save a model of a class of transformers."""
    model.save_pretrained(folder)
    kind: Any = type(model)
    return Written(
        reload=lambda path: answering(kind.from_pretrained(path).eval()),
        load=f"from transformers import {kind.__name__}\n"
        f'model = {kind.__name__}.from_pretrained("{FOLDER}")',
        tolerance=1e-5,
        note=note,
    )
