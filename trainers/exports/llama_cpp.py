"""Run GGUF files in llama.cpp, by the package xllamacpp, and ask it for tokens."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import Answer, Uses
from sharetune.trainers.measuring.latency import SelfTimed
from sharetune.trainers.models.sample_inputs import Inputs

CONTEXT = 512
"""Tokens that fit the context: enough for the comparison."""

LEAST = -80.0
"""The least log-probability that is compared: llama.cpp's are of probabilities in float32."""

TIMED_TOKENS = 8
"""Tokens that are written to time one of them."""

SERVER = Path(__file__).with_name("llama_cpp_server.py")
"""The program that serves a file."""


@dataclass(frozen=True)
class Serving:
    """Settings of llama.cpp: the most tokens, threads, and whether numbers are as exact as can be.

    If not, they are those that it chooses: keys and values in 16 bits, fused attention.
    """

    context: int = CONTEXT
    threads: int = 1
    exact: bool = True

    @classmethod
    def timed(cls, tokens: int, threads: int) -> "Serving":
        """Return the settings to time `tokens` and the next ones with."""
        return cls(max(CONTEXT, tokens + 2 * TIMED_TOKENS), threads, exact=False)


class LlamaCpp:
    """A file with `vocabulary` tokens that llama.cpp runs, in a process of its own.

    `plain` is a token that is some text by itself: of others, such as a part of a character, the
    server tells no probabilities. Raises :class:`ModelError` if llama.cpp cannot load it.
    """

    def __init__(
        self, file: Path, vocabulary: int, *, plain: int, serving: Serving = Serving()
    ) -> None:
        self.file, self.vocabulary, self.plain = file, vocabulary, plain
        self.process = subprocess.Popen(
            [sys.executable, SERVER, file, json.dumps(asdict(serving))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise self._failed("load")

    def __del__(self) -> None:
        if hasattr(self, "process"):
            self.process.communicate()

    def answer(self, inputs: Inputs) -> Tensor:
        """Return the log-probabilities of the token after each row: rows x vocabulary."""
        return torch.stack([self.log_probabilities(row.tolist()) for row in rows(inputs)])

    def log_probabilities(self, tokens: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the next token: (vocabulary,)."""
        step = self._chosen(tokens, self.plain, self.vocabulary)
        choices = step["top_logprobs"]
        found = torch.full((self.vocabulary,), -torch.inf)
        ids = torch.tensor([choice["id"] for choice in choices])
        found[ids] = torch.tensor([float(choice["logprob"]) for choice in choices])
        return found.clamp_min(LEAST)

    def log_probability(self, tokens: Sequence[int], token: int) -> float:
        """Return the log-probability of `token`, a plain one, after `tokens`."""
        step = self._chosen(tokens, token, 1)
        assert step["id"] == token
        return float(step["logprob"])

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return the `count` most likely next tokens, one after the other."""
        return list(self._complete(tokens, n_predict=count)["tokens"])

    def uses(self, tokens: Sequence[int]) -> Uses:
        """Return the uses of the file after `tokens`, timed by llama.cpp itself."""
        return {
            "prefill": SelfTimed(lambda: self._timings(tokens, 1)["prompt_ms"]),
            "decode": SelfTimed(lambda: self._ms_a_token(tokens)),
        }

    def _ms_a_token(self, tokens: Sequence[int]) -> float:
        # the first token is already known from the prompt
        return self._timings(tokens, TIMED_TOKENS + 1)["predicted_ms"] / TIMED_TOKENS

    def _timings(self, tokens: Sequence[int], count: int) -> dict[str, float]:
        """Return llama.cpp's times for reading `tokens`, and for `count` tokens more."""
        settings = {"n_predict": count, "ignore_eos": True, "cache_prompt": count > 1}
        return dict(self._complete(tokens, **settings)["timings"])

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, with those that start one."""
        return list(self._post("tokenize", {"content": text, "add_special": True})["tokens"])

    def _chosen(self, tokens: Sequence[int], token: int, choices: int) -> dict[str, Any]:
        """Return the step that chooses `token`, by a bias that the probabilities do not show."""
        bias = {"logit_bias": [[token, 1e4]], "n_probs": choices, "n_predict": 1}
        (step,) = self._complete(tokens, **bias)["completion_probabilities"]
        return dict(step)

    def _complete(self, tokens: Sequence[int], **settings: Any) -> dict[str, Any]:
        question = {"prompt": list(tokens), "temperature": 0, "return_tokens": True}
        return self._post("completion", question | settings)

    def _post(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.address}/{path}",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return dict(json.load(answer))
        except OSError as error:
            raise self._failed("run") from error

    def _failed(self, what: str) -> ModelError:
        return ModelError(
            f"llama.cpp cannot {what} {self.file.name}", "export as code, dense or onnx"
        )


def rows(inputs: Inputs) -> list[Tensor]:
    """Return the tokens of each row, without padding."""
    masks = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    return [row[mask.bool()] for row, mask in zip(inputs["input_ids"], masks, strict=True)]


def last_log_probabilities(answer: Answer) -> Answer:
    """Return the function that gives what :meth:`LlamaCpp.answer` does, from logits."""

    def last(inputs: Inputs) -> Tensor:
        ends = [answer({"input_ids": row[None]})[0, -1] for row in rows(inputs)]
        return torch.stack(ends).float().log_softmax(-1).clamp_min(LEAST)

    return last
