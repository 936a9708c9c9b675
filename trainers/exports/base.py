"""Write a shared model in a format, load it again, and compare its logits.

A new format is one file here with one function registered in `EXPORTS`.

>>> export(load_shared("runs/bbc-news/trials/7/model"), Path("small"), "dense")  # doctest: +SKIP
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ModelError, RunError
from sharetune.spaces.registry import Registry
from sharetune.spaces.whole_files import follow_umask
from sharetune.trainers.measuring.latency import Run
from sharetune.trainers.measuring.sizes import saved_bytes
from sharetune.trainers.models.positions import most_tokens
from sharetune.trainers.models.sample_inputs import Inputs, samples
from sharetune.trainers.models.shared_model import SharedModel

Answer = Callable[[Inputs], Tensor]
"""A function from named inputs to logits, or to hidden states for a model without a head."""

Distance = Callable[[Tensor, Tensor], float]
"""``(the model's, the export's) -> how far apart``, of tensors of one shape."""


def largest_difference(own: Tensor, other: Tensor) -> float:
    """Return the largest absolute difference; NaN if any number is."""
    return float((own - other).abs().max())


def relative_difference(own: Tensor, other: Tensor) -> float:
    """Return the root mean square of the differences, in standard deviations of `own`."""
    return float((own - other).square().mean().sqrt() / own.std())


Greedy = Callable[[Inputs, int], list[int]]
"""``(one example, count) -> tokens``: at most `count`, the most likely one after the other."""


def of_texts(generate: Callable[[list[int], int], list[int]]) -> Greedy:
    """Return the same for models that continue their own tokens, which `generate` takes."""
    return lambda inputs, count: generate(inputs["input_ids"][0].tolist(), count)


Uses = Mapping[str, Run]
"""Uses of an export in its runtime, by name: ``pass``, or of what writes text by a cache
``prefill`` (one pass over the whole input) and ``decode`` (one token more)."""

Timed = Callable[[Path, Inputs, int], Uses]
"""``(folder, one example, threads) -> uses``, to be timed."""

FOLDER = "FOLDER"
"""The placeholder for the folder's name in `Written.load`."""


class Reader(Protocol):
    """A maker of a model's inputs from data, such as a tokenizer."""

    def save_pretrained(self, folder: Path) -> object:
        """Write its files into the folder."""


@dataclass(frozen=True)
class Written:
    """A model that an exporter wrote into a folder.

    `reload` loads it anew from that folder. `load` is Python code that does so, with `FOLDER` in
    double quotes for the folder's name. Logits may differ by `tolerance` at most. `note` is one
    sentence for the user; empty for none.

    `compared` turns the model's logits into what the runtime gives, if these are others, and
    `distance` compares both: the largest difference, if nothing else is said. `greedy`
    generates in the runtime, where the numbers are exact. `weights` is the pattern of the files
    with the weights, which the plan takes `planned` bytes of in this format (None: as many as its
    tensors have). Where the format `is_once`, as it stores shared weights once, the files may not
    be larger. `timed` gives what latency is measured of, None: nothing.
    """

    reload: Callable[[Path], Answer]
    load: str
    tolerance: float
    timed: Timed | None = None
    note: str = ""
    compared: Callable[[Answer], Answer] = lambda answer: answer
    distance: Distance = largest_difference
    greedy: Callable[[Path], Greedy] | None = None
    weights: str = "*.safetensors"
    planned: int | None = None
    is_once: bool = True


@dataclass(frozen=True)
class Exported:
    """A model that was written, loaded again and compared.

    `difference` is that of its logits, `size` the bytes of its files, `weights` those of
    the files with the weights, `planned` those that the plan's weights have in this format, `note`
    the format's, `uses` what is timed of it.
    """

    difference: float
    size: int
    weights: int
    planned: int
    note: str
    uses: Timed | None
    _load: str

    def load(self, folder: str | Path) -> str:
        """Return Python lines that load the model from `folder`."""
        return self._load.replace(FOLDER, json.dumps(str(folder))[1:-1])

    def summary(self, folder: str | Path) -> str:
        """Return one sentence for people, and the note."""
        return (
            f"wrote {folder}, {self.size / 1e6:,.1f} MB; loaded again, its logits differ by "
            f"{self.difference:.2g}. {self.audit} {self.note}"
        ).rstrip()

    @property
    def audit(self) -> str:
        """Return one sentence on the bytes of the weights."""
        return (
            f"The file's weights take {self.weights / 1e6:,.1f} MB, the plan's "
            f"{self.planned / 1e6:,.1f} MB ({self.weights / self.planned:.3f})."
        )


GREEDY_TOKENS = 64
"""Tokens that an exact export must write as the model does."""

MOST_BYTES = 1.05
"""The most that weights may take in a format that stores shared ones once: times the plan's."""

SLACK_BYTES = 1 << 20
"""Bytes that a file may hold besides: headers, a graph."""

Exporter = Callable[[PreTrainedModel, Path], Written]
"""``(model, folder) -> what was written``."""

EXPORTS: Registry[Exporter] = Registry("export format", package="sharetune.trainers.exports")
"""Exporters by the name of their format."""


def export(
    model: PreTrainedModel, out: Path, format: str = "shared", *, reader: Reader | None = None
) -> Exported:
    """Write `model` into the folder `out`, which must not exist or be empty.

    `reader` is what turns data into its inputs, such as a tokenizer. Raises :class:`ModelError` if
    the format cannot hold the model, changes its logits or takes more bytes than the plan, and
    :class:`RunError` if `out` is not free. Then nothing is left of `out`.
    """
    with placed(out) as folder:
        if reader is not None:
            reader.save_pretrained(folder)
        return write(model, folder, format)


def write(model: PreTrainedModel, folder: Path, format: str) -> Exported:
    """Write `model` into the existing `folder`, run it from there, and compare it.

    What reads the data may lie there already. Raises :class:`ModelError` as :func:`export` does.
    """
    exporter = EXPORTS[format]
    check_packages(format)
    if needs_of(format).sharing and not isinstance(model, SharedModel):
        raise ModelError(
            f"{type(model).__name__} shares nothing", "call share_(model, plan) first, or use dense"
        )
    if isinstance(model, SharedModel):
        refuse_compressed(model.sharing.compression, format)
    written = exporter(model.eval(), folder)
    exported = Exported(
        difference=_difference(model, written, folder, format),
        size=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        weights=sum(path.stat().st_size for path in folder.glob(written.weights)),
        planned=saved_bytes(model) if written.planned is None else written.planned,
        note=written.note,
        uses=written.timed,
        _load=written.load,
    )
    if written.is_once and exported.weights > MOST_BYTES * exported.planned + SLACK_BYTES:
        raise ModelError(
            f"the {format} export does not store shared weights once. {exported.audit}",
            "report the plan and the model's class",
        )
    return exported


def _difference(model: PreTrainedModel, written: Written, folder: Path, format: str) -> float:
    """Return the largest difference of the export's answers from the model's.

    Raises :class:`ModelError` if it is larger than the format allows, or if greedy texts differ.
    """
    answer, batches = written.reload(folder), samples(model)
    own = written.compared(answering(model))
    differences = list(_differences(own, answer, batches, written.distance))
    difference = float(torch.tensor(differences).max())  # NaN if any is
    if not difference <= written.tolerance:
        raise ModelError(
            f"the {format} export gives other logits than the model: they differ by "
            f"{difference:.3g}, and {written.tolerance:g} is allowed",
            "export as shared, and report the plan and the model's class",
        )
    if written.greedy is not None and model.can_generate():
        check_greedy(model, written.greedy(folder), batches[0], written.tolerance)
    return difference


def check_greedy(
    model: PreTrainedModel, generate: Greedy, inputs: Inputs, tolerance: float
) -> None:
    """Raise :class:`ModelError` if `generate` writes other tokens than the model.

    It gets the first example of `inputs`. Where they part, both tokens must be as likely, within
    `tolerance`.
    """
    prompt, name = _prompt(model, inputs)
    begun = prompt[name].shape[1]
    text = _generated(model, prompt, int(min(_most_written(model) - begun, GREEDY_TOKENS)))
    own = text[begun:].tolist()
    found = generate(prompt, len(own))
    part = next((i for i, token in enumerate(own) if found[i : i + 1] != [token]), len(own))
    if part == len(found) >= len(own) - 1:  # the token that ends a text is not told
        return
    step = answering(model)(prompt | {name: text[None, : begun + part]})[0, -1]
    other = found[part] if part < len(found) else "none"
    gap = float(step[own[part]] - step[other]) if isinstance(other, int) else float("inf")
    if gap > tolerance:
        raise ModelError(
            f"the export writes {other} as token {part}, the model {own[part]}, whose logit is "
            f"larger by {gap:.3g}",
            "export as shared, and report the plan and the model's class",
        )


def _most_written(model: PreTrainedModel) -> float:
    """Return how many tokens the text may have that `model` writes, the prompt's among them."""
    config = model.config.get_text_config(decoder=True)
    names = ("max_target_positions", "max_position_embeddings")
    limits = (most_tokens(model), *(getattr(config, name, None) for name in names))
    return min((limit for limit in limits if limit), default=float("inf"))


def _prompt(model: PreTrainedModel, inputs: Inputs) -> tuple[Inputs, str]:
    """Return what the first example is continued from, and the name of the tokens in it.

    An encoder reads the example, and its decoder begins with the token that starts a text.
    """
    if not model.config.is_encoder_decoder:
        return {"input_ids": inputs["input_ids"][:1]}, "input_ids"
    name, settings = "decoder_input_ids", model.generation_config
    starts = (settings.decoder_start_token_id, settings.bos_token_id, 0)
    start = next(token for token in starts if token is not None)
    return {key: x[:1] for key, x in inputs.items()} | {name: torch.tensor([[start]])}, name


def _generated(model: PreTrainedModel, prompt: Inputs, most: int) -> Tensor:
    """Return the tokens that `prompt` begins with and at most `most` others, the most likely ones.

    What the model's own settings force, suppress or sample is left out.
    """
    own, start = model.generation_config, int(list(prompt.values())[-1][0, 0])
    model.generation_config = GenerationConfig(
        eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id, bos_token_id=start
    )
    settings = GenerationConfig(max_new_tokens=most, do_sample=False)
    try:
        with torch.no_grad():  # of the base class: Whisper's own cuts sound into pieces
            found: Tensor = GenerationMixin.generate(model, **prompt, generation_config=settings)
    finally:
        model.generation_config = own
    return found[0]


@dataclass(frozen=True)
class Needs:
    """Needs of a format: layers of equal width, matrices of floats, a model that shares something,
    and packages, which the extra of its name (up to a hyphen) installs."""

    equal_layers: bool = False
    floats: bool = False
    sharing: bool = False
    packages: tuple[str, ...] = ()

    def __call__(self, exporter: Exporter) -> Exporter:
        """Decorates an exporter that has these needs."""
        exporter.needs = self  # type: ignore[attr-defined]
        return exporter


def needs_of(format: str) -> Needs:
    """Return the needs of a format. Raises :class:`ConfigError` for one that is not known."""
    needs: Needs = getattr(EXPORTS[format], "needs", Needs())
    return needs


def check_packages(format: str) -> None:
    """Raise :class:`ModelError` if a package that the `format` needs is not installed."""
    missing = [name for name in needs_of(format).packages if find_spec(name) is None]
    if missing:
        extra = format.split("-")[0]
        raise ModelError(
            f"the {format} format needs {', '.join(missing)}", f"pip install 'sharetune[{extra}]'"
        )


def refuse_compressed(compression: Compression, format: str) -> None:
    """Raise :class:`ModelError` if the format cannot hold a model so compressed."""
    needs = needs_of(format)
    narrower = compression.removes_units and needs.equal_layers
    if narrower or (compression.bits is not None and needs.floats):
        what = f"{compression.bits}-bit matrices"
        what = "layers with fewer heads or neurons" if narrower else what
        raise ModelError(f"the {format} format cannot hold {what}", "export as shared")


@contextmanager
def placed(out: Path) -> Iterator[Path]:
    """Yield a folder next to `out` that becomes `out` at the end, or is removed after an error.

    Raises :class:`RunError` if `out` is a file or a folder that is not empty.
    """
    check_free(out)
    out = out.resolve()
    folder = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}", "name another folder") from None
    try:
        yield folder
        follow_umask(folder)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_free(out: Path) -> None:
    """Raise :class:`RunError` if `out` is a file or a folder that is not empty."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RunError(
            f"{out} exists already", "name a folder that does not exist, or an empty one"
        )


def answering(model: PreTrainedModel) -> Answer:
    """Return the function from inputs to logits (or hidden states) that `model` computes."""

    def answer(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            outputs = model(**inputs)
        logits: Tensor = getattr(outputs, "logits", None)
        return outputs[0] if logits is None else logits

    return answer


def _differences(
    one: Answer, other: Answer, batches: list[Inputs], distance: Distance
) -> Iterator[float]:
    """Yield the distance of each batch's logits, infinite if their shapes differ."""
    for inputs in batches:
        a, b = one(inputs).float(), other(inputs).float()
        yield distance(a, b) if a.shape == b.shape else float("inf")
