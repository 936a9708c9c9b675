"""Load `code` exports of real models where only torch and transformers are installed.

    python -m benchmarks.code_exports SMOLLM2 MINILM T5 VIT [--only smollm2 ...] [--python PYTHON]

Folders of models; one that holds no weights (T5 and ViT of the examples) gets random ones. Each
model is shared by six plans, exported, and loaded in a new environment, whose packages are links to
those installed here, or by PYTHON, an interpreter of another: the largest difference of the
logits, 32 tokens generated with a cache and without, a pipeline's answer, and the error where a
tensor is missing.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, ViTImageProcessor

from sharetune.spaces.plan import SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.exports.base import Reader, answering, export
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.structure import find_stacks
from tests.trainers.exports.bare import Case, bare_python, loaded_alone, write_answer

MODELS = {
    "smollm2": ("AutoModelForCausalLM", "text-generation"),
    "minilm": ("AutoModelForSequenceClassification", "text-classification"),
    "t5": ("AutoModelForSeq2SeqLM", ""),  # transformers has no pipeline for it any more
    "vit": ("AutoModelForImageClassification", "image-classification"),
}
"""The auto class of a model and the task of its pipeline."""

PLANS: dict[str, dict[str, Any]] = {
    "bank": {"form": {"bank": {"ratio": 0.5}}},
    "tie": {"form": "tie"},
    "lowrank": {"form": {"lowrank": {"rank": 4}}},
    "narrow": {"form": {"narrow": {"keep": 0.5}}},
    "drop": {"form": "drop"},
    "loop": {"times": 2, "assign": "each"},
}
"""The rule of each plan, for the second and third layer of each stack."""


def main(folders: dict[str, Path], only: list[str], python: Path | None) -> None:
    """Print one line for each model and plan."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(
        "| model | plan | parameters | logits differ by | cached = uncached | pipeline | missing |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        python = python or bare_python(Path(scratch) / "bare")
        for name in only:
            for plan in PLANS:
                print("|", " | ".join(_cells(name, plan, folders[name], python)), "|", flush=True)


def _cells(name: str, plan: str, source: Path, python: Path) -> Iterator[str]:
    """Yield the cells of one line."""
    auto, pipeline = MODELS[name]
    model = _shared(name, plan, source)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "out"
        export(model, folder, "code", reader=_reader(name, source))
        given = samples(model)[0]
        answer = write_answer(Path(place) / "answer.pt", given, answering(model)(given))
        case = Case(str(folder), auto, pipeline, answer)
        (found,) = loaded_alone(python, [case], Path(place))
        shutil.rmtree(folder)
    yield from (name, plan, f"{sum(p.numel() for p in model.parameters()):,}")
    yield f"{found['difference']:.1g}"
    yield {True: "yes", False: "NO", None: "-"}[found.get("is_cached_right")]
    yield str(found.get("pipeline", "-")).replace("|", "/").replace("\n", " ")
    yield "refused" if "are missing" in found["missing"] else "LOADED"


def _shared(name: str, plan: str, source: Path) -> PreTrainedModel:
    """Return the model of a folder, shared by a plan."""
    auto = getattr(transformers, MODELS[name][0])
    if (source / "model.safetensors").exists():
        more = {} if name == "smollm2" else {"num_labels": 5}
        torch.manual_seed(0)  # of a new head
        model = auto.from_pretrained(source, dtype=torch.float32, **more)
    else:
        torch.manual_seed(0)
        model = auto.from_config(AutoConfig.from_pretrained(source))
        if name == "t5":
            model.generation_config.decoder_start_token_id = 0
    rule = {"layers": [1, 2], **PLANS[plan]}
    if (name, plan) == ("t5", "narrow"):  # position biases count on its heads
        rule["parts"] = ["ffn"]
    groups = [rule | {"stack": stack} for stack in find_stacks(model)]
    return share_(model.eval(), SharingPlan.model_validate({"groups": groups}))


def _reader(name: str, source: Path) -> Reader | None:
    if name == "vit":
        size = AutoConfig.from_pretrained(source).image_size
        return ViTImageProcessor(size={"height": size, "width": size})
    has_one = (source / "tokenizer.json").exists()
    return AutoTokenizer.from_pretrained(source) if has_one else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in MODELS:
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--python", type=Path)
    asked = vars(parser.parse_args())
    only, python = asked.pop("only"), asked.pop("python")
    main(asked, only, python)
