"""Write a shared model in a format, load it again, and compare its logits.

A new format is one file here with one function registered in `EXPORTS`.

>>> export(load_shared("runs/bbc-news/trials/7/model"), Path("small"), "dense")  # doctest: +SKIP
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ModelError, RunError
from sharetune.spaces.registry import Registry
from sharetune.trainers.models.sample_inputs import Inputs, samples
from sharetune.trainers.models.shared_model import SharedModel

Answer = Callable[[Inputs], Tensor]
"""A function from named inputs to logits, or to hidden states for a model without a head."""

FOLDER = "FOLDER"
"""The placeholder for the folder's name in `Written.load`."""


@dataclass(frozen=True)
class Written:
    """A model that an exporter wrote into a folder.

    `reload` loads it anew from that folder. `load` is Python code that does so, with `FOLDER` in
    double quotes for the folder's name. Logits may differ by `tolerance` at most. `note` is one
    sentence for the user; empty for none.
    """

    reload: Callable[[Path], Answer]
    load: str
    tolerance: float
    note: str = ""


@dataclass(frozen=True)
class Exported:
    """A model that was written, loaded again and compared.

    `difference` is the largest of its logits, `size` the bytes of its files, `note` the format's.
    """

    difference: float
    size: int
    note: str
    _load: str

    def load(self, folder: str | Path) -> str:
        """Return Python lines that load the model from `folder`."""
        return self._load.replace(FOLDER, json.dumps(str(folder))[1:-1])

    def summary(self, folder: str | Path) -> str:
        """Return one sentence for people, and the note."""
        return (
            f"wrote {folder}, {self.size / 1e6:,.1f} MB; loaded again, its logits differ by "
            f"{self.difference:.2g} at most. {self.note}"
        ).rstrip()


Exporter = Callable[[PreTrainedModel, Path], Written]
"""``(model, folder) -> what was written``."""

EXPORTS: Registry[Exporter] = Registry("export format", package="sharetune.trainers.exports")
"""Exporters by the name of their format."""


def export(model: PreTrainedModel, out: Path, format: str = "shared") -> Exported:
    """Write `model` into the folder `out`, which must not exist or be empty.

    Raises :class:`ModelError` if the format cannot hold the model or changes its logits, and
    :class:`RunError` if `out` is not free. Then nothing is left of `out`.
    """
    with placed(out) as folder:
        return write(model, folder, format)


def write(model: PreTrainedModel, folder: Path, format: str) -> Exported:
    """Write `model` into the existing `folder`, load it from there, and compare logits.

    Raises :class:`ModelError` as :func:`export` does.
    """
    exporter = EXPORTS[format]
    if isinstance(model, SharedModel):
        refuse_compressed(model.sharing.compression, format)
    written = exporter(model.eval(), folder)
    difference = _difference(answering(model), written.reload(folder), samples(model))
    if not difference <= written.tolerance:
        raise ModelError(
            f"the {format} export gives other logits than the model: they differ by "
            f"{difference:.3g}, and {written.tolerance:g} is allowed",
            "export as shared, and report the plan and the model's class",
        )
    return Exported(
        difference=difference,
        size=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        note=written.note,
        _load=written.load,
    )


@dataclass(frozen=True)
class Needs:
    """Needs of a format: layers of equal width, matrices of floats."""

    equal_layers: bool = False
    floats: bool = False

    def __call__(self, exporter: Exporter) -> Exporter:
        """Decorates an exporter that has these needs."""
        exporter.needs = self  # type: ignore[attr-defined]
        return exporter


def refuse_compressed(compression: Compression, format: str) -> None:
    """Raise :class:`ModelError` if the format cannot hold a model so compressed."""
    needs: Needs = getattr(EXPORTS[format], "needs", Needs())
    narrower = compression.removes_units and needs.equal_layers
    if narrower or (compression.eight_bits and needs.floats):
        what = "layers with fewer heads or neurons" if narrower else "8-bit matrices"
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


def _difference(one: Answer, other: Answer, batches: list[Inputs]) -> float:
    """Return the largest absolute difference of logits over all batches.

    NaN if any logit is NaN, infinite if shapes differ.
    """
    differences = []
    for inputs in batches:
        a, b = one(inputs).float(), other(inputs).float()
        if a.shape != b.shape:
            return float("inf")
        differences.append((a - b).abs().max())
    return float(torch.stack(differences).max())
