"""Every task trains a tiny model from a configuration, end to end, and refuses other data."""

import random

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image
from transformers import (
    BertConfig,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    WhisperConfig,
)

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.errors import ConfigError, DataError
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.trainers import load_shared
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import TASKS, DataFacts, read_task
from tests.families import FAMILIES, SIDES
from tests.trainers.conftest import evaluated, latency, saved

RECIPE = Recipe(steps=2, learning_rate=1e-3, batch_size=4, max_length=24)
WORDS = ["red", "green", "blue", "one", "two", "three", "fish", "bird"]


def texts(count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=5)) for _ in range(count)]


def table(folder, name="train.jsonl", **columns):
    path = folder / name
    pd.DataFrame(columns).to_json(path, orient="records", lines=True)
    return str(path)


def pictures(folder):
    for label, colour in (("dark", 10), ("light", 240)):
        (folder / label).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (12, 10), colour + i).save(folder / label / f"{i}.png")
    return str(folder)


def answers(folder):
    passages = texts(12)
    spans = [passage.split()[2] for passage in passages]
    questions = ["which is third"] * 12
    return table(folder, question=questions, context=passages, answers=spans)


def clicks(folder):
    rng = random.Random(0)
    rows = [(u, t, f"i{rng.randrange(12)}") for u in range(12) for t in range(5)]
    users, times, items = zip(*rows, strict=True)
    return table(folder, user=users, time=times, item=items)


def tones(folder, rate=1600):
    """Two labels of short tones, each a second."""
    for label, pitch in (("high", 300), ("low", 100)):
        (folder / label).mkdir(parents=True)
        for i in range(6):
            time = np.arange(rate) / rate
            sound = 0.5 * np.sin(2 * np.pi * (pitch + 5 * i) * time)
            soundfile.write(folder / label / f"{i}.wav", sound, rate)
    return str(folder)


def sayings(folder, rate=1600):
    tones(folder, rate)
    rows = [
        {"audio": path.relative_to(folder).as_posix(), "text": f"a {path.parent.name} tone"}
        for path in sorted(folder.rglob("*.wav"))
    ]
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return str(folder)


def tags(folder):
    words = [text.split() for text in texts(12)]
    marks = [["B-C" if word in WORDS[:3] else "O" for word in row] for row in words]
    return table(folder, tokens=words, tags=marks)


def scores(folder, **more):
    return table(folder, text=texts(12), pair=texts(12, 1), label=[i / 4 for i in range(12)])


def token_ids(folder):
    rows = [[2, 5 + i % 2 * 8, 3 + i] for i in range(12)]
    return table(folder, input_ids=rows, labels=[i % 2 for i in range(12)])


DATA = {
    "translation": lambda f: table(f, en=texts(12), fr=[t.upper() for t in texts(12)]),
    "text-generation": lambda f: table(f, text=texts(80)),
    "image-classification": lambda f: pictures(f / "pictures"),
    "question-answering": answers,
    "next-item-recommendation": clicks,
    "token-classification": tags,
    "text-classification": scores,
    "audio-classification": lambda f: tones(f / "tones"),
    "automatic-speech-recognition": lambda f: sayings(f / "sayings"),
    "tensors": token_ids,
}
LENGTHS = {"audio-classification": 1600, "automatic-speech-recognition": 1600}
CONFIGS_OF_FAMILIES = {name: config for name, (_, config) in FAMILIES.items()}
CONFIGS = CONFIGS_OF_FAMILIES | {
    "mbart": MBartConfig(**SIDES, max_position_embeddings=40),
    "whisper-second": WhisperConfig(
        **SIDES, num_mel_bins=8, max_source_positions=50, max_target_positions=40
    ),
    "classifier": BertConfig.from_dict(
        CONFIGS_OF_FAMILIES["bert"].to_dict() | {"architectures": ["BertForSequenceClassification"]}
    ),
}


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


CASES = [
    ("translation", "t5", {}),
    slow("translation", "marian", {}),
    slow("translation", "bart", {}),
    slow("translation", "mbart", {}),
    ("text-generation", "llama", {}),
    slow("text-generation", "gpt2", {}),
    slow("text-generation", "qwen2", {}),
    ("image-classification", "vit", {}),
    slow("image-classification", "deit", {}),
    slow("image-classification", "swin", {}),
    slow("question-answering", "distilbert", {}),
    slow("next-item-recommendation", "gpt2", {}),
    slow("token-classification", "bert", {}),
    slow("text-classification", "roberta", {"regression": True, "pair": "pair"}),
    slow("audio-classification", "hubert", {}),
    slow("audio-classification", "wav2vec2", {}),
    slow("audio-classification", "whisper-second", {"resample": True}),
    slow("automatic-speech-recognition", "wav2vec2", {}),
    slow("automatic-speech-recognition", "hubert", {}),
    ("tensors", "classifier", {}),
    slow("automatic-speech-recognition", "whisper-second", {"resample": True}),
]


def configured(folder, name, family, **keys):
    """A task over made-up data, and the folder of a tiny configuration."""
    model = folder / "config"
    model.mkdir()
    (model / "config.json").write_text(CONFIGS[family].to_json_string(use_diff=False))
    task = read_task({"name": name, "train": DATA[name](folder), **keys})
    return str(model), task


def prepared(folder, name, family, length=24, **keys):
    """An evaluator of the same."""
    return CandidateEvaluator.prepare(
        *configured(folder, name, family, **keys), folder / "cache", length
    )


def assert_made_of_sums(scores):
    """The metrics that an interval is worked out for are what the sums over parts give."""
    known = {name: OBJECTIVES[name].ratio for name in scores.metrics if OBJECTIVES[name].ratio}
    for name, ratio in known.items():
        total, count = (sum(scores.part_sums[each]) for each in (ratio.total, ratio.count))
        assert len(scores.part_sums[ratio.total]) == len(scores.part_sums[ratio.count]) > 1
        assert ratio.value(total / count) == pytest.approx(scores.metrics[name], rel=1e-3, abs=1e-4)


def test_every_task_has_a_case():
    assert {getattr(case, "values", case)[0] for case in CASES} == set(TASKS) == set(DATA)


@pytest.mark.parametrize(("name", "family", "keys"), CASES)
def test_a_task_from_a_configuration_to_its_metrics(tmp_path, name, family, keys):
    length = LENGTHS.get(name, 24)
    made = prepared(tmp_path, name, family, length, **keys)
    stack, shape = next(iter(made.stacks.items()))
    last = shape.depth - 1
    plan = SharingPlan.from_yaml(
        f"groups: [{{stack: {stack}, layers: 0..{last}, form: {{bank: {{ratio: 0.5}}}}}}]"
    )
    recipe = RECIPE.model_copy(update={"max_length": length})
    candidate = Candidate(plan=plan, recipe=recipe).bound(made.stacks)
    exact = made.sizes(candidate)
    assert exact["flops"] > 0
    found = evaluated(made, candidate, tmp_path)
    assert tuple(found.scores.metrics) == made.task.task.metrics
    assert all(isinstance(value, float) for value in found.scores.metrics.values())
    if name != "tensors":  # whose loss is known by batch alone
        assert_made_of_sums(found.scores)
    loaded = load_shared(saved(tmp_path))
    assert sum(p.numel() for p in loaded.parameters()) == exact["parameters"]


@pytest.mark.parametrize(
    ("name", "family", "read"),
    [
        slow("text-generation", "gpt2", 8),
        slow("translation", "t5", 24),
        slow("automatic-speech-recognition", "whisper-second", None),
    ],
)
def test_latency_of_writing(tmp_path, name, family, read):
    length, keys = LENGTHS.get(name, 24), {"resample": True} if read is None else {}
    made = prepared(tmp_path, name, family, length, **keys)
    recipe = RECIPE.model_copy(update={"max_length": length})
    evaluated(made, Candidate(recipe=recipe).bound(made.stacks), tmp_path)
    found = latency(made, saved(tmp_path), max_length=length, rounds=9)
    assert found["use"].startswith("generation of 16 tokens with cache")
    assert found["written_tokens"] == 16
    quiet, whole = found["quiet"], found["forms"]["stored"]["median_ms"]
    assert 0 < quiet["first_token_ms"] < whole
    rest = 15_000 / quiet["decode_tokens_per_s"]
    assert whole / 3 < quiet["first_token_ms"] + rest < 3 * whole  # another moment's clock
    if read is not None:
        speed = 1000 * read / quiet["first_token_ms"]
        assert quiet["prefill_tokens_per_s"] == pytest.approx(speed)
    assert ("prefill_tokens_per_s" in quiet) == (read is not None)


@pytest.mark.parametrize(
    ("name", "family", "forms"),
    [
        slow("text-generation", "llama", ("onnx", "code", "gguf", "gguf-q8_0")),
        slow("translation", "t5", ("onnx", "code")),
    ],
)
def test_reading_and_writing_are_timed_apart_in_each_runtime(tmp_path, name, family, forms):
    made = prepared(tmp_path, name, family)
    stack = next(reversed(made.stacks))
    half = SharingPlan.from_yaml(f"groups: [{{stack: {stack}, layers: 1..2, form: drop}}]")
    candidate = Candidate(plan=half, recipe=RECIPE).bound(made.stacks)
    evaluated(made, candidate, tmp_path)
    found = latency(made, saved(tmp_path), max_length=24, rounds=6, forms=forms)
    assert found.get("refused", {}) == {}
    assert list(found["runtimes"]) == list(forms)
    for uses in found["runtimes"].values():
        assert list(uses) == ["prefill", "decode"]
        for timed in uses.values():
            assert 0 < timed["low_ms"] <= timed["median_ms"] <= timed["high_ms"]
            assert timed["unshared_ms"] > 0
            assert timed["ratio_low"] <= timed["ratio"] <= timed["ratio_high"]


LETTERS = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
LETTERS += [(f"\u2581{word}", -1.0) for word in WORDS]


def many_languages(folder, tokenizer):
    """A tiny saved mBART with a tokenizer of many languages."""
    reader = tokenizer(vocab=LETTERS, src_lang="en_XX")
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    special |= {"decoder_start_token_id": 2}  # as mBART-50 has it
    config = MBartConfig(**SIDES | special | {"vocab_size": len(reader)})
    reader.save_pretrained(folder)
    MBartForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("tokenizer", [MBartTokenizer, MBart50Tokenizer])
def test_a_model_of_many_languages_is_told_the_target(tmp_path, tokenizer):
    model = many_languages(tmp_path / "mbart", tokenizer)
    data = DATA["translation"](tmp_path)
    task = read_task({"name": "translation", "train": data, "languages": ["de_DE", "fr_XX"]})
    task.prepare(model, tmp_path / "cache", 16)
    loaded = task.load(model, DataFacts())
    _, test = task.splits(model, tmp_path / "cache", 16)
    code = test.collate.tokenizer.convert_tokens_to_ids
    assert code("de_DE") in test.rows["input_ids"][0]
    decoders = []
    with torch.no_grad():
        loaded.model.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: decoders.append(kwargs["input_ids"][0].tolist()),
            with_kwargs=True,
        )
        texts, _ = task.predict(loaded, test)
    written, trained = [*decoders[0], *decoders[1]], decoders[-1]
    # up to the language the decoder reads the same when it writes as when it is trained
    told = written.index(code("fr_XX")) + 1
    assert written[:told] == trained[:told]
    assert len(texts) == len(test.labels)


@pytest.mark.parametrize("languages", [None, ["en_XX", "xx_XX"]])
def test_languages_that_the_tokenizer_does_not_know(tmp_path, languages):
    model = many_languages(tmp_path / "mbart", MBart50Tokenizer)
    task = read_task({"name": "translation", "train": "rows.csv", "languages": languages})
    with pytest.raises(ConfigError, match="and the model's tokenizer knows ar_AR, ") as caught:
        task.reader(model)
    assert "languages: [en_XX, fr_XX]" in caught.value.hint


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_cache_is_right_when_the_first_layers_are_dropped(family):
    from sharetune.trainers import share_
    from tests.families import tiny

    model = share_(tiny(family), SharingPlan.drop([0, 2]))
    ids = torch.tensor([[5, 6, 7, 8]])
    greedy = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    mask = torch.ones_like(ids)
    written = [
        model.generate(input_ids=ids, attention_mask=mask, use_cache=use_cache, **greedy)
        for use_cache in (True, False)
    ]
    assert torch.equal(*written)


def test_first_weights_are_the_same_for_all_candidates(tmp_path):
    made = prepared(tmp_path, "text-generation", "llama")
    one, other = (made.task.load() for _ in range(2))
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_a_recipe_that_does_not_fit_the_task(tmp_path):
    made = prepared(tmp_path, "text-generation", "llama")
    taught = Candidate(recipe=RECIPE.model_copy(update={"r_drop": 1.0})).bound(made.stacks)
    with pytest.raises(ConfigError, match="recipe.r_drop does not fit the task text-generation"):
        made.refuse([taught])


@pytest.mark.parametrize(
    ("name", "columns", "keys", "found", "needed"),
    [
        (
            "image-classification",
            {"image": ["some words"], "label": ["a"]},
            {},
            "no picture in row 1, but 'some words'",
            "paths of pictures",
        ),
        (
            "text-classification",
            {"text": [{"bytes": "x"}], "label": ["a"]},
            {},
            "has dict in the column 'text'",
            "needs a column of text",
        ),
        (
            "next-item-recommendation",
            {"user": [1], "item": [2]},
            {},
            "no time column: looked for among time, .* the table has 'user', 'item'",
            "set task.time",
        ),
        (
            "next-item-recommendation",
            {"user": [1, 1], "item": [1, 2], "time": [1, 2]},
            {},
            "no user with 3 interactions; the most is 2",
            "leave-one-out needs",
        ),
        (
            "translation",
            {"a": ["x"], "b": ["y"], "c": ["z"]},
            {},
            "has 3 columns, 'a', 'b', 'c', and a translation reads two",
            "set task.source and task.target",
        ),
        (
            "text-classification",
            {"sentence1": ["a"], "sentence2": ["b"], "label": ["x"]},
            {},
            "has two texts, 'sentence1' and 'sentence2', and task.pair names none",
            "set task.pair: sentence2",
        ),
        (
            "token-classification",
            {"tokens": [["a", "b"]], "tags": [["O"]]},
            {},
            "2 tokens and 1 tags in row 1",
            "as many tags as tokens",
        ),
        (
            "question-answering",
            {"question": ["q"], "context": ["some text"], "answers": ["other"]},
            {},
            "does not stand in its context: 'other'",
            "letter for letter",
        ),
        (
            "text-classification",
            {"text": ["a", "b"], "label": ["1", "high"]},
            {"regression": True},
            "1 rows whose label is not a number, the first 'high'",
            "needs numbers in the column 'label'",
        ),
    ],
)
def test_other_data(tmp_path, name, columns, keys, found, needed):
    path = table(tmp_path, **columns)
    with pytest.raises(DataError, match=found) as caught:
        read_task({"name": name, "train": path, **keys}).read()
    assert needed in caught.value.hint


def test_labels_are_those_of_all_training_rows(tmp_path):
    # of one label there are too few to hold one out
    rows = {"text": texts(12), "label": ["a", "b"] * 5 + ["c", "c"]}
    path = table(tmp_path, **rows)
    train, test, facts = read_task({"name": "text-classification", "train": path}).read()
    assert facts.labels == ("a", "b", "c")
    assert (len(train), sorted(test["label"])) == (10, [0, 1])


def test_too_few_rows_to_hold_any_out(tmp_path):
    path = table(tmp_path, text=texts(3), label=["a", "b", "c"])
    with pytest.raises(
        DataError, match="has 3 rows to train on, of which none can be held out"
    ) as caught:
        read_task({"name": "text-classification", "train": path}).read()
    assert caught.value.hint == "give more training data, or a file of its own"
