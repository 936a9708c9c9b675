"""Spaces: the ranges from which candidates are drawn, in Optuna's define-by-run style.

A space has templates of groups, and leaves of a recipe and of compression.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ConfigError, SharetuneError
from sharetune.spaces.leaves import (
    LEAF,
    Corner,
    Trial,
    alternatives,
    check_leaf,
    draw,
    in_step,
    is_searched,
    reference_of,
    with_numbers,
)
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.recipe import Candidate, Recipe
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.settings import StrictModel, validated
from sharetune.spaces.stack_shape import StackShape
from sharetune.spaces.template import GroupTemplate
from sharetune.spaces.texts import shown


class Space(StrictModel):
    """All candidates a study may try."""

    plan: tuple[GroupTemplate, ...] = Field(
        (), description="Templates of the plan's groups; none searches no plan."
    )
    recipe: dict[str, Any] = Field(
        {}, description="Keys of `Recipe`, each a value, a range or choices; others: its defaults."
    )
    compression: dict[str, Any] = Field(
        {},
        description="Keys of `Compression`, each a value, a range or choices; others: its "
        "defaults.",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_numbers(cls, data: object) -> Any:
        return with_numbers(data)

    @model_validator(mode="after")
    def _check(self) -> "Space":
        for name, section in SECTIONS.items():
            for key, leaf in getattr(self, name).items():
                if key not in section.model_fields:
                    raise ConfigError(
                        f"unknown key in {name}: {key!r}",
                        did_you_mean(key, [*section.model_fields]),
                    )
                check_leaf(leaf, f"{name}.{key}")
        for case in self.cases():
            for name, section in SECTIONS.items():
                _check_section(section, getattr(case, name), name)
        return self

    def cases(self) -> list["Space"]:
        """List spaces without choices that together take each one, and both ends of each range.

        Only where groups are placed is open in them. In all but the first, which has the lowest
        values, templates have as many groups as they can.
        """
        most = self.model_copy(update={"plan": tuple(t.with_most_groups() for t in self.plan)})
        return [self._cases()[0], *most._cases()]

    def _cases(self) -> list["Space"]:
        templates = [template.cases() for template in self.plan]
        sections = [alternatives(getattr(self, name)) for name in SECTIONS]
        steps = in_step([*sections, *templates])
        drawn = ((dict(zip(SECTIONS, step, strict=False)), step[len(SECTIONS) :]) for step in steps)
        return [self.model_copy(update={**values, "plan": plan}) for values, plan in drawn]

    def suggest(self, trial: Trial, stacks: Mapping[str, StackShape]) -> Candidate:
        """Draw a candidate, bound to a model with these stacks."""
        groups = [
            group
            for i, template in enumerate(self.plan)
            for group in template.suggest(trial, f"plan.{i}", stacks)
        ]
        plan = SharingPlan(groups=tuple(groups))
        compression = _drawn(Compression, self.compression, trial, "compression")
        recipe = self.suggest_recipe(trial)
        return Candidate(plan=plan, compression=compression, recipe=recipe).bound(stacks)

    def suggest_recipe(self, trial: Trial) -> Recipe:
        """Draw a recipe."""
        return _drawn(Recipe, self.recipe, trial, "recipe")

    def reference_recipe(self) -> Recipe:
        """Return the recipe of the anchors.

        Fixed values are kept. A searched key takes its default where the space allows it, else the
        middle of its range (geometric for log) or its first choice.
        """
        return _referred(Recipe, self.recipe)

    def reference_compression(self) -> Compression:
        """Return the compression of given plans, by the rule of :meth:`reference_recipe`."""
        return _referred(Compression, self.compression)

    def adopt(self, candidate: Candidate) -> Candidate:
        """Turn a candidate of another space into one of this space.

        It keeps its plan and those keys of its recipe and compression that this space searches;
        the others are as in :meth:`reference_recipe`. Raises :class:`SharetuneError` if the two do
        not go together.
        """
        recipe = _adopted(self.reference_recipe(), self.recipe, candidate.recipe)
        compression = _adopted(
            self.reference_compression(), self.compression, candidate.compression
        )
        return Candidate(plan=candidate.plan, compression=compression, recipe=recipe)

    @property
    def distils(self) -> bool:
        """Return whether any candidate may have a teacher."""
        return self.recipe.get("distill") is not None

    @property
    def sized_by_building(self) -> bool:
        """Return whether sizes of candidates may be unknown before their model is built."""
        return any(Compression(**case.compression).needs_building for case in self.cases())

    def check(self, stacks: Mapping[str, StackShape]) -> list[Candidate]:
        """Return candidates with each choice and both ends of each range of the space.

        Raises :class:`SharetuneError` if one does not fit the model.
        """
        lowest, *others = self.cases()
        highest = [case.suggest(Corner(high=True), stacks) for case in others]
        return [lowest.suggest(Corner(high=False), stacks), *highest]


SECTIONS: dict[str, type[BaseModel]] = {"recipe": Recipe, "compression": Compression}
"""Models of the space's keys that hold leaves."""

Settings = TypeVar("Settings", bound=BaseModel)


def _drawn(
    section: type[Settings], leaves: Mapping[str, object], trial: Trial, name: str
) -> Settings:
    return section(**{key: draw(leaf, trial, f"{name}.{key}") for key, leaf in leaves.items()})


def _check_section(section: type[BaseModel], values: Mapping[str, object], name: str) -> None:
    """Raise :class:`ConfigError`, with the place, if the values are no valid section."""
    try:
        validated(section, values)
    except ValidationError as error:
        raise _mistake(error, section, name) from None


def _mistake(error: ValidationError, section: type[BaseModel], name: str) -> SharetuneError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    place = ".".join([name, *map(str, first["loc"])])
    if isinstance(cause, SharetuneError):
        return ConfigError(f"{place}: {cause.message}", cause.hint)
    if first["type"] == "extra_forbidden":
        known = list(section.model_fields)
        for step in first["loc"][:-1]:
            known = _fields(section.model_fields[str(step)].annotation) or known
        return ConfigError(f"{place}: unknown key", did_you_mean(str(first["loc"][-1]), known))
    return ConfigError(f"{place}: {first['msg'].lower()}, but got {shown(first['input'])}", LEAF)


def _fields(annotation: object) -> list[str]:
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    return list(models[0].model_fields) if models else []


def _referred(section: type[Settings], leaves: Mapping[str, object]) -> Settings:
    fields = section.model_fields
    return section(**{key: reference_of(leaf, fields[key].default) for key, leaf in leaves.items()})


def _adopted(reference: Settings, leaves: Mapping[str, object], other: Settings) -> Settings:
    searched = {key: getattr(other, key) for key, leaf in leaves.items() if is_searched(leaf)}
    return type(reference).model_validate({**dict(reference), **searched})
