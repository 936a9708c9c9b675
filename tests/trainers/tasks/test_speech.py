"""Recordings that fit a study, and those that do not."""

import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
from transformers import HubertConfig, Wav2Vec2FeatureExtractor, WhisperConfig

from sharetune.spaces.errors import DataError, ModelError
from sharetune.trainers.data.sound import inputs, new_extractor, read_samples, recordings
from sharetune.trainers.tasks.base import DataFacts, read_task
from sharetune.trainers.tasks.speech_recognition import SpeechBatch, SpeechReader, letters
from tests.trainers.tasks.test_tasks import sayings, tones


def write(path, rate=1600, seconds=1.0, channels=1):
    sound = np.full((int(rate * seconds), channels), 0.5) * np.linspace(1, 0.5, channels)
    soundfile.write(path, sound, rate, subtype="FLOAT")
    return str(path)


def refused(error, call):
    with pytest.raises(error) as caught:
        call()
    return caught.value.message, caught.value.hint


def test_another_sampling_rate_than_the_models(tmp_path):
    frame = recordings([write(tmp_path / "a.wav", 8000)], "rows.csv")
    reader = Wav2Vec2FeatureExtractor(sampling_rate=16000)
    message, hint = refused(DataError, lambda: inputs(frame, reader, 16000, resample=False))
    assert message == "the recordings have 8000 samples a second, and the model reads 16000"
    assert hint == "resample them, or let the study do it: task.resample: true"
    (row,) = inputs(frame, reader, 12000, resample=True)["input_values"]
    assert len(row) == 12000  # three quarters of a second of 16,000


def test_rates_that_differ(tmp_path):
    paths = [write(tmp_path / "a.wav", 1600), write(tmp_path / "b.wav", 800)]
    message, hint = refused(DataError, lambda: recordings(paths, "rows.csv"))
    assert message == "rows.csv has recordings of 1600 samples a second, and 800 in row 2"
    assert "need one sampling rate" in hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.wav", "no recording in row 1, but 'missing.wav', which does not exist"),
        ("notes.txt", "no recording in row 1, but 'notes.txt'"),
        (3.5, "no recording in row 1, but 'float'"),
        (b"words", "no recording in row 1, but 'bytes'"),
        ("silence.wav", "an empty recording in row 1"),
    ],
)
def test_what_is_no_recording(tmp_path, value, message):
    (tmp_path / "notes.txt").write_text("words")
    write(tmp_path / "silence.wav", seconds=0)
    assert message in refused(
        DataError, lambda: recordings([value], str(tmp_path / "rows.csv"))
    )[0]  # fmt: skip


@pytest.mark.parametrize("missing", ["soundfile", "jiwer"])
def test_without_the_extra_nothing_is_trained(tmp_path, monkeypatch, missing):
    task = read_task({"name": "automatic-speech-recognition", "train": sayings(tmp_path / "data")})
    monkeypatch.setitem(sys.modules, missing, None)
    message, hint = refused(DataError, task.read)
    assert message.startswith(f"studies of recordings need {missing}: ")
    assert hint == "pip install 'sharetune[audio]'"


def test_channels_become_one(tmp_path):
    path = write(tmp_path / "a.wav", channels=2)
    assert read_samples(path) == pytest.approx(np.full(1600, 0.375))
    assert read_samples((tmp_path / "a.wav").read_bytes()) == pytest.approx(read_samples(path))


def test_a_length_in_tokens(tmp_path):
    frame = recordings([write(tmp_path / "a.wav")], "rows.csv")
    reader = new_extractor(HubertConfig(), 1600)
    message, hint = refused(DataError, lambda: inputs(frame, reader, 128, resample=False))
    assert message == "recipe.max_length counts samples here: 128 of them are 0.0800 s"
    assert hint == "the longest recording has 1600"


def test_a_whisper_that_reads_no_whole_seconds():
    message, hint = refused(
        ModelError, lambda: new_extractor(WhisperConfig(max_source_positions=120), 16000)
    )
    assert message == "max_source_positions is 120, which is not whole seconds"
    assert "set 150" in hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audio-classification", "holds no folders of recordings; it has .txt files"),
        ("automatic-speech-recognition", "has no table of its recordings"),
        ("image-classification", "holds no folders of pictures; it has .txt files"),
    ],
)
def test_a_folder_of_something_else(tmp_path, name, message):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "notes.txt").write_text("words")
    task = read_task({"name": name, "train": str(tmp_path / "data")})
    assert message in refused(DataError, task.read)[0]


def test_letters_that_the_tokenizer_lacks(tmp_path):
    task = read_task(
        {"name": "automatic-speech-recognition", "train": sayings(tmp_path / "data")}
    )  # fmt: skip
    train, _, _ = task.read()
    config = HubertConfig()
    reader = SpeechReader(new_extractor(config, 1600), letters(config, ["A HIGH LOW TONE"]))
    message, hint = refused(DataError, lambda: task.rows(train, reader, 1600))
    assert message.startswith("most letters of the texts are unknown to the model's tokenizer")
    assert hint == "it writes AEGHILNOTW|"


def test_a_decoder_reads_what_was_written_before(tmp_path):
    frame = recordings([write(tmp_path / "a.wav")] * 2, "rows.csv")
    config = HubertConfig()
    reader = SpeechReader(new_extractor(config, 1600), letters(config, ["ab"]))
    values = inputs(frame, reader.extractor, 1600, resample=False)["input_values"]
    # 4 is what the decoder starts with, as Whisper's own tokenizer writes it in front
    rows = [{"input_values": values[0], "labels": text} for text in ([4, 3, 2], [4, 3])]
    batch = SpeechBatch(reader, 4)(rows)
    assert batch["labels"].tolist() == [[3, 2], [3, -100]]
    assert batch["decoder_input_ids"].tolist() == [[4, 3], [4, 3]]
    assert "decoder_input_ids" not in SpeechBatch(reader, None)(rows)


def test_recordings_in_a_table_of_bytes(tmp_path):
    folder = tmp_path / "tones"
    tones(folder)
    rows = [
        {"audio": {"bytes": path.read_bytes(), "path": None}, "label": path.parent.name}
        for path in sorted(folder.rglob("*.wav"))
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    task = read_task({"name": "audio-classification", "train": str(tmp_path / "rows.parquet")})
    train, test, facts = task.read()
    assert (len(train), len(test), facts) == (10, 2, DataFacts(("high", "low")))
    assert set(train["rate"]) == {1600}
