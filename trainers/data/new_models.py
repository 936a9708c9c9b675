"""Create models from a configuration: random weights, and a tokenizer trained on the data."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

from sharetune.spaces.paths import expanded
from sharetune.spaces.whole_files import follow_umask
from sharetune.trainers.models.pretrained import built, from_library

START_FOLDER = "start"
"""Folder, in the study's cache, of the checkpoint made from a configuration."""

SEED = 0
"""Seed of the random weights, fixed so that all candidates start from the same ones."""

SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>"]
"""Special tokens of a new tokenizer, by id."""

PAD = 0
"""The id of ``<pad>``."""

BOS = 1
"""The id of ``<s>``, the beginning of a sequence."""

EOS = 2
"""The id of ``</s>``, the end of a sequence."""

READER_FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
"""Files that show that a folder has a tokenizer or a feature extractor."""


def start_of(model: str, cache: Path) -> str:
    """Return the checkpoint that candidates start from: the one made in `cache`, or `model`."""
    folder = cache / START_FOLDER
    return str(folder) if folder.exists() else expanded(model)


def started(
    model: str,
    cache: Path,
    auto: Any,
    *,
    head: Mapping[str, object],
    reader: Callable[[Any], Any],
) -> str:
    """Return a checkpoint with weights: `model`, or a copy of it in `cache` with random ones.

    The copy is made if `model` is a folder with a configuration and no weights; all candidates
    start from the same one. If the folder has no tokenizer or feature extractor, `reader` makes it
    from the configuration. `reader` may change the configuration, and returns None for a model that
    needs neither.
    """
    if not is_configuration_only(model) or (cache / START_FOLDER).exists():
        return start_of(model, cache)
    config = from_library(AutoConfig, model, **head)
    scratch = Path(tempfile.mkdtemp(dir=cache))
    given = [path for path in Path(model).iterdir() if path.is_file()]
    for path in given:
        shutil.copy(path, scratch / path.name)
    if not {path.name for path in given} & set(READER_FILES):
        made = reader(config)
        if made is not None:
            made.save_pretrained(scratch)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        built(auto, config).save_pretrained(scratch)
    follow_umask(scratch)
    scratch.rename(cache / START_FOLDER)
    return str(cache / START_FOLDER)


def is_configuration_only(model: str) -> bool:
    """Return whether `model` is a folder with a configuration and no weights."""
    folder = Path(model)
    weights = [*folder.glob("*.safetensors*"), *folder.glob("*.bin*")] if folder.is_dir() else []
    return (folder / "config.json").is_file() and not weights


def special_ids(model: str) -> dict[str, int]:
    """Return the ids that a new tokenizer will set in a configuration; none for a model with one.

    Those that a configuration comes with may lie beyond a small vocabulary, as Marian's defaults.
    """
    if not is_configuration_only(model) or any((Path(model) / n).exists() for n in READER_FILES):
        return {}
    return {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS} | {
        "decoder_start_token_id": EOS
    }


def new_tokenizer(
    config: Any, texts: Iterable[str], *, generates: bool = False
) -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer of at most ``config.vocab_size`` tokens, trained on `texts`.

    An encoder's texts are put between ``<s>`` and ``</s>``, an encoder-decoder's end in ``</s>``; a
    model that `generates` without an encoder reads them without either. Sets the ids of the special
    tokens and the vocabulary's size in `config`.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    learner = trainers.BpeTrainer(
        vocab_size=config.vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.train_from_iterator(texts, learner)
    tokenizer.post_processor = _special_token_template(config, generates=generates)
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


def _special_token_template(config: Any, *, generates: bool) -> Any:
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
