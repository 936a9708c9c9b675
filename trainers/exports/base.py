"""Writes a shared model for others to load, and loads it again before it is called written.

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
from sharetune.trainers.exports.samples import Inputs, samples
from sharetune.trainers.models.shared_model import SharedModel

Answer = Callable[[Inputs], Tensor]
"""Logits of a model for named inputs; hidden states of a model without a head."""

FOLDER = "FOLDER"


@dataclass(frozen=True)
class Written:
    """What a format tells of the model it wrote into a folder.

    `reload` makes a fresh model from that folder. `load` is Python that does so, with `FOLDER`
    in double quotes for the folder's name. Logits may differ by `tolerance` at most. `note` says
    in one sentence what a user should know; empty for nothing.
    """

    reload: Callable[[Path], Answer]
    load: str
    tolerance: float
    note: str = ""


@dataclass(frozen=True)
class Exported:
    """A model that was written, loaded again and compared: the largest difference of its logits,
    the size of its files in bytes, and the format's note."""

    difference: float
    size: int
    note: str
    _load: str

    def load(self, folder: str | Path) -> str:
        """Python lines that load the model from `folder`."""
        return self._load.replace(FOLDER, json.dumps(str(folder))[1:-1])

    def summary(self, folder: str | Path) -> str:
        """One sentence for people, and the note."""
        return (
            f"wrote {folder}, {self.size / 1e6:,.1f} MB; loaded again, its logits differ by "
            f"{self.difference:.2g} at most. {self.note}"
        ).rstrip()


Exporter = Callable[[PreTrainedModel, Path], Written]
EXPORTS: Registry[Exporter] = Registry("export format", package="sharetune.trainers.exports")


def export(model: PreTrainedModel, out: Path, format: str = "shared") -> Exported:
    """Writes `model` into the folder `out`, which must not exist or be empty.

    Raises :class:`ModelError` if the format cannot hold the model or gives other logits, and
    :class:`RunError` if `out` is taken. Nothing is left of `out` then.
    """
    with placed(out) as folder:
        return write(model, folder, format)


def write(model: PreTrainedModel, folder: Path, format: str) -> Exported:
    """Writes `model` into the existing `folder` and compares the logits of what is loaded
    from there. Raises :class:`ModelError` as :func:`export` does.
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
    """What a format needs of a model: layers of equal width, matrices of floats."""

    equal_layers: bool = False
    floats: bool = False

    def __call__(self, exporter: Exporter) -> Exporter:
        """Decorates an exporter that has these needs."""
        exporter.needs = self  # type: ignore[attr-defined]
        return exporter


def refuse_compressed(compression: Compression, format: str) -> None:
    """Raises :class:`ModelError` if the format cannot hold what compression makes of a model."""
    needs: Needs = getattr(EXPORTS[format], "needs", Needs())
    narrower = compression.removes_units and needs.equal_layers
    if narrower or (compression.eight_bits and needs.floats):
        what = "layers with fewer heads or neurons" if narrower else "8-bit matrices"
        raise ModelError(f"the {format} format cannot hold {what}", "export as shared")


@contextmanager
def placed(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end, or vanishes after an error.

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
    """Raises :class:`RunError` if `out` is a file or a folder that is not empty."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RunError(
            f"{out} exists already", "name a folder that does not exist, or an empty one"
        )


def answering(model: PreTrainedModel) -> Answer:
    """The function from inputs to logits that `model` is."""

    def answer(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            outputs = model(**inputs)
        logits: Tensor = getattr(outputs, "logits", None)
        return outputs[0] if logits is None else logits

    return answer


def _difference(one: Answer, other: Answer, batches: list[Inputs]) -> float:
    """The largest over all batches; NaN if any logit is NaN, infinite for another shape."""
    differences = []
    for inputs in batches:
        a, b = one(inputs).float(), other(inputs).float()
        if a.shape != b.shape:
            return float("inf")
        differences.append((a - b).abs().max())
    return float(torch.stack(differences).max())
