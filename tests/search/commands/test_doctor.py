"""`doctor`, `--version`, defaults in `--help` and `list presets`, as they are printed."""

from typer.testing import CliRunner

from sharetune.search.commands import doctor
from sharetune.search.commands.cli import app


def call(*words):
    result = CliRunner().invoke(app, words, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_doctor_says_what_is_here(tmp_path):
    lines = call("doctor", "--out", str(tmp_path / "not/there/yet")).splitlines()
    said = {line[:14].strip(): line[14:] for line in lines}
    assert {"sharetune", "python", "torch", "ray", "processors", "GPUs", "free disk"} <= set(said)
    assert said["optuna"][0].isdigit()
    assert str(tmp_path) in said["free disk"] and " GiB of " in said["free disk"]
    assert " GiB of " in said["free memory"]


def test_missing_packages_of_an_extra_are_named(monkeypatch):
    wanted = ["torch>=2.8", "ray-not-there>=1; extra == 'cluster'", "numpy; extra == 'fast'"]
    monkeypatch.setattr(doctor, "requires", lambda name: [*wanted, "mypy; extra == 'dev'"])
    assert doctor.missing_of_extras() == {"cluster": ["ray-not-there"], "fast": []}


def test_the_version():
    assert call("--version") == f"sharetune {doctor.own_version()}\n"


def test_help_has_defaults():
    text = call("search", "--help")
    assert "[default: (runs/NAME)]" in text
    assert "[default: (workers on this machine)]" in text


def test_presets_say_how_they_differ():
    lines = call("list", "presets").splitlines()
    assert any(
        line.startswith("cycle-rev ") and "0 1 2 2 1 0 for six layers" in line for line in lines
    )
    assert len({line.split(None, 1)[1] for line in lines}) == len(lines) == 8
