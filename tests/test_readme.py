"""What the README and the examples say is true."""

import ast
import re

import pytest
import yaml
from typer.testing import CliRunner

from sharetune.search.commands.cli import app
from sharetune.search.config import load_config, validate
from sharetune.spaces import SharingPlan
from tests.paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def test_the_study_is_a_study():
    (study,) = [text for text in blocks("yaml") if "space:" in text]
    assert validate(yaml.safe_load(study) | {"name": "readme"}, "README").budget.trials == 40


def test_the_plan_is_a_plan():
    (plan,) = [text for text in blocks("yaml") if text.startswith("groups:")]
    assert str(SharingPlan.from_yaml(plan)) == "1..4 bank 0.7 attention+ffn from mean"


def test_the_python_lines_name_things_that_exist():
    from sharetune import trainers

    (code,) = blocks("python")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "trainers":
            assert all(hasattr(trainers, alias.name) for alias in node.names)


def test_make_knows_the_commands():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for command in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.M):
        assert command in targets


def test_the_commands_and_options_exist():
    (usage,) = re.findall(r"```\n(sharetune search.*?)```", README, re.S)
    for line in usage.strip().split("\n"):
        command, *rest = line.removeprefix("sharetune ").split("#")[0].split()
        help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        for option in re.findall(r"--\w+", " ".join(rest)):
            assert option in help_text, (command, option)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "study", sorted(ROOT.glob("examples/*/study.yaml")), ids=lambda p: p.parent.name
)
def test_examples_are_studies(study):
    assert load_config(study).space.plan
