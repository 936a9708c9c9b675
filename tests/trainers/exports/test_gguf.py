"""GGUF files that llama.cpp runs: which architecture, what is stored once, the same tokens."""

import copy

import gguf
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ModelError
from sharetune.trainers import share_
from sharetune.trainers.exports import base, gguf_writing
from sharetune.trainers.exports.base import check_greedy, export
from sharetune.trainers.exports.gguf_layers import FAMILIES
from sharetune.trainers.exports.gguf_vocabulary import Vocabulary
from tests.families import tiny

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
}
WHOLE = {"parts": ["attention", "ffn", "norms", "biases"]}
PLANS = {
    "bank": [{"layers": "1..2", "form": {"bank": {"ratio": 0.5}}}],
    "drop": [{"layers": "1..2", "form": "drop"}],
    "narrow": [{"layers": "1..2", "form": {"narrow": {"keep": 0.5}}}],
    "narrow everywhere": [{"layers": "all", "form": {"narrow": {"keep": 0.5}}}],
    "loop": [{"layers": "all", "times": 2, "assign": "each"}],
    "cycle": [{"layers": "all", "assign": {"cycle": 2}, **WHOLE}],
    "pair": [{"layers": "0..1", **WHOLE}],
    "narrow loop": [
        {"layers": "0..1", "form": {"narrow": {"keep": 0.5}}},
        {"layers": "all", "times": 2, "assign": "each"},
    ],
}


def shared(kind, plan):
    """A model of four layers with random weights, norms and biases too."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return share_(model, SharingPlan.model_validate({"groups": PLANS[plan]}))


def described(file):
    """The architecture, the stored layers and the loops of a file."""
    fields = gguf.GGUFReader(file).fields
    architecture = fields["general.architecture"].contents()
    loops = fields.get(f"{architecture}.num_loops")
    count = fields[f"{architecture}.block_count"].contents()
    return architecture, count, 1 if loops is None else loops.contents()


def test_every_family_has_a_configuration():
    assert {config.model_type for config in CONFIGS.values()} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "plan", "expected"),
    [
        ("llama", "bank", ("llama", 4, 1)),
        ("llama", "drop", ("llama", 2, 1)),
        ("llama", "narrow", ("deci", 4, 1)),
        ("llama", "narrow everywhere", ("llama", 4, 1)),
        ("llama", "loop", ("nanbeige", 4, 2)),
        ("llama", "cycle", ("nanbeige", 2, 2)),
        ("llama", "pair", ("llama", 4, 1)),
        ("llama", "narrow loop", ("deci", 8, 1)),
        ("llama with biases", "narrow", ("deci", 4, 1)),
        ("llama with biases", "cycle", ("llama", 4, 1)),
        ("mistral", "cycle", ("nanbeige", 2, 2)),
        ("qwen2", "bank", ("qwen2", 4, 1)),
        ("qwen2", "narrow", ("deci", 4, 1)),
        ("qwen2", "narrow everywhere", ("deci", 4, 1)),
        ("qwen2", "loop", ("nanbeige", 4, 2)),
        ("qwen3", "bank", ("qwen3", 4, 1)),
        ("qwen3", "narrow", ("qwen3", 4, 1)),
        ("qwen3", "cycle", ("qwen3", 4, 1)),
        ("gemma", "narrow", ("gemma", 4, 1)),
        ("gemma", "drop", ("gemma", 2, 1)),
    ],
)
def test_the_same_tokens_in_llama_cpp(tmp_path, kind, plan, expected):
    # 64 of them are compared in the export
    exported = export(shared(kind, plan), tmp_path / "out", "gguf")
    assert exported.difference <= 2e-4
    assert described(tmp_path / "out" / "model.gguf") == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "bytes"),
    [("gguf-f16", 2), ("gguf-bf16", 2), ("gguf-q8_0", 34 / 32), ("gguf-q4_0", 18 / 32)],
)
@pytest.mark.parametrize("plan", ["cycle", "narrow"])
def test_formats_of_numbers(tmp_path, format, bytes, plan):
    exported = export(shared("llama", plan), tmp_path / "out", format)
    assert exported.difference > 0
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    # rows of 48 neurons, of which narrow leaves layer 1 as many, are filled up to 64
    neurons = 64 if plan == "narrow" and format.startswith("gguf-q") else 48
    neurons = 96 if plan == "cycle" else neurons
    assert tensors["blk.1.ffn_gate.weight"].n_bytes == 64 * neurons * bytes
    assert tensors["blk.1.attn_norm.weight"].n_bytes == 64 * 4


@pytest.fixture(scope="module")
def tokenizer():
    """One that merges the bytes of a few words, split as GPT-2 does."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    rules = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(["the capital of the country", "12 apples cost 34"] * 9, rules)
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    found.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return found


@pytest.mark.slow
def test_a_tokenizer_and_its_chat_template(tmp_path, tokenizer):
    export(shared("llama", "cycle"), tmp_path / "out", "gguf", reader=tokenizer)
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 300 and tokens[:3] == ["<pad>", "<s>", "</s>"]
    assert tokens[-1] == "[PAD299]"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template


@pytest.mark.slow
def test_a_tokenizer_that_llama_cpp_splits_otherwise(tmp_path, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=True, use_regex=True
    )
    with pytest.raises(ModelError, match="llama.cpp splits 'The capital"):
        export(shared("llama", "cycle"), tmp_path / "out", "gguf", reader=other)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_llama_cpp_has_none_like(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    reader = PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(ModelError, match="like this one: WordLevel after Whitespace"):
        export(shared("llama", "cycle"), tmp_path / "out", "gguf", reader=reader)


def test_more_tokens_than_embeddings(tmp_path, tokenizer):
    large = copy.deepcopy(tokenizer)
    large.add_tokens([f"word{i}" for i in range(20)])
    with pytest.raises(ModelError, match="the tokenizer has 307 tokens, and the model 300"):
        export(shared("llama", "cycle"), tmp_path / "out", "gguf", reader=large)


def test_what_llama_cpp_does_not_run(tmp_path):
    reuse = [{"layers": "0..1", "form": {"reuse": {"what": "kv"}}}]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"]))
    share_(model, SharingPlan.model_validate({"groups": reuse}))
    with pytest.raises(ModelError, match="cannot reuse what other layers compute"):
        export(model, tmp_path / "out", "gguf")
    with pytest.raises(ModelError, match="GPT2LMHeadModel is none"):
        export(tiny("gpt2"), tmp_path / "out", "gguf")
    config = LlamaConfig(**SIZES, rope_parameters={"rope_type": "yarn", "factor": 2.0})
    with pytest.raises(ModelError, match="not written for rope_type: yarn"):
        export(AutoModelForCausalLM.from_config(config), tmp_path / "out", "gguf")
    windowed = AutoModelForCausalLM.from_config(MistralConfig(**SIZES, sliding_window=8))
    with pytest.raises(ModelError, match="not written for sliding_window: 8"):
        export(windowed, tmp_path / "window", "gguf")
    with pytest.raises(ModelError, match="not written for hidden_act: gelu"):
        export(
            AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, hidden_act="gelu")),
            tmp_path / "out",
            "gguf",
        )


def test_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs gguf, xllamacpp") as caught:
        export(shared("llama", "cycle"), tmp_path / "out", "gguf")
    assert caught.value.hint == "pip install 'sharetune[gguf]'"


@pytest.mark.slow
def test_a_file_that_llama_cpp_cannot_load(tmp_path, monkeypatch):
    monkeypatch.setattr("sharetune.trainers.exports.gguf_layers.LOOPED", "unheard-of")
    with pytest.raises(ModelError, match=r"llama.cpp cannot load model.gguf"):
        export(shared("llama", "cycle"), tmp_path / "out", "gguf")
    assert list(tmp_path.iterdir()) == []


def test_other_tokens_are_an_error():
    model = shared("llama", "drop")
    prompt = {"input_ids": torch.tensor([[5, 6, 7]])}
    own = model.generate(prompt["input_ids"], max_new_tokens=64, do_sample=False)[0, 3:].tolist()
    check_greedy(model, lambda example, count: own[:count], prompt, 1e-3)
    wrong = [*own[:9], (own[9] + 1) % 300, *own[10:]]
    with pytest.raises(ModelError, match="as token 9, the model"):
        check_greedy(model, lambda example, count: wrong, prompt, 1e-3)
    with pytest.raises(ModelError, match="writes none as token 5"):
        check_greedy(model, lambda example, count: own[:5], prompt, 1e-3)


def test_weights_that_are_stored_twice_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "SLACK_BYTES", 0)
    monkeypatch.setattr(base, "saved_bytes", lambda model: 1_000)
    with pytest.raises(ModelError, match="shared export does not store shared weights once"):
        export(shared("llama", "cycle"), tmp_path / "out", "shared")
    assert list(tmp_path.iterdir()) == []


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["drop", "narrow", "loop"])
def test_positions_of_llama_3(tmp_path, monkeypatch, rule):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, rope_parameters=LLAMA3)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(8 if "q_proj" in name or "k_proj" in name else 2)
    share_(model, SharingPlan.model_validate({"groups": PLANS[rule]}))
    assert export(model, tmp_path / "out", "gguf").difference < 1e-3
    factors = gguf.GGUFReader(tmp_path / "out" / "model.gguf").get_tensor(-1)
    assert factors.name == "rope_freqs.weight"
    # frequencies of over 16 positions a turn stay, those of over 64 are divided by 8
    assert [round(float(x), 3) for x in factors.data[[0, -1]]] == [1.0, 8.0]
    monkeypatch.setattr(gguf_writing, "_rope_factors", lambda *_: torch.ones(8))
    with pytest.raises(ModelError, match="the gguf export"):
        export(model, tmp_path / "plain", "gguf")


def in_pieces(prepend):
    """A tokenizer as SentencePiece makes them: pieces of a text, bytes for unknown characters."""
    letters = "▁abcdefghijklmnopqrstuvwxyzTF.,"
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters]
    merges = [("▁", "c"), ("a", "p"), ("▁c", "ap"), ("t", "h"), ("h", "e"), ("i", "s"), ("T", "he")]
    vocabulary = {word: i for i, word in enumerate([*words, *map("".join, merges)])}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.slow
@pytest.mark.parametrize("prepend", ["first", "never"])
def test_a_vocabulary_of_pieces(tmp_path, prepend):
    model = shared("llama", "drop")
    export(model, tmp_path / "out", "gguf", reader=in_pieces(prepend))
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.add_space_prefix"].contents() == (prepend == "first")


def test_a_tokenizer_without_its_json(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    with pytest.raises(ModelError, match="from tokenizer.json, and there is only tokenizer.model"):
        Vocabulary.of(tmp_path, 300)
