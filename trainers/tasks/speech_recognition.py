"""Speech recognition: the text that is spoken in a recording."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    PreTrainedModel,
    Wav2Vec2CTCTokenizer,
)

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores, part_sums
from sharetune.trainers.data.blocks import UNCOUNTED
from sharetune.trainers.data.dummy_inputs import full_length
from sharetune.trainers.data.new_models import new_tokenizer
from sharetune.trainers.data.sound import (
    AUDIO_COLUMNS,
    UNIT,
    audio_library,
    check_rate,
    extractor_of,
    inputs,
    new_extractor,
    padded_inputs,
    recordings,
    usual_samples,
)
from sharetune.trainers.data.tables import column, filled
from sharetune.trainers.models.pretrained import from_library
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task
from sharetune.trainers.tasks.generation import NEW_TOKENS, generated, write_on
from sharetune.trainers.tasks.prediction import predict_rows

TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence")
"""Names by which a table's column of spoken texts is found, the first that it has."""

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the table in a folder of recordings, as Hugging Face's audio folders name it."""

CTC = {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}
"""Settings of CTC's loss: comparable over lengths, and finite for texts longer than the input."""


class Recogniser:
    """The library's auto class that fits a model: speech to text with a decoder, else CTC.

    CTC's loss is the mean over letters, and 0 for texts that no path can write.
    """

    @staticmethod
    def from_pretrained(model: str, **kwargs: object) -> PreTrainedModel:
        """Load the saved model."""
        if from_library(AutoConfig, model).is_encoder_decoder:
            return AutoModelForSpeechSeq2Seq.from_pretrained(model, **kwargs)
        return AutoModelForCTC.from_pretrained(model, **CTC, **kwargs)

    @staticmethod
    def from_config(config: Any, **kwargs: Any) -> PreTrainedModel:
        """Build a model with random weights."""
        auto = AutoModelForSpeechSeq2Seq if config.is_encoder_decoder else AutoModelForCTC
        return auto.from_config(config, **kwargs)


@dataclass(frozen=True)
class SpeechReader:
    """A feature extractor for recordings and a tokenizer for texts."""

    extractor: Any
    tokenizer: Any

    def __len__(self) -> int:
        return len(self.tokenizer)

    def save_pretrained(self, folder: Path) -> None:
        """Save both in `folder`."""
        self.extractor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class SpeechBatch:
    """The collate function of speech rows; `start` is the decoder's first token, if it has one."""

    reader: SpeechReader
    start: int | None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [torch.as_tensor(row["labels"]) for row in rows]
        if self.start is not None and all(text[0] == self.start for text in texts):
            texts = [text[1:] for text in texts]  # the model begins with it by itself
        labels = torch.nn.utils.rnn.pad_sequence(texts, True, UNCOUNTED)
        batch = padded_inputs(self.reader.extractor, rows) | {"labels": labels}
        if self.start is None:
            return batch
        before = labels.masked_fill(labels == UNCOUNTED, self.reader.tokenizer.pad_token_id)
        first = torch.full_like(labels[:, :1], self.start)
        return batch | {"decoder_input_ids": torch.cat([first, before[:, :-1]], 1)}


@TASKS.register("automatic-speech-recognition")
class SpeechRecognition(Task):
    """the text spoken in a recording, by Wav2Vec2, HuBERT (CTC) or Whisper: word error rate

    `train` and `test` are tables or the hub name of a data set, whose column `audio` holds
    recordings' paths, beside the table, or their bytes, and `text` what is said; or folders that
    hold such a table as metadata.csv. The recipe's `max_length` counts samples; what is said after
    it counts as wrong. All recordings have one sampling rate, the model's; `resample` brings them
    to it. Texts are compared as they are written. A model trained from a configuration learns
    letters by CTC, byte pairs with a decoder.
    """

    auto: ClassVar[Any] = Recogniser
    fitting: ClassVar[tuple[str, ...]] = ("distill",)
    unit: ClassVar[str] = UNIT

    audio: str | None = Field(
        None,
        description="column of recordings; null: the first of the usual names, such as `audio`",
    )
    text: str | None = Field(
        None,
        description="column of what is said; null: the first of the usual names, such as `text`",
    )
    resample: bool = Field(
        False,
        description="convert recordings to the model's sampling rate; false: another rate is an "
        "error",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("word_error_rate", "character_error_rate")

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        audio_library("jiwer")  # rather missed now than after a training
        return *self.frames(self._columns), DataFacts()

    def table(self, source: str, split: str) -> pd.DataFrame:
        folder = Path(source)
        if not folder.is_dir():
            return super().table(source, split)
        found = [folder / name for name in TABLES if (folder / name).exists()]
        if not found:
            raise DataError(
                f"{folder} has no table of its recordings", f"needed: one of {', '.join(TABLES)}"
            )
        return super().table(str(found[0]), split)

    def length(self, frame: pd.DataFrame, model: PreTrainedModel) -> int:
        return usual_samples(frame, model)

    def refuse_unread(self, frame: pd.DataFrame, reader: Any, config: Any) -> None:
        check_rate(frame, reader.extractor, resample=self.resample)

    def reader(self, model: str) -> Any:
        return SpeechReader(extractor_of(model), from_library(AutoTokenizer, model))

    def new_reader(self, config: Any, frame: pd.DataFrame) -> Any:
        extractor = new_extractor(config, int(frame["rate"].iloc[0]))
        if config.is_encoder_decoder:
            return SpeechReader(extractor, new_tokenizer(config, frame["text"]))
        return SpeechReader(extractor, letters(config, frame["text"]))

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        tokens = reader.tokenizer(frame["text"].tolist())["input_ids"]
        _refuse_unknown(tokens, reader.tokenizer, frame["text"])
        read = inputs(frame, reader.extractor, max_length, resample=self.resample)
        return {**read, "labels": tokens, "truth": frame["text"].tolist()}

    def collator(self, reader: Any, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        config = self.skeleton(model, DataFacts()).config
        start = config.decoder_start_token_id if config.is_encoder_decoder else None
        return SpeechBatch(reader, start)

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        """Return the transcribed texts, in order."""
        tokenizer = split.collate.reader.tokenizer
        if model.config.is_encoder_decoder:
            longest = max(len(row) for row in split.rows["labels"])
            most = min(longest, model.config.max_target_positions - 1)
            written = generated(model, split, most)
            return tokenizer.batch_decode(written, skip_special_tokens=True)
        logits = predict_rows(model, data=split.rows, collate=split.collate)
        lengths = [len(row) for row in split.rows["input_values"]]
        frames = model._get_feat_extract_output_lengths(torch.tensor(lengths)).tolist()
        paths = [row[:length].argmax(-1) for row, length in zip(logits, frames, strict=True)]
        return tokenizer.batch_decode(paths)

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        jiwer = audio_library("jiwer")
        wanted, heard = list(labels), list(predictions)
        by_word, by_letter = jiwer.process_words, jiwer.process_characters
        words, letters = _errors(by_word, wanted, heard), _errors(by_letter, wanted, heard)
        return Scores(
            {
                "word_error_rate": float(jiwer.wer(wanted, heard)),
                "character_error_rate": float(jiwer.cer(wanted, heard)),
            },
            part_sums=part_sums(
                word_errors=words[0],
                words=words[1],
                character_errors=letters[0],
                characters=letters[1],
            ),
        )

    def counted(self, model: PreTrainedModel, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the logits of a decoder's tokens, or of CTC's frames, that are not padding."""
        if model.config.is_encoder_decoder:
            return logits[(batch["labels"] != UNCOUNTED).to(logits.device)]
        heard = batch.get("attention_mask")
        if heard is None:
            return logits.flatten(0, 1)
        frames = model._get_feature_vector_attention_mask(logits.shape[1], heard)
        return logits[frames.to(logits.device)]

    def predictions_of(self, rows: Any) -> Any:
        return None

    def sample(self, model: PreTrainedModel, batch: int, max_length: int) -> dict[str, Tensor]:
        full = full_length(model, batch, max_length)
        if "decoder_input_ids" in full:
            full["decoder_input_ids"] = full["decoder_input_ids"][:, :NEW_TOKENS]
        return full

    def write(self, model: PreTrainedModel, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        return write_on(model, inputs[model.main_input_name], tokens)

    def written(self, model: PreTrainedModel) -> int:
        return NEW_TOKENS if model.config.is_encoder_decoder else 0

    def used(self, model: PreTrainedModel, max_length: int) -> str:
        if not model.config.is_encoder_decoder:
            return super().used(model, max_length)
        return f"generation of {NEW_TOKENS} tokens with cache"

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        audio = column(frame, source, self.audio, AUDIO_COLUMNS, "audio")
        text = column(frame, source, self.text, TEXT_COLUMNS, "text")
        said = filled(frame[text], source, "text").to_numpy()
        return recordings(frame[audio], source).assign(text=said)


def letters(config: Any, texts: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """Build a tokenizer of the letters of `texts`, and set `config` to its size.

    The first token, the padding, is CTC's blank.
    """
    found = sorted(set("".join(texts)) - {" "})
    names = ["<pad>", "<unk>", "|", *found]
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "vocab.json"
        file.write_text(json.dumps({name: i for i, name in enumerate(names)}), "utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None)
    config.vocab_size, config.pad_token_id = len(tokenizer), 0
    config.bos_token_id = config.eos_token_id = None
    return tokenizer


def _refuse_unknown(tokens: Sequence[Sequence[int]], tokenizer: Any, texts: pd.Series) -> None:
    """Raise :class:`DataError` where the tokenizer does not know most of the texts' tokens."""
    unknown, count = tokenizer.unk_token_id, sum(map(len, tokens))
    if unknown is None or 2 * sum(row.count(unknown) for row in tokens) <= count:
        return
    known = sorted(token for token in tokenizer.get_vocab() if len(token) == 1)
    raise DataError(
        f"most letters of the texts are unknown to the model's tokenizer, as in {texts.iloc[0]!r}",
        f"it writes {''.join(known[:60])}",
    )


def _errors(
    process: Callable[[str, str], Any], wanted: Sequence[str], heard: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the errors of each text, and its length, by one of jiwer's functions."""
    found = [process(*pair) for pair in zip(wanted, heard, strict=True)]
    errors = [one.substitutions + one.deletions + one.insertions for one in found]
    return errors, [one.hits + one.substitutions + one.deletions for one in found]
