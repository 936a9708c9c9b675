"""Load shared models from disk.

After ``import sharetune.trainers`` every ``AutoModelFor...from_pretrained(folder)`` returns the
shared model.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ModelError
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.compression.steps import reshape_
from sharetune.trainers.models.devices import one_device
from sharetune.trainers.models.dtypes import fitting_dtypes
from sharetune.trainers.models.narrowing import fit_
from sharetune.trainers.models.shared_model import (
    MODEL_TYPE,
    SharedConfig,
    never_saved,
)
from sharetune.trainers.models.sharing import share_

ATTENTION_ATTRIBUTE = "_attn_implementation_internal"
"""The attribute in which the auto classes store a caller's `attn_implementation`."""

IGNORED_KEYWORDS = {
    *("trust_remote_code", "use_safetensors", "low_cpu_mem_usage", "weights_only", "token"),
    *("cache_dir", "force_download", "local_files_only", "proxies", "revision", "code_revision"),
    *("_from_auto", "_commit_hash", "_name_or_path", "dtype", "transformers_version"),
}
"""Keywords of ``from_pretrained`` that are accepted and ignored: they say where files come from."""


def load_shared(
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Return the shared model saved in `folder`, in eval mode.

    Tensors have the dtypes they were saved in, or `dtype` (``torch.bfloat16``, ``"bfloat16"``)
    except those that the model family keeps in float32. The model is on the CPU, or on `device`.
    `attn_implementation` is passed on to transformers.

    Raises :class:`ModelError` if the folder holds no shared model, if its tensors are not exactly
    those of its plan, or for a dtype or a device that does not exist.
    """
    folder = Path(folder)
    saved = _read_config(folder)
    place, wanted = _device(device), _dtype(dtype)
    architecture = getattr(transformers, saved["architectures"][0])
    base = dict(saved["base"])
    config = AutoConfig.for_model(base.pop("model_type"), **base)
    settings = {"dtype": wanted, "attn_implementation": attn_implementation}
    model = architecture._from_config(config, **{k: v for k, v in settings.items() if v})
    _move_weights_to_meta(model)
    if "units" in saved:  # which layers were narrower than the configuration says
        fit_(model, saved["units"])
    share_(model, SharingPlan.model_validate(saved["plan"]))
    compression = Compression.model_validate(saved.get("compression", {}))
    if compression != Compression():
        reshape_(model, compression)
    _load_exactly(model, _cast(_tensors(folder, place), model, wanted), folder)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.to(place).eval()


def _device(device: str | int | torch.device | None) -> torch.device:
    """Return the device of this name. Raises :class:`ModelError` if this machine has none."""
    try:
        place = torch.device("cpu" if device is None else device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(
            f"a device must be there, but got {device!r}: {str(error).splitlines()[0]}",
            "name one device, such as cpu or cuda:0",
        ) from None
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the floating-point type, or None to keep the saved one.

    Raises :class:`ModelError` if `dtype` is not a floating-point type.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype in (None, "auto"):
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(
            f"dtype must be a type of floating-point numbers, but got {dtype!r}",
            "write torch.bfloat16, float16, float32 or auto",
        )
    return found


def _cast(
    tensors: dict[str, Tensor], model: PreTrainedModel, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return `tensors` in `dtype`, except those that the model family needs in float32."""
    if dtype is None:
        return tensors
    fitting = fitting_dtypes(model, dtype)
    return {n: t.to(fitting(n)) if t.is_floating_point() else t for n, t in tensors.items()}


def _move_weights_to_meta(model: nn.Module) -> None:
    """Move the weights that the file will fill to the meta device, to share at no cost."""
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if f"{path}.{name}" not in never_saved(model):
                empty = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
                module.register_parameter(name, empty)


def _load_exactly(model: PreTrainedModel, tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill `model` with `tensors`, in their dtypes.

    Raises :class:`ModelError` if a tensor is missing, unexpected or of another shape. A tensor may
    be missing only if the model ties it to one that is there.
    """
    wanted = {n: t for n, t in model.state_dict().items() if n not in never_saved(model)}
    tied = model.all_tied_weights_keys
    wrong = [n for n in tensors if n in wanted and wanted[n].shape != tensors[n].shape]
    missing = [n for n in wanted if n not in tensors and tied.get(n) not in tensors]
    unexpected = [n for n in tensors if n not in wanted]
    if wrong or missing or unexpected:
        raise ModelError(
            f"{folder} does not hold the tensors of its plan: {len(missing)} missing, "
            f"{len(unexpected)} unexpected, {len(wrong)} of another shape, "
            f"such as {(missing + unexpected + wrong)[0]}",
            "the folder is damaged or was edited; export the model again",
        )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"no model in {folder}", "name a folder with a config.json") from None
    if config.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"{folder} holds an ordinary {config.get('model_type')} model, not a shared one",
            "load it with AutoModel...from_pretrained",
        )
    return dict(config)


def _tensors(folder: Path, device: torch.device) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.exists():
        files = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    shards = [load_file(folder / file, device=str(device)) for file in files]
    return {name: tensor for shard in shards for name, tensor in shard.items()}


class SharedLoader:
    """Load models of the type ``sharetune`` for every auto class of transformers."""

    config_class = SharedConfig

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *_: Any,
        config: SharedConfig | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        **rest: Any,
    ) -> PreTrainedModel:
        """Load a shared model, see :func:`load_shared`. A `device_map` must name one device.

        Raises :class:`ModelError` for keywords of transformers that a shared model cannot honour.
        """
        refused = {name for name, value in rest.items() if value and name not in IGNORED_KEYWORDS}
        for name in sorted(refused | _changed_settings(folder, config)):
            raise ModelError(
                f"a shared model cannot be loaded with {name} given",
                "give dtype, device_map or attn_implementation; for more, export it as dense",
            )
        return load_shared(
            folder,
            dtype=torch_dtype if dtype is None else dtype,
            device=one_device(device_map),
            # the auto classes move this keyword into the configuration
            attn_implementation=attn_implementation or getattr(config, ATTENTION_ATTRIBUTE, None),
        )


def _changed_settings(folder: str | Path, config: SharedConfig | None) -> set[str]:
    """Return the settings of `config` that the caller changed from the folder's."""
    if config is None:
        return set()
    saved, given = SharedConfig.from_pretrained(folder).to_dict(), config.to_dict()
    return {k for k, v in given.items() if v != saved.get(k) and k not in IGNORED_KEYWORDS}


def register_auto_classes() -> None:
    """Register the model type ``sharetune`` with the auto classes of transformers."""
    AutoConfig.register(MODEL_TYPE, SharedConfig, exist_ok=True)
    for name in dir(transformers):
        if name == "AutoModel" or name.startswith("AutoModelFor"):
            getattr(transformers, name).register(SharedConfig, SharedLoader, exist_ok=True)
