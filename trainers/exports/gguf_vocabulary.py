"""Write a tokenizer into a GGUF file, and check that llama.cpp splits texts as it does."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.llama_cpp import LlamaCpp

CHECKED_TEXTS = (
    "The capital of France is",
    "I've 1234 apples; they'll cost 56.78 €!\n\n\tdef f(x):\n    return x**2  # naïve",
    "Ünïcödé 你好 🙂 <b>bold</b>   three spaces",
)
"""Texts on which both tokenizers must agree."""

THREE_DIGITS, ONE_DIGIT = r"\p{N}{1,3}", r"\p{N}|"
"""In a regular expression: how many digits at most are one piece."""

BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A token that stands for a byte, of a SentencePiece vocabulary."""

REMEDY = "export as code or onnx, which use the tokenizer itself"
"""The hint for tokenizers that llama.cpp has none like."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer in `folder`, for a model of `size` embeddings; None where there is none."""

    folder: Path
    size: int
    tokenizer: Any | None

    @classmethod
    def of(cls, folder: Path, size: int) -> "Vocabulary":
        """Read the tokenizer of a folder. Raises :class:`ModelError` if the model has fewer
        embeddings than it has tokens, or if its file is of another kind."""
        if not (folder / "tokenizer.json").exists():
            if found := sorted(path.name for path in folder.glob("*token*")):
                raise ModelError(
                    f"the gguf format reads tokenizers from tokenizer.json, and there is only "
                    f"{', '.join(found)}",
                    REMEDY,
                )
            return cls(folder, size, None)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if len(tokenizer) > size:
            raise ModelError(
                f"the tokenizer has {len(tokenizer)} tokens, and the model {size} embeddings",
                "use the tokenizer of the model",
            )
        return cls(folder, size, tokenizer)

    @property
    def plain(self) -> int:
        """Return a token that is some text by itself."""
        return 0 if self.tokenizer is None else self.tokenizer("a")["input_ids"][-1]

    def add_to(self, writer: Any) -> None:
        """Add tokens, merges, special tokens and chat template to a file."""
        import gguf

        if self.tokenizer is None:  # llama.cpp does not run without one
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre("gpt-2")
            writer.add_token_list([f"[{i}]" for i in range(self.size)])
            writer.add_token_types([gguf.TokenType.NORMAL] * self.size)
            writer.add_token_merges(["[ 0"])
            return
        data = json.loads((self.folder / "tokenizer.json").read_text("utf-8"))
        words = {index: text for text, index in self.tokenizer.get_vocab().items()}
        added = {token["id"]: token["special"] for token in data["added_tokens"]}
        kinds = [
            (gguf.TokenType.CONTROL if added[i] else gguf.TokenType.USER_DEFINED)
            if i in added
            else (gguf.TokenType.NORMAL if i in words else gguf.TokenType.UNUSED)
            for i in range(self.size)
        ]
        texts = [words.get(i, f"[PAD{i}]") for i in range(self.size)]
        in_pieces = data["model"]["type"] == "BPE" and bool(data["model"].get("byte_fallback"))
        if in_pieces:
            kinds = [
                gguf.TokenType.BYTE if BYTE.fullmatch(text) else kind
                for text, kind in zip(texts, kinds, strict=True)
            ]
            writer.add_tokenizer_model("llama")
            writer.add_token_scores(_scores(data, texts))
            writer.add_add_space_prefix(_starts_with_space(data))
        else:
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(_splitting(data))
        writer.add_token_list(texts)
        writer.add_token_types(kinds)
        special = gguf.SpecialVocab(self.folder, load_merges=not in_pieces, n_vocab=self.size)
        start = self.tokenizer.bos_token_id
        special.add_special_token["bos"] = self.tokenizer("a")["input_ids"][0] == start
        special.add_to_gguf(writer, quiet=True)

    def check(self, running: LlamaCpp) -> None:
        """Raise :class:`ModelError` if llama.cpp splits a text otherwise."""
        if self.tokenizer is None:
            return
        for text in CHECKED_TEXTS:
            own, found = self.tokenizer(text)["input_ids"], running.tokens(text)
            if own != found:
                raise ModelError(
                    f"llama.cpp splits {text!r} into {len(found)} tokens, the tokenizer into "
                    f"{len(own)}, or into others",
                    REMEDY,
                )


def _scores(data: dict[str, Any], texts: Sequence[str]) -> list[float]:
    """Return a score for each token of a SentencePiece vocabulary: what is merged first is best."""
    merges = data["model"]["merges"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault("".join(pair), rank)
    return [-float(ranks.get(text, len(ranks))) for text in texts]


def _starts_with_space(data: dict[str, Any]) -> bool:
    """Return whether a space is put in front of each text."""
    steps = [data.get("normalizer") or {}, data.get("pre_tokenizer") or {}]
    steps += [inner for step in steps for inner in step.get("normalizers", [])]
    schemes = [step["prepend_scheme"] for step in steps if step.get("type") == "Metaspace"]
    return any(step.get("type") == "Prepend" for step in steps) or bool({*schemes} - {"never"})


def _splitting(data: dict[str, Any]) -> str:
    """Return llama.cpp's name of how the tokenizer splits a text before it merges."""
    model, before = data["model"], data.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    kinds = [step.get("type") for step in steps]
    patterns = [step["pattern"].get("Regex", "") for step in steps if "pattern" in step]
    if model["type"] == "BPE" and not model.get("byte_fallback") and kinds[-1:] == ["ByteLevel"]:
        if kinds == ["ByteLevel"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
            return "smollm"
        if len(patterns) == 1 and THREE_DIGITS in patterns[0]:
            return "llama-bpe"
        if len(patterns) == 1 and ONE_DIGIT in patterns[0]:
            return "qwen2"
    raise ModelError(
        f"llama.cpp has no tokenizer known here that is like this one: {model['type']} after "
        f"{', '.join(map(str, kinds))}",
        REMEDY,
    )
