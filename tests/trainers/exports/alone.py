"""Load folders of the format ``code`` with torch and transformers alone, and compare.

python alone.py CASES

prints a record for each case: the largest difference of the logits, whether generation with a cache
gives the tokens that it gives without, what a pipeline answers, and the error where a tensor is
missing. `bare.py` writes the cases.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

TOKENS = 32
"""Tokens that are generated."""


def main(file: str) -> None:
    """Print the records of all cases."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("sharetune", "scipy", "optuna", "ray", "pandas"):
        assert importlib.util.find_spec(name) is None, name
    for case in json.loads(Path(file).read_text()):
        kind = getattr(transformers, case["auto"])
        record = compared(kind, case) | {"missing": missing(kind, Path(case["folder"]))}
        if case["pipeline"]:
            record["pipeline"] = piped(case["pipeline"], case["folder"])
        print(json.dumps(record), flush=True)


def compared(kind, case):
    """The difference of logits, and whether a cache changes what is generated."""
    answer = torch.load(case["answer"])
    given = answer["inputs"]
    model = kind.from_pretrained(case["folder"], trust_remote_code=True, device_map="auto").eval()
    with torch.no_grad():
        difference = (model(**given).logits - answer["logits"]).abs().max().item()
    if not model.can_generate():
        return {"difference": difference}
    texts = [
        model.generate(
            given["input_ids"][:1], max_new_tokens=TOKENS, do_sample=False, use_cache=cache
        ).tolist()
        for cache in (True, False)
    ]
    return {"difference": difference, "is_cached_right": texts[0] == texts[1]}


def missing(kind, folder):
    """The error of loading a copy of the folder less a tensor; empty if there is none."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        copy.mkdir()
        for path in folder.iterdir():
            if path.name != "model.safetensors":
                (copy / path.name).symlink_to(path)
        tensors = load_file(folder / "model.safetensors")
        tensors.pop(min(tensors))  # of a bank, where there is one
        save_file(tensors, copy / "model.safetensors", {"format": "pt"})
        try:
            kind.from_pretrained(copy, trust_remote_code=True)
        except (ValueError, RuntimeError) as error:
            return str(error)
    return ""


def piped(task, folder):
    """Return the answer of a transformers pipeline to one example."""
    pipe = transformers.pipeline(task, model=folder, trust_remote_code=True)
    if task == "text-generation":
        return pipe("The capital of France is", max_new_tokens=3)[0]["generated_text"]
    if task == "image-classification":
        from PIL import Image

        return pipe(Image.new("RGB", (16, 16)))[0]
    return pipe("bread and soup")[0]


if __name__ == "__main__":
    main(sys.argv[1])
