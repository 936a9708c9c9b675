"""Make sharing plans, draw them, compare them, and count what they store: one line each.

>>> from sharetune import draw, plans, share                           # doctest: +SKIP
>>> draw(plans.bank("1..4", 0.7), model)                               # doctest: +SKIP
>>> plans.compare("albert-all", plans.drop("2..3"), model)             # doctest: +SKIP
>>> smaller = share(model, "sandwich")                                 # doctest: +SKIP
"""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from transformers import PreTrainedModel

from sharetune.results.page.plan_drawing import draw_layers
from sharetune.search.commands.show import plan_sizes
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.layer_map import layer_map
from sharetune.spaces.layer_text import layers_as_text, unchanged_text
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.plan import presets as preset_names
from sharetune.spaces.settings import read_settings
from sharetune.spaces.stack_shape import lacking_parts
from sharetune.trainers.models.pretrained import COUNTED, ByArchitecture, skeleton
from sharetune.trainers.models.sharing import share_
from sharetune.trainers.models.structure import places_in_lists, stack_shapes

AnyPlan: TypeAlias = SharingPlan | Mapping[str, Any] | Path | str
"""A plan, its keys, its YAML text, a file that holds it, or a preset's name."""

AnyModel: TypeAlias = PreTrainedModel | Path | str
"""A model in memory, a folder, or a hub name."""

Layers: TypeAlias = str | int | Sequence[int]
"""Layers as a plan names them: ``1..4``, ``all``, a number or several."""

TOKENS = 32
"""Tokens of the forward pass whose FLOPs are counted, where nothing else is said."""


def read(plan: AnyPlan) -> SharingPlan:
    """Return the plan that `plan` is or names.

    Raises :class:`PlanError` or :class:`ConfigError` for anything else.
    """
    try:
        if isinstance(plan, SharingPlan):
            return plan
        if isinstance(plan, Mapping):
            return read_settings(SharingPlan, dict(plan), "the plan")
        text = os.fspath(plan)
        if text in preset_names():
            return SharingPlan.preset(text)
        if ("groups" in text and "\n" in text) or text.lstrip().startswith("{"):
            return SharingPlan.from_yaml(text)
        return SharingPlan.load(Path(text)) if Path(text).exists() else SharingPlan.preset(text)
    except TypeError:
        raise ConfigError(
            f"a plan is a SharingPlan, a mapping, a file or a preset, but got {plan!r}",
            f"presets: {', '.join(preset_names())}",
        ) from None


def preset(name: str) -> SharingPlan:
    """Return a plan of the literature by its name. Raises :class:`PlanError` for others."""
    return SharingPlan.preset(name)


def tie(layers: Layers = "all", **group: Any) -> SharingPlan:
    """Plan that `layers` read one set of weights. `group` are further keys of the group."""
    return _one_group(layers, "tie", group)


def bank(layers: Layers, ratio: float, **group: Any) -> SharingPlan:
    """Plan that `layers` read the fraction `ratio` (0..1) of heads and neurons from one bank."""
    return _one_group(layers, {"bank": {"ratio": ratio}}, group)


def drop(layers: Layers, **group: Any) -> SharingPlan:
    """Plan to remove `layers`."""
    return _one_group(layers, "drop", group)


def narrow(layers: Layers, keep: float, **group: Any) -> SharingPlan:
    """Plan that `layers` keep the fraction `keep` (0..1) of their heads and neurons."""
    return _one_group(layers, {"narrow": {"keep": keep}}, group)


def join(*parts: AnyPlan) -> SharingPlan:
    """Plan all groups of several plans at once. Raises :class:`ConfigError` if they overlap."""
    groups = [group for part in parts for group in read(part).written()["groups"]]
    return read({"groups": groups})


def _one_group(layers: Layers, form: Any, group: Mapping[str, Any]) -> SharingPlan:
    given = [layers] if isinstance(layers, int) else layers
    listed = given if isinstance(given, str) else list(given)
    return read({"groups": [{"layers": listed, "form": form, **group}]})


def count(plan: AnyPlan, model: AnyModel, tokens: int = TOKENS) -> dict[str, float]:
    """Return what a plan stores and computes on a model, by name; nothing is loaded or trained.

    The names: parameters, stack_parameters, bytes, flops (of a forward pass of one example of
    `tokens`), effective_ratio (0..1), cache_bytes (of such an example's keys and values; 0 for an
    encoder). Raises :class:`PlanError` if the plan does not fit, and :class:`ConfigError` for more
    tokens than the model reads.
    """
    return plan_sizes(_shell(model), [read(plan)], tokens)[1]


def compare(one: AnyPlan, other: AnyPlan, model: AnyModel, tokens: int = TOKENS) -> "Drawing":
    """Draw two plans on a model, one below the other, with what each stores and computes."""
    return draw(one, model, other, tokens=tokens)


def share(model: PreTrainedModel, plan: AnyPlan) -> PreTrainedModel:
    """Return a copy of `model` that shares its weights by `plan`; `model` stays as it is.

    :func:`sharetune.share_` changes a model in place. Raises :class:`PlanError` if the plan does
    not fit, and :class:`ModelError` for a model that is shared already.
    """
    return share_(copy.deepcopy(model), read(plan))


@dataclass(frozen=True)
class Drawing:
    """Plans drawn on a model's layers, with a table of what they store.

    In a notebook it shows as pictures, printed as text. `sizes` has a row for each plan and for
    the unshared model. `unchanged` says which parts no plan changes.
    """

    titles: tuple[str, ...]
    pictures: tuple[str, ...]
    texts: tuple[str, ...]
    sizes: pd.DataFrame
    unchanged: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{title}\n{text}" for title, text in zip(self.titles, self.texts, strict=True)]
        return "\n\n".join([*parts, *self.unchanged, self.sizes.to_string()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        shown = [
            f"<p>{escape(title)}</p>{picture}"
            for title, picture in zip(self.titles, self.pictures, strict=True)
        ]
        shown += [f"<p>{escape(text)}</p>" for text in self.unchanged]
        return f"<div>{''.join(shown)}{self.sizes.to_html()}</div>"


def draw(plan: AnyPlan, model: AnyModel, *others: AnyPlan, tokens: int = TOKENS) -> Drawing:
    """Draw one plan or several on a model's layers, with what each stores and computes.

    `model` is a model in memory, a folder or a hub name, of which only the configuration is read;
    `tokens` are those of the forward pass whose FLOPs are counted. Raises :class:`PlanError` for
    a plan that does not fit.
    """
    shell = _shell(model)
    shapes = stack_shapes(shell)
    depths = {name: shape.depth for name, shape in shapes.items()}
    places = places_in_lists(shell)
    bound = [read(each).bound(shapes) for each in (plan, *others)]
    counted = plan_sizes(shell, bound, tokens)
    rows = dict(zip(["unshared", *map(str, bound)], counted, strict=True))
    return Drawing(
        tuple(map(str, bound)),
        tuple(draw_layers(layer_map(each, depths)) for each in bound),
        tuple(layers_as_text(each, depths, places) for each in bound),
        _table(rows),
        tuple(unchanged_text(lacking_parts(shapes))),
    )


def _table(rows: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    names = ("parameters", "stack_parameters", "bytes", "flops", "effective_ratio")
    frame = pd.DataFrame({plan: {n: row[n] for n in names} for plan, row in rows.items()}).T
    frame["of_unshared"] = frame["parameters"] / frame["parameters"].iloc[0]
    whole = ["parameters", "stack_parameters", "bytes", "flops"]
    return frame.astype(dict.fromkeys(whole, "int64")).round(3)


def _shell(model: AnyModel) -> PreTrainedModel:
    """Return the model's architecture on the meta device."""
    if isinstance(model, str | Path):
        return skeleton(ByArchitecture(), str(model))
    import torch

    with torch.device("meta"):
        config = copy.deepcopy(model.config)
        shell: PreTrainedModel = type(model)._from_config(config, **COUNTED)
    return shell.eval()
