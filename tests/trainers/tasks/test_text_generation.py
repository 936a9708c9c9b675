"""Texts, chats and prompts as blocks: what is predicted, and what a token sees."""

import json
import math
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from sharetune.spaces import Candidate, Recipe
from sharetune.spaces.errors import ConfigError, ModelError
from sharetune.spaces.evaluator import JobResources
from sharetune.trainers.data import streams
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task
from sharetune.trainers.tasks.text_generation import _keeps_apart
from tests.families import tiny
from tests.trainers.conftest import evaluated
from tests.trainers.tasks.test_tasks import CONFIGS, RECIPE, prepared, texts

CHATS = [
    [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text.upper()},
    ]
    for text in texts(60)
]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def chatting(folder, **keys):
    """An evaluator of a tiny model with a chat template, over chats in a file."""
    said = [f"<user> {chat[0]['content']} . <assistant> {chat[1]['content']} ." for chat in CHATS]
    (folder / "said.txt").write_text("\n".join(said))
    (folder / "config").mkdir()
    (folder / "config/config.json").write_text(CONFIGS["llama"].to_json_string(use_diff=False))
    task = read_task({"name": "text-generation", "train": str(folder / "said.txt")})
    made = CandidateEvaluator.prepare(str(folder / "config"), task, folder / "cache", 24)
    model, reader = folder / "model", made.task.task.reader(made.task.start)
    reader.chat_template = TEMPLATE
    reader.save_pretrained(model)
    made.task.load().save_pretrained(model)
    data = folder / "chats.jsonl"
    data.write_text("\n".join(json.dumps({"messages": chat}) for chat in CHATS))
    task = read_task({"name": "text-generation", "train": str(data), **keys})
    return CandidateEvaluator.prepare(str(model), task, folder / "chat-cache", 24)


@pytest.mark.slow
def test_only_answers_of_chats_are_predicted(tmp_path):
    made = chatting(tmp_path, answers_only=True)
    split, _ = made.task.splits(24, None)
    reader = made.task.task.reader(made.task.start)
    seen = reader.decode([token for row in split.rows["input_ids"] for token in row])
    assert "<user>" in seen.replace(" ", "")
    labels = [token for row in split.rows["labels"] for token in row]
    answers = reader.decode([token for token in labels if token != -100])
    assert "<user>" not in answers.replace(" ", "")
    assert not any(word in answers for word in ("red", "fish", "three"))
    assert any(word in answers.replace(" ", "") for word in ("RED", "FISH", "THREE"))
    found = evaluated(made, Candidate(recipe=RECIPE).bound(made.stacks), tmp_path / "run")
    assert found.scores.metrics["perplexity"] > 1


def test_what_follows_a_prompt_is_predicted(tmp_path):
    rows = [{"question": "red fish ?", "text": text} for text in texts(80)]
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.json").write_text(CONFIGS["llama"].to_json_string(use_diff=False))
    keys = {"train": str(data), "prompt": "question", "answers_only": True}
    task = read_task({"name": "text-generation", **keys})
    made = CandidateEvaluator.prepare(str(tmp_path / "config"), task, tmp_path / "cache", 24)
    split, _ = made.task.splits(24, None)
    reader = made.task.task.reader(made.task.start)
    labels = [token for row in split.rows["labels"] for token in row if token != -100]
    assert "?" not in reader.decode(labels)
    assert sum(label == -100 for label in split.rows["labels"][0]) > 2


def test_answers_need_chats_or_prompts(tmp_path):
    with pytest.raises(ConfigError, match="task.answers_only needs answers"):
        prepared(tmp_path, "text-generation", "llama", answers_only=True)
    with pytest.raises(ConfigError, match="rows are texts or chats, but task.messages and task.te"):
        read_task({"name": "text-generation", "train": "t", "messages": "a", "text": "b"})


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_apart_do_not_see_each_other(family, attention):
    torch.manual_seed(0)
    model = tiny(family)
    model.set_attn_implementation(attention)
    model.config.use_cache = True  # as a checkpoint has it: then the library sees one text
    assert not _keeps_apart(model)
    model.config.use_cache = False
    assert _keeps_apart(model)


@pytest.mark.slow
def test_the_loss_of_documents_apart_is_that_of_each_alone(tmp_path):
    made = prepared(tmp_path, "text-generation", "llama", documents="apart")
    model = made.task.load().eval()
    split, _ = made.task.splits(24, None)
    row = split.rows[0]
    total = count = 0.0
    starts = [i for i, place in enumerate(row["position_ids"]) if place == 0] + [24]
    assert len(starts) > 2
    with torch.no_grad():
        for first, last in pairwise(starts):
            if last - first > 1:
                ids = torch.tensor([row["input_ids"][first:last]])
                total += float(model(ids, labels=ids).loss) * (last - first - 1)
                count += last - first - 1
        packed = float(model(**split.collate([row])).loss)
    assert packed == pytest.approx(total / count, abs=1e-5)
    made.rehearse(Candidate(recipe=RECIPE).bound(made.stacks), JobResources())
    found = evaluated(made, Candidate(recipe=RECIPE).bound(made.stacks), tmp_path / "run")
    nats = found.scores.metrics["eval_loss"]
    assert found.scores.metrics["perplexity"] == pytest.approx(math.exp(nats))


def test_a_model_that_cannot_keep_documents_apart_is_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 50}
    model = AutoModelForCausalLM.from_config(MambaConfig(**sizes))
    task = read_task({"name": "text-generation", "train": "t", "documents": "apart"})
    with pytest.raises(ModelError, match="lets documents of one block see each other"):
        task.refuse_model(model)
    read_task({"name": "text-generation", "train": "t"}).refuse_model(model)


def configured(folder, data, **keys):
    """An evaluator of a tiny model over a file of texts."""
    folder.mkdir()
    (folder / "config.json").write_text(CONFIGS["llama"].to_json_string(use_diff=False))
    task = read_task({"name": "text-generation", "train": str(data), **keys})
    return CandidateEvaluator.prepare(str(folder), task, folder / "cache", 24)


def ids(split):
    return [list(row) for row in split.rows["input_ids"]]


@pytest.mark.slow
def test_a_stream_makes_the_blocks_of_the_whole_table(tmp_path, monkeypatch):
    data, test = tmp_path / "train.txt", tmp_path / "test.txt"
    data.write_text("\n".join(texts(300)))
    test.write_text("\n".join(texts(40, seed=9)))
    model = configured(tmp_path / "model", data).task.start  # with a tokenizer of its own
    monkeypatch.setattr(streams, "PART_ROWS", 70)
    whole, parts = (
        CandidateEvaluator.prepare(
            model,
            read_task({"name": "text-generation", "train": str(data), "test": str(test), **keys}),
            tmp_path / name,
            24,
        )
        for name, keys in (("whole", {}), ("parts", {"stream": True}))
    )
    assert parts.rows == whole.rows == {"train": 300, "test": 40}
    for one, other in zip(whole.task.splits(24, None), parts.task.splits(24, None), strict=True):
        assert ids(one) == ids(other)
        assert [list(label) for label in one.labels] == [list(label) for label in other.labels]
    assert [*(tmp_path / "parts").glob("train-*/000003/state.json")]
    assert parts.identity["trained on"] == whole.identity["trained on"]
    wanted = Candidate(recipe=RECIPE).bound(parts.stacks)
    found = [evaluated(each, wanted, tmp_path / f"{n}") for n, each in enumerate((whole, parts))]
    assert found[0].curve == found[1].curve
    assert found[0].scores.metrics == found[1].scores.metrics


def test_a_stream_holds_rows_out_and_reads_no_further_than_asked(tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in texts(200)))
    made = configured(tmp_path / "m", data, stream=True, most_rows=100, validation=0.25)
    # every fifth of 100 for the test, every fourth of the others for validation
    assert made.rows == {"train": 60, "test": 20, "validation": 20}
    made = configured(tmp_path / "n", data, stream=True, most_rows=100, test=0.1)
    assert made.rows == {"train": 90, "test": 10}
    with pytest.raises(ConfigError, match=r"task.most_rows is 5, but task.stream is false"):
        read_task({"name": "text-generation", "train": "t", "most_rows": 5})


def test_what_a_trial_takes_is_told_by_blocks_not_by_texts(tmp_path):
    made = prepared(tmp_path, "text-generation", "llama")
    recipe = Recipe(epochs=1, batch_size=2, max_length=4)
    pace = made.rehearse(Candidate(recipe=recipe), JobResources(threads=1))
    train, judged = made.task.splits(4, None)
    assert (pace.examples, pace.judged) == (len(train.rows), len(judged.rows))
    assert pace.judged > made.rows["test"]
    assert made.steps(recipe) == math.ceil(len(train.rows) / 2)
