"""Read and check sound recordings with soundfile, and turn them into a model's inputs."""

from collections.abc import Iterable
from importlib import import_module
from io import BytesIO
from math import ceil, gcd
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.signal import resample_poly
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from sharetune.spaces.errors import DataError, ModelError
from sharetune.trainers.data.tables import resolve_paths
from sharetune.trainers.models.pretrained import from_library

AUDIO_COLUMNS = ("audio", "recording", "file_name", "path", "file", "sound")
"""Names by which a table's column of recordings is found."""

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au")
"""Files that count as recordings, all of which soundfile reads."""

WHISPER_RATE = 16_000
"""Samples a second that Whisper reads."""

POSITIONS_A_SECOND = 50
"""Encoder positions a second of Whisper: one for each two frames of 10 ms."""

MIN_SECONDS = 0.1
"""Shortest input to accept; less suggests that `max_length` was meant in other units."""

MAX_SECONDS = 10
"""Longest default input: a trial's time grows with it."""

UNIT = "samples; longer recordings are cut"
"""The unit of `recipe.max_length` for recordings."""


def audio_library(name: str) -> Any:
    """Import soundfile or jiwer. Raises :class:`DataError` if it is not installed."""
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        raise DataError(
            f"studies of recordings need {name}: {error}", "pip install 'sharetune[audio]'"
        ) from None


def recordings(values: Iterable[Any], source: str) -> pd.DataFrame:
    """Return ``audio`` (path or bytes), ``rate`` (samples a second) and ``samples`` by recording.

    Raises :class:`DataError` for a value that is no recording, an empty one, and rates that differ.
    """
    found = resolve_paths(values, source)
    facts = [_facts(value, source, row) for row, value in enumerate(found, 1)]
    frame = pd.DataFrame(facts, columns=["rate", "samples"]).assign(audio=found)
    other = frame["rate"].ne(frame["rate"].iloc[0])
    if other.any():
        row = int(other.to_numpy().argmax())
        raise DataError(
            f"{source} has recordings of {frame['rate'].iloc[0]} samples a second, and "
            f"{frame['rate'].iloc[row]} in row {row + 1}",
            "all recordings of a study need one sampling rate; resample them",
        )
    return frame


def _facts(value: object, source: str, row: int) -> tuple[int, int]:
    library = audio_library("soundfile")
    try:
        info = library.info(BytesIO(value) if isinstance(value, bytes) else value)
    except (library.SoundFileError, TypeError, OSError) as error:
        missing = isinstance(value, str) and not Path(value).exists()
        seen = Path(value).name[:60] if isinstance(value, str) else type(value).__name__
        raise DataError(
            f"{source} has no recording in row {row}, but {seen!r}"
            + (", which does not exist" if missing else ""),
            "the audio column needs paths of recordings, relative to the table, or their bytes; "
            f"known are {', '.join(SUFFIXES)}",
        ) from error
    if not info.frames:
        raise DataError(f"{source} has an empty recording in row {row}", "remove it")
    return int(info.samplerate), int(info.frames)


def read_samples(value: object) -> np.ndarray:
    """Return the samples of a recording, -1..1; the mean of several channels."""
    library = audio_library("soundfile")
    samples, _ = library.read(
        BytesIO(value) if isinstance(value, bytes) else value, dtype="float32", always_2d=True
    )
    return np.asarray(samples.mean(1))


def inputs(
    frame: pd.DataFrame, extractor: Any, max_length: int, *, resample: bool
) -> dict[str, list[Any]]:
    """Return the model's inputs, by name, for the first `max_length` samples of each recording.

    Raises :class:`DataError` if the sampling rate is not the model's, unless `resample`.
    """
    check_rate(frame, extractor, resample=resample)
    wanted, rate = int(extractor.sampling_rate), int(frame["rate"].iloc[0])
    if max_length < MIN_SECONDS * wanted:
        raise DataError(
            f"recipe.max_length counts samples here: {max_length} of them are "
            f"{max_length / wanted:.4f} s",
            f"the longest recording has {round(frame['samples'].max() * wanted / rate)}",
        )
    rows: dict[str, list[Any]] = {}
    for value in frame["audio"]:
        samples = read_samples(value)
        if rate != wanted:
            common = gcd(rate, wanted)
            samples = resample_poly(samples, wanted // common, rate // common)
        read = extractor(samples[:max_length], sampling_rate=wanted, return_tensors="np")
        for name in extractor.model_input_names:
            if name in read:
                rows.setdefault(name, []).append(read[name][0])
    return rows


def check_rate(frame: pd.DataFrame, extractor: Any, *, resample: bool) -> None:
    """Raise :class:`DataError` if the sampling rate is not the model's, unless `resample`."""
    wanted, rate = int(extractor.sampling_rate), int(frame["rate"].iloc[0])
    if rate != wanted and not resample:
        raise DataError(
            f"the recordings have {rate} samples a second, and the model reads {wanted}",
            "resample them, or let the study do it: task.resample: true",
        )


def usual_samples(frame: pd.DataFrame, model: PreTrainedModel) -> int:
    """Return the 95th percentile of the recordings' lengths in samples, up to whole hundreds.

    At most ten seconds, and at most the length that a Whisper reads.
    """
    rate = WHISPER_RATE if hasattr(model.config, "num_mel_bins") else int(frame["rate"].iloc[0])
    seconds = float((frame["samples"] / frame["rate"]).quantile(0.95))
    most = getattr(model.config, "max_source_positions", MAX_SECONDS * POSITIONS_A_SECOND)
    return 100 * ceil(rate * min(seconds, MAX_SECONDS, most / POSITIONS_A_SECOND) / 100)


def padded_inputs(extractor: Any, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a batch of rows from :func:`inputs`, padded to its longest recording."""
    names = [name for name in rows[0] if name in extractor.model_input_names]
    columns = {name: [np.asarray(row[name], np.float32) for row in rows] for name in names}
    return dict(extractor.pad(columns, padding=True, return_tensors="pt"))


def extractor_of(model: str) -> Any:
    """Return the saved model's feature extractor."""
    return from_library(AutoFeatureExtractor, model)


def new_extractor(config: Any, rate: int) -> Any:
    """Return a feature extractor for a new model of `config`, for `rate` samples a second.

    It makes spectrograms for Whisper, which always reads 16,000 samples a second, and passes the
    samples on for other models. Raises :class:`ModelError` for a Whisper whose input is not of
    whole seconds.
    """
    bins = getattr(config, "num_mel_bins", None)
    if bins is None:
        masked = config.feat_extract_norm == "layer"
        return Wav2Vec2FeatureExtractor(sampling_rate=rate, return_attention_mask=masked)
    seconds, rest = divmod(config.max_source_positions, POSITIONS_A_SECOND)
    if rest:
        raise ModelError(
            f"max_source_positions is {config.max_source_positions}, which is not whole seconds",
            f"{POSITIONS_A_SECOND} positions are a second: "
            f"set {POSITIONS_A_SECOND * (seconds + 1)}, for example",
        )
    return WhisperFeatureExtractor(
        feature_size=bins, sampling_rate=WHISPER_RATE, chunk_length=seconds
    )
