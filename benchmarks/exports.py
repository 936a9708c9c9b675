"""How exact and how large exports of a real language model are, in the runtimes they are for.

    python examples/smollm2/prepare.py
    python benchmarks/exports.py examples/smollm2/model [--plans looped ...] [--formats gguf ...]
        [--steps 0]

SmolLM2-135M-Instruct: unshared, its 30 layers as a cycle of the first 15, half of the matrices of
four layers in a bank, five FFNs of half the width, three layers dropped; each plan trained for
`steps` on the text of this project's docs. For each plan and format: bytes against the plan's, the
difference of logits, the perplexity in the runtime against the model's in torch, on the same 500
tokens, and for ONNX the memory of a session as `session_memory.py` measures it, as multiples of the
file's bytes. In the exact formats and in ONNX the export itself compares 64 tokens.
"""

import argparse
import subprocess
import sys
import tempfile
from math import exp
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sharetune.spaces.plan import SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.exports.base import export
from sharetune.trainers.exports.llama_cpp import LlamaCpp
from sharetune.trainers.exports.onnx import session
from sharetune.trainers.exports.onnx_cache import Steps

WHOLE = ["attention", "ffn", "norms", "biases"]
PLANS: dict[str, list[dict[str, Any]]] = {
    "unshared": [],
    "looped": [{"layers": "all", "assign": {"cycle": 15}, "parts": WHOLE, "init": "first"}],
    "bank": [{"layers": "12..15", "form": {"bank": {"ratio": 0.5}}}],
    "narrowed": [{"layers": "5..9", "parts": ["ffn"], "form": {"narrow": {"keep": 0.5}}}],
    "dropped": [{"layers": "12..14", "form": "drop"}],
}
"""Groups by the name of the plan."""

TEXT = Path(__file__).with_name("exports.py")
"""The text whose perplexity is measured: this file."""

TOKENS = 500
"""Tokens of the text."""

DOCS = Path(__file__).parent.parent / "docs"
"""The text that plans are trained on."""

BATCH = (4, 128)
"""Blocks of a step, and their tokens."""

RATE = 1e-3
"""Peak learning rate of a short training; it falls linearly to 0."""

MEMORY = Path(__file__).with_name("session_memory.py")
"""Script that measures the resident bytes of an onnxruntime session."""


def main(model: str, plans: list[str], formats: list[str], steps: int) -> None:
    """Print one line for each plan and format."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    reader = AutoTokenizer.from_pretrained(model)
    tokens = reader(TEXT.read_text("utf-8"))["input_ids"][:TOKENS]
    print(
        "| plan | format | weights | plan | ratio | difference | perplexity | ratio "
        "| memory of a session | at most | after a run |"
    )
    print("|" + "---|" * 11)
    for plan in plans:
        shared = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        share_(shared, SharingPlan.model_validate({"groups": PLANS[plan]}))
        train_(shared, reader, steps)
        own = perplexity(shared, tokens)
        for format in formats:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "out"
                found = export(shared, folder, format, reader=reader)
                run = in_runtime(folder, shared, tokens) or own
                memory = in_memory(folder) if format == "onnx" else []
            cells = (
                *(plan, f"`{format}`"),
                *(f"{size / 1e6:.1f} MB" for size in (found.weights, found.planned)),
                *(f"{found.weights / found.planned:.3f}", f"{found.difference:.2g}"),
                *(f"{run:.2f}", f"{run / own:.4f}"),
                *(f"{rise / found.weights:.3f}" for rise in memory),
            )
            print("|", " | ".join(cells), "|", flush=True)


def train_(model: PreTrainedModel, reader: Any, steps: int) -> None:
    """Train a model in place on blocks of the docs, drawn at random."""
    torch.manual_seed(0)
    text = "\n".join(page.read_text("utf-8") for page in sorted(DOCS.glob("*.md")))
    ids = torch.tensor(reader(text)["input_ids"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, max(1, steps))
    blocks, length = BATCH
    for _ in range(steps):
        begins = torch.randint(len(ids) - length, (blocks, 1))
        batch = ids[begins + torch.arange(length)]
        model.train()(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        falling.step()
    model.eval()


def perplexity(model: PreTrainedModel, tokens: list[int]) -> float:
    """Return the model's perplexity in torch."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        return exp(float(model(input_ids=ids, labels=ids).loss))


def in_runtime(folder: Path, model: PreTrainedModel, tokens: list[int]) -> float | None:
    """Return the export's perplexity in its runtime; None if that is torch."""
    if (folder / "model.gguf").exists():
        return in_llama_cpp(folder / "model.gguf", model, tokens)
    if (folder / "model.onnx").exists():
        ids = torch.tensor([tokens])
        logits = Steps(session(folder)).answer({"input_ids": ids, "attention_mask": ids * 0 + 1})
        return exp(float(cross_entropy(logits[0, :-1], ids[0, 1:])))
    return None


def in_memory(folder: Path) -> list[int]:
    """Return by how many bytes a session of onnxruntime raises memory, in three numbers."""
    ran = subprocess.run([sys.executable, MEMORY, folder], check=True, stdout=subprocess.PIPE)
    return [int(rise) for rise in ran.stdout.split()]


def in_llama_cpp(file: Path, model: PreTrainedModel, tokens: list[int]) -> float:
    """Return the file's perplexity in llama.cpp, of each token after those before it."""
    running = LlamaCpp(file, model.config.vocab_size, plain=tokens[0])
    found = [running.log_probability(tokens[:i], tokens[i]) for i in range(1, len(tokens))]
    return exp(-sum(found) / len(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--plans", nargs="+", default=list(PLANS))
    parser.add_argument("--formats", nargs="+", default=["gguf", "gguf-q8_0", "gguf-q4_0", "onnx"])
    parser.add_argument("--steps", type=int, default=0)
    asked = parser.parse_args()
    main(asked.model, asked.plans, asked.formats, asked.steps)
