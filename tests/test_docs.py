"""The pages under docs: links lead somewhere, and the reference is what the code says."""

import importlib.util
import re
import subprocess
import sys
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from sharetune.search.commands.cli import app
from sharetune.search.config import StudyConfig
from sharetune.search.study_file import validate
from sharetune.spaces.adversaries import ADVERSARIES
from sharetune.spaces.forms import FORMS
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.template import Region
from sharetune.trainers.tasks.base import TASKS
from tests.paths import ROOT

DOCS = ROOT / "docs"
WRITTEN = "import reference, sys; sys.stdout.buffer.write(reference.reference().encode())"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http", "#")):
            assert (DOCS / target.split("#")[0]).exists(), target


@pytest.mark.slow
def test_the_reference_is_up_to_date():
    """In a process of its own, where no other test has registered anything."""
    done = subprocess.run([sys.executable, "-c", WRITTEN], cwd=DOCS, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    same = done.stdout.decode() == (DOCS / "reference.md").read_text("utf-8")
    assert same, "run python docs/reference.py"


def test_the_drawings_are_up_to_date():
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    sys.modules["pictures"] = pictures  # where dataclasses look for it
    spec.loader.exec_module(pictures)
    for name in pictures.GALLERIES:
        same = pictures.gallery(name) == (DOCS / "pictures" / f"{name}.svg").read_text("utf-8")
        assert same, "run python docs/pictures.py"


def sections(annotation):
    """The models that an annotation names, and those that their fields name."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {model for part in get_args(annotation) for model in sections(part)}
    fields = annotation.model_fields.values()
    return {annotation, *(model for field in fields for model in sections(field.annotation))}


def test_every_configuration_field_has_a_description():
    roots = (StudyConfig, Region, Candidate, *FORMS.values(), *ADVERSARIES.values())
    found = {model for root in (*roots, *TASKS.values()) for model in sections(root)}
    undescribed = [
        f"{model.__name__}.{name}"
        for model in found
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert not undescribed
    assert {"Recipe", "Stagnation", "Group", "Distillation"} <= {model.__name__ for model in found}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_commands_have_the_options_they_are_given(page):
    for line in re.findall(r"^sharetune .*", "\n".join(blocks(page, "sh")), re.M):
        _, command, *words = line.split("#")[0].split()
        text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        for option in (word for word in words if word.startswith("--")):
            assert option in text, line


def test_the_how_to_writes_a_study():
    study = {"name": "how-to", "model": "MODEL", "task": {"name": "text-classification"}}
    for text in blocks(DOCS / "plan-search.md", "yaml"):
        study |= yaml.safe_load(text)
    found = validate(study, "plan-search.md")
    assert (found.budget.trials, len(found.plans), found.finalists.longer) == (60, 2, 4.0)
