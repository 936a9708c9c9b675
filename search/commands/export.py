"""Export a trial's kept weights, with its tokenizer or processor and a model card.

Nothing is trained.
"""

from dataclasses import replace
from pathlib import Path

import transformers
from safetensors import SafetensorError
from transformers import PreTrainedModel

from sharetune.results.card import ExportText, model_card, plan_picture
from sharetune.results.reading.servers import require_named_plugins
from sharetune.results.reading.study import StudyRecord, read_study
from sharetune.search.commands.kept_weights import kept_weights
from sharetune.spaces.errors import RunError, SharetuneError
from sharetune.spaces.plugins import load_plugins
from sharetune.spaces.settings import one_door
from sharetune.trainers import load_shared
from sharetune.trainers.data.new_models import start_of
from sharetune.trainers.exports.base import EXPORTS, Exported, check_free, placed, write
from sharetune.trainers.tasks.base import read_task

CARD = "README.md"
"""File name of an export's model card, which the hub shows as a model's page."""

PICTURE = "plan.svg"
"""File name of the drawing of an export's plan, which the card shows."""

UNEXPORTED = "its model or its study is damaged, or holds what this format cannot: try another"
"""Hint of errors of libraries while a model is written."""

UNREADABLE = (SharetuneError, OSError, ImportError, KeyError)
"""Errors of loading a tokenizer or processor that an export survives, with a note."""


def export_trial(run: Path, number: int, out: Path, format: str) -> Exported:
    """Write the model of trial `number` into the folder `out`, with tokenizer and model card.

    Raises :class:`SharetuneError` for an unknown format or trial, weights that were not kept, a
    model that the format cannot hold, and an `out` that is taken; `out` is then as it was.
    """
    study = read_study(run)
    _load_plugins(study)
    EXPORTS[format]
    weights = kept_weights(study, number)
    check_free(out)
    model = _load(weights)
    with one_door(f"trial {number} of {run}", RunError, UNEXPORTED), placed(out) as folder:
        missing = _copy_reader(study, folder)
        exported = write(model, folder, format)
        exported = replace(exported, note=f"{exported.note} {missing}".strip())
        load = exported.load(out.resolve().name)
        note = f"{exported.audit} {exported.note}".rstrip()
        text = ExportText(format, load, note)
        card = model_card(study, number, model.sharing.plan, text)
        (folder / CARD).write_text(card, "utf-8")
        (folder / PICTURE).write_text(plan_picture(study, model.sharing.plan), "utf-8")
    return exported


def trained_model(study: StudyRecord, number: int) -> PreTrainedModel:
    """Load the model of trial `number`, in eval mode.

    Raises :class:`RunError` if there is no such trial, or its weights were not kept.
    """
    _load_plugins(study)
    return _load(kept_weights(study, number))


def _load_plugins(study: StudyRecord) -> None:
    plugins = study.config.get("plugins") or ()
    require_named_plugins(plugins, study.path)
    load_plugins(plugins)


def _load(weights: Path) -> PreTrainedModel:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        return load_shared(weights)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"the weights in {weights} cannot be read: {error}", "export another trial"
        ) from error


def _copy_reader(study: StudyRecord, folder: Path) -> str:
    """Write what turns data into the model's inputs: tokenizer, image processor, feature extractor.

    Returns a sentence if it cannot be loaded any more, else an empty text.
    """
    start = start_of(study.config["model"], study.path / "cache")
    try:
        reader = read_task(study.config["task"]).reader(start)
    except UNREADABLE:
        return (
            "What reads the data, such as a tokenizer, is not with it: the study's model is gone."
        )
    if reader is not None:
        reader.save_pretrained(folder)
    return ""
