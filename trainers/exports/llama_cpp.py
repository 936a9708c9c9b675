"""Run GGUF files in llama.cpp, by the package xllamacpp, and ask it for tokens."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import Answer
from sharetune.trainers.models.sample_inputs import Inputs

CONTEXT = 512
"""Tokens that fit the context: enough for the comparison."""

SERVER = Path(__file__).with_name("llama_cpp_server.py")
"""The program that serves a file."""


class LlamaCpp:
    """A file with `vocabulary` tokens that llama.cpp runs, in a process of its own.

    Raises :class:`ModelError` if llama.cpp cannot load it.
    """

    def __init__(self, file: Path, vocabulary: int, *, threads: int = 1) -> None:
        self.file, self.vocabulary = file, vocabulary
        self.process = subprocess.Popen(
            [sys.executable, SERVER, file, str(CONTEXT), str(threads)],
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
        self.process.communicate()

    def answer(self, inputs: Inputs) -> Tensor:
        """Return the log-probabilities of the token after each row: rows x vocabulary."""
        return torch.stack([self.log_probabilities(row.tolist()) for row in rows(inputs)])

    def log_probabilities(self, tokens: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the next token: (vocabulary,)."""
        (step,) = self._steps(tokens, 1, self.vocabulary)
        choices = step["top_logprobs"]
        found = torch.full((self.vocabulary,), -torch.inf)
        ids = torch.tensor([choice["id"] for choice in choices])
        found[ids] = torch.tensor([float(choice["logprob"]) for choice in choices])
        return found

    def log_probability(self, tokens: Sequence[int], token: int) -> float:
        """Return the log-probability of `token` after `tokens`, by a bias that chooses it."""
        chosen = {"logit_bias": [[token, 1e4]], "cache_prompt": True}
        (step,) = self._steps(tokens, 1, 1, **chosen)
        assert step["id"] == token
        return float(step["logprob"])

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return the `count` most likely next tokens, one after the other."""
        return [step["id"] for step in self._steps(tokens, count, 1)]

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, with those that start one."""
        return list(self._post("tokenize", {"content": text, "add_special": True})["tokens"])

    def _steps(
        self, tokens: Sequence[int], count: int, choices: int, **settings: Any
    ) -> list[dict[str, Any]]:
        question = {"prompt": list(tokens), "n_predict": count, "n_probs": choices}
        answer = self._post("completion", question | SAMPLING | settings)
        return list(answer["completion_probabilities"])

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


SAMPLING = {"temperature": 0, "cache_prompt": False}
"""The most likely token each time, with nothing taken over from the last question."""


def rows(inputs: Inputs) -> list[Tensor]:
    """Return the tokens of each row, without padding."""
    masks = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    return [row[mask.bool()] for row, mask in zip(inputs["input_ids"], masks, strict=True)]


def last_log_probabilities(answer: Answer) -> Answer:
    """Return the function that gives what :meth:`LlamaCpp.answer` does, from logits."""

    def last(inputs: Inputs) -> Tensor:
        ends = [answer({"input_ids": row[None]})[0, -1] for row in rows(inputs)]
        return torch.stack(ends).float().log_softmax(-1)

    return last
