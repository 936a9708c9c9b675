"""Time the matching of many neurons across layers, and measure its loss against the exact one.

    python benchmarks/matching.py time [--neurons 11008] [--layers 32]
    python benchmarks/matching.py loss MODEL [--pools 1 2 4 7]

`time` matches the neurons of made-up layers that answer the same 2,048 tokens, as `units:
importance` does with half of them shared, and with all. `loss` takes the neurons of a language
model (such as SmolLM2, which `examples/smollm2/prepare.py` writes) on the text of this project's
docs; those of several layers together stand for a wider layer.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharetune.trainers.models.alignment import ORDERS, UnitView
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.matching import Partners
from sharetune.trainers.models.structure import find_stacks

DOCS = Path(__file__).parent.parent / "docs"

TOKENS = 2048
"""Tokens that neurons are matched by."""

HIDDEN = 256
"""Directions of the made-up hidden states, which shrink from the first to the last."""


def made_up(layers: int, neurons: int) -> list[UnitView]:
    """Return the neurons of layers a quarter of whose weights' variance they have in common."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TOKENS, HIDDEN, generator=generator) * torch.linspace(3, 0.2, HIDDEN)
    common = torch.randn(neurons, HIDDEN, generator=generator)
    views = []
    for _ in range(layers):
        order = torch.randperm(neurons, generator=generator)
        weights = 0.5 * common[order] + torch.randn(neurons, HIDDEN, generator=generator)
        answers = functional.silu(weights @ states.T / 8)
        views.append(UnitView(answers.square().mean(1).sqrt(), centred(answers)))
    return views


def centred(answers: Tensor) -> Tensor:
    """Return answers (neurons x tokens) with mean 0 and length 1."""
    return functional.normalize(answers - answers.mean(1, keepdim=True))


def timed(neurons: int, layers: int) -> None:
    """Print the seconds in which all layers are matched."""
    views = made_up(layers, neurons)
    for shared in (neurons, neurons // 2):
        begun = time.perf_counter()
        ORDERS["importance"](views, [shared] * layers)
        seconds = time.perf_counter() - begun
        print(f"{layers} layers of {neurons:,} neurons, {shared:,} shared: {seconds:.1f} s")


def recorded(model: str) -> list[Tensor]:
    """Return the answers of each layer's neurons (neurons x tokens) on the docs."""
    read = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    text = "\n".join(path.read_text("utf-8") for path in sorted(DOCS.glob("*.md")))
    ids = AutoTokenizer.from_pretrained(model)(text)["input_ids"][:TOKENS]
    batches = [{"input_ids": torch.tensor([ids[i : i + 256]])} for i in range(0, TOKENS, 256)]
    (stack,) = find_stacks(read).values()
    path = next(slot.path for slot in stack.slots if slot.role == "fc_out")
    activations = record_activations(read, batches, TOKENS)
    return [activations[stack.name, i, path].T for i in range(len(stack.layers))]


def losses(answers: list[Tensor], pools: list[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield, for each number of layers in a pool, the neurons of even and of odd layers."""
    first = len(answers) // 2 % 2
    for count in pools:
        places = range(first, first + 2 * count, 2)
        even = torch.cat([centred(answers[i]) for i in places])
        odd = torch.cat([centred(answers[i + 1]) for i in places])
        yield len(even), even, odd


def lost(model: str, pools: list[int]) -> None:
    """Print the mean similarity of matched neurons, exact and nearly so, with the seconds."""
    print("| neurons | exact | s | nearly | s | lost |")
    print("|---|---|---|---|---|---|")
    for neurons, even, odd in losses(recorded(model), pools):
        found = []
        for exact in (neurons, 0):
            begun = time.perf_counter()
            mean = float((even[Partners(odd, exact).match(even)] * odd).sum(1).mean())
            found += [mean, time.perf_counter() - begun]
        best, exact_s, near, near_s = found
        part = 1 - near / best
        figures = f"{best:.4f} | {exact_s:.1f} | {near:.4f} | {near_s:.1f} | {part:.1%}"
        print(f"| {neurons:,} | {figures} |", flush=True)


def main() -> None:
    """Read the arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("time", "loss"))
    parser.add_argument("model", nargs="?")
    parser.add_argument("--neurons", type=int, default=11_008)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--pools", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.what == "time":
        timed(options.neurons, options.layers)
    else:
        lost(options.model, options.pools)


if __name__ == "__main__":
    main()
