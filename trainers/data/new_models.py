"""Models trained from a configuration: their first weights, and a tokenizer of their own."""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

from sharetune.spaces.paths import expanded
from sharetune.trainers.models.pretrained import from_library

START = "start"
SEED = 0
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
PAD, BOS, EOS = 0, 1, 2
READERS = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


def start_of(model: str, cache: Path) -> str:
    """The checkpoint that candidates start from: `model`, as this machine finds it, or what was
    made of its configuration."""
    folder = cache / START
    return str(folder) if folder.exists() else expanded(model)


def started(
    model: str,
    cache: Path,
    auto: Any,
    *,
    head: dict[str, Any],
    reader: Callable[[Any], Any],
) -> str:
    """`model`; of a folder with a configuration and no weights a copy in `cache` that has random
    ones, the same for all candidates.

    What lacks to read data, such as a tokenizer, is made by `reader` from the configuration,
    which `reader` may change and which need no reader where it gives None.
    """
    if not only_configured(model) or (cache / START).exists():
        return start_of(model, cache)
    config = from_library(AutoConfig, model, **head)
    scratch = Path(tempfile.mkdtemp(dir=cache))
    given = [path for path in Path(model).iterdir() if path.is_file()]
    for path in given:
        shutil.copy(path, scratch / path.name)
    if not {path.name for path in given} & set(READERS):
        made = reader(config)
        if made is not None:
            made.save_pretrained(scratch)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        auto.from_config(config).save_pretrained(scratch)
    scratch.rename(cache / START)
    return str(cache / START)


def only_configured(model: str) -> bool:
    """Whether `model` is a folder with a configuration and no weights."""
    folder = Path(model)
    weights = [*folder.glob("*.safetensors*"), *folder.glob("*.bin*")] if folder.is_dir() else []
    return (folder / "config.json").is_file() and not weights


def new_tokenizer(
    config: Any, texts: Iterable[str], *, generates: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer of at most ``config.vocab_size`` tokens, learnt from `texts`.

    An encoder's texts stand between ``<s>`` and ``</s>``, an encoder-decoder's end in ``</s>``;
    one that `generates` without an encoder reads them bare. `config` is told the numbers of the
    special tokens and how many tokens there are.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    learner = trainers.BpeTrainer(
        vocab_size=config.vocab_size, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(texts, learner)
    tokenizer.post_processor = _frame(config, generates=generates)
    config.vocab_size = tokenizer.get_vocab_size()
    config.pad_token_id, config.bos_token_id, config.eos_token_id = PAD, BOS, EOS
    if getattr(config, "decoder_vocab_size", None):
        config.decoder_vocab_size = config.vocab_size
    if config.is_encoder_decoder:
        config.decoder_start_token_id = EOS
        config.forced_eos_token_id = None
    names = ["input_ids", "attention_mask"]
    names += ["token_type_ids"] if (getattr(config, "type_vocab_size", 0) or 0) > 1 else []
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=names,
    )


def _frame(config: Any, *, generates: bool) -> Any:
    marks = [("<s>", BOS), ("</s>", EOS)]
    if generates:
        return processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=marks)
    if config.is_encoder_decoder:
        return processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=marks
        )
    return processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=marks
    )
