"""The repository installs in every way that people install it, and what is installed searches."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.checkpoint import write_study_data
from tests.paths import ROOT

ROOMS = ("search", "results", "trainers", "spaces")
OURS = ("sharetune", "__editable__")
SPACES = ("spaces==0.51.3", "httpx==0.28.1", "httpcore==1.0.9")
"""Hugging Face's package, and what it imports that is not installed here."""
STUDY = {
    "model": "model",
    "task": {"name": "text-classification", "train": "train.csv", "test": "test.csv"},
    "executor": "local",
    "budget": {"trials": 2},
    "latency": {"rounds": 1},
    "space": {"plan": [{"layers": "0..-1"}], "recipe": {"steps": 2, "max_length": 8}},
}


def test_every_room_is_installed():
    """A room that is not named is missing from the wheel, though an editable install has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    found = [path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
    names = [f"sharetune.{'.'.join(path.relative_to(ROOT).parts)}" for path in found]
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(["sharetune", *names])


def test_every_folder_with_code_is_a_room():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_the_links_lead_to_the_folders():
    for room in ROOMS:
        assert os.readlink(ROOT / "sharetune" / room) == f"../{room}"


RENAMED = {"huggingface-hub": "huggingface_hub", "ray[tune]": "ray-tune", "torch": "pytorch"}
"""Names of packages that conda has under another one."""


def test_the_conda_recipe_needs_what_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text("utf-8"))
    needed = [re.fullmatch(r"([^>]+)(>=.+)", line).groups() for line in project["dependencies"]]
    wanted = [f"python {project['requires-python']}"]
    wanted += [f"{RENAMED.get(name, name)} {least}" for name, least in needed]
    assert recipe["requirements"]["run"] == wanted


def test_the_version_is_known_where_there_is_no_git():
    """A tar or zip of the repository has no tags; containers and recipes name the same one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    fallback = project["tool"]["setuptools_scm"]["fallback_version"]
    assert project["project"]["dynamic"] == ["version"]
    assert f"## {fallback}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    for name in ("Containerfile", "conda/recipe.yaml"):
        assert fallback in (ROOT / "packaging" / name).read_text("utf-8")


def test_citation_and_forms_are_yaml():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["title"].startswith("ShareTune: ") and citation["license"] == "Apache-2.0"
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    read = [yaml.safe_load(path.read_text("utf-8")) for path in forms]
    assert [form["name"] for form in read if "name" in form] == [
        "Something is wrong",
        "Something is missing",
    ]


class Environment:
    """A fresh environment that sees the libraries installed here, but not this project."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder / "venv", str(folder / "venv/bin/python")
        libraries = folder / "libraries/site-packages"  # dill tells libraries by that name
        libraries.mkdir(parents=True)
        for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
            if not path.name.startswith(OURS):
                (libraries / path.name).symlink_to(path)
        venv.create(self.folder)
        (site,) = self.folder.glob("lib/python*/site-packages")
        (site / "libraries.pth").write_text(f"{libraries}\n")

    def install(self, *what: object) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "-q"]
        self.call(*pip, "--no-deps", "--no-index", "--no-build-isolation", *what)

    def call(self, *command: object, cwd: Path | None = None) -> str:
        """Run a command without this checkout on its path; return what it printed."""
        environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture()
def environment(tmp_path):
    return Environment(tmp_path / "environment")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """This repository's files as git would hand them out, links as links."""
    copy = tmp_path_factory.mktemp("checkout") / "sharetune-0.1.0"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def backend(checkout: Path, hook: str, out: Path) -> Path:
    code = f"import setuptools.build_meta as backend; print(backend.{hook}({str(out)!r}))"
    out.mkdir()
    copy = shutil.copytree(checkout, out / checkout.name, symlinks=True)
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def wheel(checkout: Path, out: Path) -> tuple[str | Path, ...]:
    return (backend(checkout, "build_wheel", out),)


def sdist(checkout: Path, out: Path) -> tuple[str | Path, ...]:
    return (backend(checkout, "build_sdist", out),)


def editable(checkout: Path, out: Path) -> tuple[str | Path, ...]:
    return ("-e", shutil.copytree(checkout, out, symlinks=True))


def tar(checkout: Path, out: Path) -> tuple[str | Path, ...]:
    out.mkdir()
    with tarfile.open(out / "repository.tar.gz", "w:gz") as archive:
        archive.add(checkout, checkout.name)
    return (out / "repository.tar.gz",)


def zipped(checkout: Path, out: Path) -> tuple[str | Path, ...]:
    """As pip unpacks a zip of git's: its links are text files that hold where they lead."""
    out.mkdir()
    with zipfile.ZipFile(out / "repository.zip", "w") as archive:
        for path in sorted(checkout.rglob("*")):
            name = f"{checkout.name}/{path.relative_to(checkout)}"
            if path.is_symlink():
                archive.writestr(name, os.readlink(path))
            elif path.is_file():
                archive.write(path, name)
    return (out / "repository.zip",)


def search_two_trials(environment: Environment, folder: Path) -> None:
    folder.mkdir()
    write_study_data(folder, 30)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    command = environment.folder / "bin/sharetune"
    environment.call(command, "search", "study.yaml", "--out", "run", cwd=folder)
    written = environment.call(command, "report", "run", "--json", cwd=folder)
    (study,) = json.loads(written)["studies"]
    assert [trial["state"] for trial in study["trials"]] == ["COMPLETE", "COMPLETE"]
    assert (folder / "run/report.html").stat().st_size > 500_000


@pytest.mark.slow
@pytest.mark.parametrize("way", [wheel, sdist, editable, tar, zipped])
def test_an_installation_lists_and_searches(way, checkout, environment, tmp_path):
    environment.install(*way(checkout, tmp_path / "source"))
    where = environment.call(
        environment.python, "-c", "import sharetune; print(sharetune.__file__)"
    )
    home = tmp_path / "source" if way is editable else environment.folder
    assert Path(where.strip()).is_relative_to(home)
    listed = environment.call(environment.folder / "bin/sharetune", "list")
    assert "albert-all" in listed and "lowrank" in listed and "text-classification" in listed
    search_two_trials(environment, tmp_path / "study")


@pytest.mark.slow
def test_a_wheel_and_a_source_archive_pass_twine(checkout, tmp_path):
    pytest.importorskip("twine")
    built = [*wheel(checkout, tmp_path / "wheel"), *sdist(checkout, tmp_path / "sdist")]
    files = [str(path) for path in built if str(path).endswith((".whl", ".gz"))]
    assert len(files) == 2
    check = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_an_uninstalled_checkout_runs_the_tests(checkout, environment):
    absent = "import importlib.metadata as m; print([d.name for d in m.distributions()])"
    names = ast.literal_eval(environment.call(environment.python, "-c", absent))
    assert "pytest" in names and "sharetune" not in names
    tests = ("tests/spaces/test_plan.py", "tests/results/judging/test_front.py")
    command = [environment.python, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    assert " passed in " in environment.call(*command, cwd=checkout)
    assert "albert-all" in environment.call(
        environment.python, "-m", "sharetune", "list", cwd=checkout
    )


@pytest.mark.slow
def test_hugging_face_s_spaces_can_be_imported_with_it(checkout, environment, tmp_path):
    folder = tmp_path / "downloaded"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *SPACES, "-d", str(folder)]
    if subprocess.run(pip, capture_output=True, timeout=120).returncode:
        pytest.skip(f"{SPACES[0]} cannot be downloaded here")
    environment.install(*wheel(checkout, tmp_path / "source"), *folder.iterdir())
    code = """
import sharetune.spaces, spaces
from sharetune import SharingPlan, search, share_
print(spaces.GPU.__module__, sharetune.spaces.SharingPlan is SharingPlan, share_.__module__)
"""
    printed = environment.call(environment.python, "-c", code).split()
    assert printed == ["spaces.zero.decorator", "True", "sharetune.trainers.models.sharing"]
