"""Load shared models from disk.

After ``import sharetune.trainers`` every ``AutoModelFor...from_pretrained(folder)`` returns the
shared model.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ConfigError, ModelError
from sharetune.spaces.layers import MOST_LAYERS
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.settings import one_door, read_settings
from sharetune.spaces.texts import shortened, shown
from sharetune.trainers.compression.steps import reshape_
from sharetune.trainers.hub import local_folder
from sharetune.trainers.models.devices import one_device
from sharetune.trainers.models.dtypes import fitting_dtypes
from sharetune.trainers.models.narrowing import fit_
from sharetune.trainers.models.shared_model import (
    MODEL_TYPE,
    SharedConfig,
    SharedModel,
    base_config,
    base_of,
    body_,
    never_saved,
)
from sharetune.trainers.models.sharing import share_

ATTENTION_ATTRIBUTE = "_attn_implementation_internal"
"""The attribute in which the auto classes store a caller's `attn_implementation`."""

REFUSED_KEYWORDS = {
    *("output_loading_info", "quantization_config", "state_dict", "gguf_file", "key_mapping"),
    *("ignore_mismatched_sizes", "variant", "subfolder", "tp_plan", "tp_size", "device_mesh"),
    *("distributed_config", "max_memory", "offload_folder", "offload_buffers"),
}
"""Keywords of ``from_pretrained`` that a shared model cannot honour."""

IGNORED_KEYWORDS = {
    *("trust_remote_code", "use_safetensors", "low_cpu_mem_usage", "weights_only", "token"),
    *("cache_dir", "force_download", "local_files_only", "proxies", "revision", "code_revision"),
    *("_from_auto", "_from_pipeline", "_commit_hash", "adapter_kwargs", "adapter_name"),
    *("use_kernels", "allow_all_kernels", "disable_mmap", "_fast_init"),
}
"""Keywords of ``from_pretrained`` that are accepted and ignored: they say where files come from or
how they are read."""

DAMAGED = "the folder is damaged or was edited; export the model again"
"""Hint of errors about a folder's files."""

MOST_NUMBERS = 20_000_000_000
"""Largest product of two sizes of a model, such as vocabulary and width: a matrix of 80 GB."""

MOST_POSITIONS = 1_000_000_000
"""Largest number in a configuration that is no side of a matrix, such as of positions."""

NO_SIDE = re.compile(r"_ids?$|_index$|theta|position|length|chunk|n_ctx|base$|_floor$")
"""Names of whole numbers in a configuration that are no side of a matrix."""

SET_BY_LOADING = {"_name_or_path", "dtype", "transformers_version", "_commit_hash", "_from_auto"}
"""Settings of a configuration that the auto classes change by themselves."""


def load_shared(
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device_map: object = None,
    attn_implementation: str | None = None,
    cls: type[PreTrainedModel] | None = None,
    revision: str | None = None,
    **settings: object,
) -> PreTrainedModel:
    """Return the shared model saved in `folder`, in eval mode.

    `folder` may also be a model of the hub, as ``user/name``, of which `revision` is the branch,
    tag or commit.

    Tensors have the dtypes they were saved in, or `dtype` (``torch.bfloat16``, ``"bfloat16"``)
    except those that the model family keeps in float32. The model is on the CPU, or on the one
    device that `device_map` (or `device`) names. `attn_implementation` and further `settings` are
    passed on to the constructor of the model's class. `cls` is the unshared model's class, needed
    only if it is not one of transformers.

    Raises :class:`ModelError` if the folder holds no shared model, if its tensors are not exactly
    those of its plan, for a class that is not the model's, or for a dtype or a device that does
    not exist.
    """
    folder = local_folder(folder, revision)
    device = settings.pop("device", None)
    place = _device(one_device(device_map) if device is None else device)
    wanted = _dtype(dtype)
    settings |= {"dtype": wanted, "attn_implementation": attn_implementation}
    given = {name: value for name, value in settings.items() if value is not None}
    with _one_error(folder):
        saved = _read_config(folder)
        model = build(_architecture(saved, cls, folder), saved, **given)
        tensors = _tensors(folder, place)
        _refuse_mixed_dtypes(tensors, folder)
        _load_exactly(model, _cast(tensors, model, wanted), folder)
        if (folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.to(place).eval()


@contextmanager
def _one_error(folder: Path) -> Iterator[None]:
    """Turn any failure of reading a folder's files into one :class:`ModelError`."""
    try:
        with one_door(f"the shared model in {folder}", ModelError, DAMAGED):
            yield
    except ConfigError as error:
        raise ModelError(f"{folder}: {error.message}", DAMAGED) from None


def build(architecture: Any, saved: dict[str, Any], **settings: Any) -> PreTrainedModel:
    """Return a shared model of `architecture` as the configuration `saved` says.

    Its weights are on the meta device, except those that are computed and never saved.
    """
    model: PreTrainedModel = architecture._from_config(
        _base_config(architecture, saved), **settings
    )
    _move_weights_to_meta(model)
    return _shared_as(model, saved)


def _skeleton(architecture: Any, saved: dict[str, Any]) -> PreTrainedModel:
    """Return what :func:`build` does, with no weights at all."""
    with torch.device("meta"):
        model = architecture._from_config(_base_config(architecture, saved))
    return _shared_as(model, saved)


def _shared_as(model: PreTrainedModel, saved: dict[str, Any]) -> PreTrainedModel:
    """Share the weightless `model`, in place, as the configuration `saved` says."""
    if "units" in saved:  # which layers were narrower than the configuration says
        fit_(model, saved["units"])
    share_(model, read_settings(SharingPlan, saved["plan"], "its plan"))
    compression = read_settings(Compression, saved.get("compression", {}), "its compression")
    if compression != Compression():
        reshape_(model, compression)
    return model


def _base_config(architecture: Any, saved: dict[str, Any]) -> PreTrainedConfig:
    base = base_of(saved)
    _refuse_endless(base)
    kind = architecture.config_class
    if kind is not None and kind.model_type == base["model_type"]:  # also a user's own
        return kind(**{name: value for name, value in base.items() if name != "model_type"})
    return base_config(base)


def _architecture(saved: dict[str, Any], cls: Any, folder: Path) -> Any:
    """Return the unshared model's class. Raises :class:`ModelError` if it is another or unknown."""
    name = saved["architectures"][0]
    if cls is not None and cls.__name__ != name:
        raise ModelError(
            f"{folder} holds a shared {name}, but got cls={cls.__name__}", f"give the class {name}"
        )
    found = getattr(transformers, name, None) if cls is None else cls
    if found is None:
        raise ModelError(
            f"{folder} holds a shared {name}, a class that transformers does not have",
            f"give the class: load_shared(folder, cls={name})",
        )
    return found


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


def _refuse_endless(base: Mapping[str, Any]) -> None:
    """Raise :class:`ModelError` for sizes of a model that no machine can build."""
    numbers = {str(name): value for name, value in base.items()}
    sizes = {k: v for k, v in numbers.items() if isinstance(v, int) and not isinstance(v, bool)}
    deep = [k for k, v in sizes.items() if "layer" in k and v > MOST_LAYERS]
    long = [k for k, v in sizes.items() if abs(v) > MOST_POSITIONS]
    sides = [name for name in sizes if not NO_SIDE.search(name)]
    large = sorted(sides, key=lambda name: abs(sizes[name]))[-2:]
    if deep or long or abs(prod(sizes[name] for name in large)) > MOST_NUMBERS:
        named = ", ".join(f"{name}={shown(sizes[name])}" for name in deep or long or large)
        raise ModelError(f"no model is as large as its configuration says: {named}", DAMAGED)
    for inner in base.values():
        if isinstance(inner, dict):
            _refuse_endless(inner)


def _refuse_mixed_dtypes(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise :class:`ModelError` for tensors of floats that are neither of the type of most numbers
    nor in float32, in which some models keep a few."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    numbers: Counter[torch.dtype] = Counter()
    for tensor in floats.values():
        numbers[tensor.dtype] += tensor.numel()
    usual = {torch.float32, *(kind for kind, _ in numbers.most_common(1))}
    others = [f"{name} in {t.dtype}" for name, t in floats.items() if t.dtype not in usual]
    if others:
        raise ModelError(
            f"{folder} holds numbers of {numbers.most_common(1)[0][0]}, but {len(others)} tensors "
            f"of another type, such as {others[0]}",
            DAMAGED,
        )


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
    wrong = [n for n, tensor in tensors.items() if n in wanted and not _fits(wanted[n], tensor)]
    missing = [n for n in wanted if n not in tensors and tied.get(n) not in tensors]
    unexpected = [n for n in tensors if n not in wanted]
    if wrong or missing or unexpected:
        raise ModelError(
            f"{folder} does not hold the tensors of its plan: {len(missing)} missing, "
            f"{len(unexpected)} unexpected, {len(wrong)} of another shape or kind of numbers, "
            f"such as {shortened((missing + unexpected + wrong)[0])}",
            DAMAGED,
        )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()


def _fits(wanted: Tensor, found: Tensor) -> bool:
    return wanted.shape == found.shape and wanted.is_floating_point() == found.is_floating_point()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = f"no model in {folder}" if folder.is_dir() else f"no such folder: {folder}"
        raise ModelError(what, "name a folder with a config.json") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} holds no settings", DAMAGED)
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
    """Load models of the type ``sharetune`` for one auto class of transformers."""

    config_class = SharedConfig
    auto: Any = AutoModel

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *_: Any,
        config: SharedConfig | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
        **rest: Any,
    ) -> PreTrainedModel:
        """Load a shared model, see :func:`load_shared`; ``AutoModel`` gives its body only.

        Raises :class:`ModelError` for keywords of transformers that a shared model cannot honour,
        and for a model that is not of the kind that the auto class loads.
        """
        refused = {name for name in REFUSED_KEYWORDS if rest.get(name)}
        for name in sorted(refused | _changed_settings(folder, config)):
            raise ModelError(
                f"a shared model cannot be loaded with {name} given",
                "give dtype, device_map or attn_implementation; for more, export it as dense",
            )
        for name in (*REFUSED_KEYWORDS, *IGNORED_KEYWORDS):
            rest.pop(name, None)
        wanted = _of_auto(cls.auto, Path(folder))
        model = load_shared(
            folder,
            dtype=torch_dtype if dtype is None else dtype,
            # the auto classes move this keyword into the configuration
            attn_implementation=attn_implementation or getattr(config, ATTENTION_ATTRIBUTE, None),
            **rest,
        )
        return model if wanted is None else _body(model, wanted, Path(folder))

    @classmethod
    def _from_config(cls, *_: object, **__: object) -> PreTrainedModel:
        raise ModelError(
            "the folder holds a model that is shared already",
            "name the folder of the unshared model, or export this one as dense first",
        )


def _of_auto(auto: Any, folder: Path) -> Any:
    """Return the class of the body if only that is to be loaded, None for the whole model.

    Raises :class:`ModelError` if the folder's model is not one that `auto` loads.
    """
    saved = _read_config(folder)
    kind = _architecture(saved, None, folder)
    try:
        found = auto._model_mapping[type(base_config(base_of(saved)))]
    except KeyError:
        found = ()
    kinds = found if isinstance(found, tuple | list) else (found,)
    if kind in kinds:
        return None
    if auto is AutoModel and kinds:
        return kinds[0]
    raise ModelError(
        f"{folder} holds a shared {kind.__name__}, which {auto.__name__} does not load",
        "call sharetune.load_shared(folder)",
    )


def _body(model: PreTrainedModel, kind: object, folder: Path) -> PreTrainedModel:
    """Return the body of a shared `model`; of the class `kind` if it is no module of its own."""
    if model.base_model is not model:
        return body_(model)
    body, tensors = build(kind, _read_config(folder)), model.state_dict()
    names = body.state_dict().keys()
    _load_exactly(body, {n: tensor for n, tensor in tensors.items() if n in names}, folder)
    return body.to(model.device).eval()


def _changed_settings(folder: str | Path, config: SharedConfig | None) -> set[str]:
    """Return the settings of `config` that the caller changed from the folder's."""
    if config is None:
        return set()
    saved, given = SharedConfig.from_pretrained(folder).to_dict(), config.to_dict()
    return {k for k, v in given.items() if v != saved.get(k) and k not in SET_BY_LOADING}


NOT_SUPPORTED = re.compile(r"The model 'Shared(\w+)' is not supported for .*\[(.*)\]\.", re.DOTALL)
"""The report of transformers' pipelines of a class that they do not list."""


def _is_news(report: logging.LogRecord) -> bool:
    """Return False for the report of a shared model whose unshared class a pipeline lists."""
    found = NOT_SUPPORTED.fullmatch(report.getMessage())
    return found is None or f"'{found[1]}'" not in found[2]


def register_auto_classes() -> None:
    """Register the model type ``sharetune`` with the auto classes of transformers.

    Their pipelines, too, take a shared model for what it is unshared.
    """
    logging.getLogger("transformers.pipelines.base").addFilter(_is_news)
    SharedModel.rebuild = staticmethod(_skeleton)
    AutoConfig.register(MODEL_TYPE, SharedConfig, exist_ok=True)
    for name in dir(transformers):
        if name == "AutoModel" or name.startswith("AutoModelFor"):
            auto = getattr(transformers, name)
            loader = type(f"Shared{name}", (SharedLoader,), {"auto": auto})
            auto.register(SharedConfig, loader, exist_ok=True)
