"""A tokenizer that does not fit the model or the texts is refused; padding is agreed on."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ByT5Tokenizer,
    CanineConfig,
    CanineModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

from sharetune.spaces.errors import ConfigError, DataError, ModelError
from sharetune.trainers.data.reader_fit import padding_token, refuse_too_short
from sharetune.trainers.tasks.base import read_task

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(20))]
ALL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = SIZES | {"intermediate_size": 32, "vocab_size": len(WORDS), "max_position_embeddings": 32}
T5 = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": len(WORDS), "n_positions": 32}


def tokenizer(words=WORDS, **special):
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, **(special or ALL))


def saved(folder, model, reader=None):
    torch.manual_seed(0)
    model.save_pretrained(folder)
    if reader is not None:
        reader.save_pretrained(folder)
    return str(folder)


def bert(folder, reader=None, **changes):
    return saved(folder, BertModel(BertConfig(**BERT | changes)), reader)


def rows(folder, *given):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given), "utf-8")
    return str(path)


def prepared(folder, model, *given, name="text-classification", length=12, **keys):
    """The task of these rows, ready for `model`."""
    file = rows(folder, *given)
    task = read_task({"name": name, "train": file, "test": file, **keys})
    return task.prepare(model, folder / "cache", length)


LABELLED = [{"text": f"w{i} w{i + 1}", "label": "ab"[i % 2]} for i in range(8)]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="are unknown to the model's tokenizer, which has 5 tok"):
        prepared(tmp_path, bert(tmp_path / "m"), *LABELLED)


@pytest.mark.parametrize("name", ["text-classification", "text-generation"])
def test_a_tokenizer_that_reads_nothing_is_refused(tmp_path, name):
    model = saved(tmp_path / "m", GPT2LMHeadModel(GPT2Config(**GPT2)))
    with pytest.raises(DataError, match="are nothing to the model's tokenizer") as caught:
        prepared(tmp_path, model, *LABELLED, name=name)
    assert caught.value.hint.startswith("save the tokenizer that the model was trained with")


def test_a_tokenizer_of_another_language_is_refused(tmp_path):
    other = [{"text": "das ist w1", "label": "a"}, {"text": "und das", "label": "b"}]
    with pytest.raises(DataError, match="most of the texts in .*rows.jsonl are unknown"):
        prepared(tmp_path, bert(tmp_path / "m", tokenizer()), *other)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path):
    model = bert(tmp_path / "m", tokenizer(), vocab_size=12)
    with pytest.raises(ModelError, match="embeds 12 tokens, and its tokenizer has 24, among them"):
        prepared(tmp_path, model, *LABELLED)


def test_special_tokens_beyond_the_vocabulary_are_none_that_texts_use(tmp_path):
    reader = tokenizer()
    reader.add_special_tokens({"mask_token": "[MASK]"})  # as BART's, which its config leaves out
    assert prepared(tmp_path, bert(tmp_path / "m", reader), *LABELLED).rows["train"] == 8


@pytest.mark.slow
def test_a_model_that_embeds_letters_has_no_vocabulary_to_fit(tmp_path):
    sizes = SIZES | {"intermediate_size": 32, "num_hash_buckets": 64, "num_hash_functions": 2}
    model = saved(tmp_path / "m", CanineModel(CanineConfig(**sizes)))
    assert prepared(tmp_path, model, *LABELLED).rows["train"] == 8


@pytest.mark.parametrize(
    ("special", "config", "padding"),
    [
        ({"eos_token": "[SEP]"}, {}, 3),  # GPT-2: the end of a text
        ({"pad_token": "[PAD]", "eos_token": "[SEP]"}, {}, 0),  # Llama 3, Qwen
        ({"pad_token": "[PAD]"}, {"pad_token_id": 5}, 5),  # the model's is kept
        ({"pad_token": "[PAD]"}, {"pad_token_id": -1}, 0),
        ({"pad_token": "[PAD]"}, {"pad_token_id": 99}, 0),
        ({"pad_token": "[NEW]", "eos_token": "[SEP]"}, {}, 3),  # beyond the embeddings
    ],
)
def test_tokenizer_and_model_pad_with_the_same_token(tmp_path, special, config, padding):
    model = GPT2LMHeadModel(GPT2Config(**GPT2, **config))
    folder = saved(tmp_path / "m", model, tokenizer(unk_token="[UNK]", **special))
    made = prepared(tmp_path, folder, *LABELLED, {"text": "w1", "label": "a"})
    split, _ = made.splits(12, None)
    batch = split.collate([split.rows[i] for i in range(9)])
    assert batch["input_ids"][8].tolist() == [2, 5, 3, padding]
    loaded = made.load()
    assert loaded.config.pad_token_id == made.skeleton.config.pad_token_id == padding
    alone = loaded(**split.collate([split.rows[8]])).logits[0]
    torch.testing.assert_close(loaded(**batch).logits[8], alone)


def test_a_model_without_any_token_to_pad_with_is_refused(tmp_path):
    reader = tokenizer(unk_token="[UNK]")
    with pytest.raises(ModelError, match="no padding token, and its tokenizer no end of text"):
        padding_token(reader, GPT2Config(**GPT2, eos_token_id=None))


@pytest.mark.parametrize(
    ("pairs", "length", "refused"),
    [(False, 2, True), (False, 3, False), (True, 6, True), (True, 7, False)],
)
def test_a_length_that_special_tokens_fill_is_refused(pairs, length, refused):
    if refused:
        with pytest.raises(ConfigError, match=f"recipe.max_length is {length}, and the tokenizer"):
            refuse_too_short(tokenizer(), length, "recipe.max_length", pairs=pairs)
    else:
        refuse_too_short(tokenizer(), length, "recipe.max_length", pairs=pairs)


def test_words_that_become_no_token_shift_nothing(tmp_path):
    row = {"tokens": ["w1", "\u200b", "w2", "\u200b"], "tags": ["O", "B-X", "I-X", "O"]}
    model = bert(tmp_path / "m", tokenizer())
    made = prepared(tmp_path, model, row, name="token-classification")
    split, _ = made.splits(12, None)
    assert split.rows[0]["labels"] == [-100, 0, 2, -100]
    loaded = made.load()
    loaded.classifier.weight.data.zero_()
    loaded.classifier.bias.data = torch.tensor([0.0, 0.0, 1.0])  # says I-X of every word
    assert made.facts.labels == ("O", "B-X", "I-X")
    assert made.task.predict(loaded, split) == [["I-X", "I-X"]]
    assert made.scores(loaded, split).metrics["accuracy"] == 0.5  # w2 and the last word, O


def test_a_question_that_is_longer_than_the_length_leaves_room_for_its_context(tmp_path):
    row = {"question": "w1 " * 30, "context": "w2 w3 w4", "answers": "w3"}
    model = bert(tmp_path / "m", tokenizer())
    split, _ = prepared(tmp_path, model, row, name="question-answering").splits(12, None)
    found = split.rows[0]
    assert found["input_ids"] == [2, *[5] * 6, 3, 6, 7, 8, 3]
    assert (found["start_positions"], found["end_positions"]) == (9, 9)


@pytest.mark.parametrize("name", ["token-classification", "question-answering"])
def test_tokens_without_places_are_refused(tmp_path, name):
    model = saved(tmp_path / "m", T5Model(T5Config(**T5)), ByT5Tokenizer())
    given = {"tokens": ["w1"], "tags": ["O"], "question": "q", "context": "w1", "answers": "w1"}
    with pytest.raises(ModelError, match="ByT5Tokenizer does not say where in a text"):
        prepared(tmp_path, model, given, name=name)


def test_a_head_of_other_labels_is_drawn_anew(tmp_path):
    model = BertForSequenceClassification(BertConfig(**BERT, num_labels=5))
    made = prepared(tmp_path, saved(tmp_path / "m", model, tokenizer()), *LABELLED)
    loaded = made.load()
    assert loaded.classifier.weight.shape == (2, 16)
    assert loaded.config.id2label == {0: "a", 1: "b"}
    torch.testing.assert_close(loaded.bert.state_dict(), model.bert.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("encoder.layer.1.output.dense.weight"), "no weights for 1 "),
        (
            lambda tensors: tensors.update({"pooler.dense.weight": torch.zeros(8, 16)}),
            r"has bert.pooler.dense.weight of the shape \(8, 16\), and its configuration says",
        ),
    ],
    ids=["missing", "another shape"],
)
def test_a_checkpoint_that_does_not_hold_its_body_is_refused(tmp_path, change, message):
    folder = Path(bert(tmp_path / "m", tokenizer()))
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=message):
        prepared(tmp_path, str(folder), *LABELLED).load()


def test_a_tokenizer_on_disk_is_left_as_it_is(tmp_path):
    reader = tokenizer(unk_token="[UNK]", eos_token="[SEP]")
    folder = saved(tmp_path / "m", GPT2LMHeadModel(GPT2Config(**GPT2)), reader)
    prepared(tmp_path, folder, *LABELLED)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
