"""Write a folder with its own modelling code, for any program that loads it with transformers.

The code is that of the library itself, as far as the model needs it.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import EXPORTS, FOLDER, Needs, Written
from sharetune.trainers.exports.in_torch import in_torch
from sharetune.trainers.exports.source import source_of
from sharetune.trainers.models.layout import layout_of
from sharetune.trainers.models.shared_model import unshared_class
from sharetune.trainers.models.standalone import (
    NO_PLAIN_WEIGHTS,
    StandaloneConfig,
    StandaloneModel,
)

MODULE = "modeling_sharetune"
"""The name of the file of code, without its ending."""

HEADER = '''"""Load a {family} whose layers share weights, with torch and transformers alone.

ShareTune wrote this file. Weights that several layers read are stored once, in ``banks``; what
reads them is at the layers' own places.
"""

'''

CLASSES = '''

CLASSES = {{
{entries}}}
"""Classes that a layout names."""


class Shared{config}(StandaloneConfig, {config}):
    """The configuration of a shared {family}, with the layout of its modules."""

    model_type = "{model_type}"
'''

MODEL = '''

class Shared{model}(StandaloneModel, {model}):
    """A {model} that reads shared weights from banks."""

    config_class = Shared{config}
    classes = CLASSES
'''


@EXPORTS.register("code")
@Needs(sharing=True)
def export_code(model: PreTrainedModel, folder: Path) -> Written:
    """each bank stored once, with the code that reads it: loads with transformers alone"""
    kind, autos = unshared_class(type(model)), _autos(model)
    layout, classes = layout_of(model)
    PreTrainedModel.save_pretrained(model, folder, save_original_format=False)
    settings = json.loads(model.config.to_json_string())
    config, family = type(model.config), settings["model_type"]
    source = _source(config, family, autos.values(), classes)
    (folder / f"{MODULE}.py").write_text(source, "utf-8")
    settings |= {
        "model_type": _model_type(family),
        "architectures": [f"Shared{kind.__name__}"],
        "auto_map": {
            auto: f"{MODULE}.Shared{own.__name__}"
            for auto, own in {"AutoConfig": config, **autos}.items()
        },
        "transformers_weights": NO_PLAIN_WEIGHTS,
        "layout": layout,
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    auto = next(auto for auto, own in autos.items() if own is kind)
    return in_torch(
        load_with_code,
        f"from transformers import {auto}\n"
        f'model = {auto}.from_pretrained("{FOLDER}", trust_remote_code=True)',
    )


def _model_type(family: str) -> str:
    return f"sharetune_{family}"


def _autos(model: PreTrainedModel) -> dict[str, Any]:
    """Return the model's class by its auto classes, and its body's by ``AutoModel``."""
    kind, known = unshared_class(type(model)), auto_classes(type(model.config))
    autos = {auto: kind for auto, own in known.items() if kind in own}
    if kind.__module__.split(".")[0] != "transformers" or not autos:
        raise ModelError(
            f"{kind.__name__} has no auto class of transformers that could load it",
            "export as shared or dense",
        )
    return {"AutoModel": known["AutoModel"][0], **autos} if "AutoModel" in known else autos


def _source(
    config: type[Any], family: str, models: Iterable[Any], classes: Mapping[str, type[Any]]
) -> str:
    """Return the file of code that defines the configuration's and the models' classes."""
    models = list(dict.fromkeys(models))
    needed = [StandaloneConfig, StandaloneModel, config, *models, *classes.values()]
    words = {"family": family, "config": config.__name__, "model_type": _model_type(family)}
    entries = "".join(f'    "{name}": {name},\n' for name in sorted(classes))
    return "".join(
        [
            HEADER.format(**words) + source_of(needed) + "\n",
            CLASSES.format(**words, entries=entries),
            *(MODEL.format(**words, model=own.__name__) for own in models),
        ]
    )


def auto_classes(config: type[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the model classes of a configuration's class, by the auto class that makes them."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in dir(transformers):
        if name == "AutoModel" or name.startswith("AutoModelFor"):
            mapping = getattr(getattr(transformers, name), "_model_mapping", {})
            if config in mapping:
                own = mapping[config]
                found[name] = tuple(own) if isinstance(own, tuple | list) else (own,)
    return found


def load_with_code(folder: Path, **settings: object) -> PreTrainedModel:
    """Return the model in `folder`, made by the folder's own code, which is run.

    `settings` are those of ``from_pretrained``. The auto classes do the same, and keep a copy of
    the code.
    """
    module = ModuleType(f"{MODULE}_{abs(hash(folder))}")
    sys.modules[module.__name__] = module
    path = folder / f"{MODULE}.py"
    exec(compile(path.read_text("utf-8"), str(path), "exec"), vars(module))
    (name,) = json.loads((folder / "config.json").read_text("utf-8"))["architectures"]
    model: PreTrainedModel = getattr(module, name).from_pretrained(folder, **settings)
    return model.eval()
