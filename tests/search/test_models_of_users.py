"""Models that users bring, from `init` to a search: each is trained, or refused before."""

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    MarianConfig,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)
from typer.testing import CliRunner

from sharetune import results
from sharetune.search.commands.cli import app

SIDE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SIDE |= {"intermediate_size": 32}
SEEN = SIDE | {"image_size": 16, "patch_size": 8}
READ = SIDE | {"vocab_size": 64, "max_position_embeddings": 16}
SIZE = {"height": 16, "width": 16}
QUICK = ["executor=local", "budget.trials=2", "space.recipe.steps=2", "latency.rounds=0"]


def pictures(folder):
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for number in range(6):
            colour = (20 * number, 0, 100 * (label == "b"))
            Image.new("RGB", (20, 16), colour).save(folder / label / f"{number}.png")
    return folder


def sentences(path):
    pairs = [(one, two) for one in "abcdef" for two in "abcdef"]
    rows = [f"{one} cat and {two} dog,un chat {one} et un chien {two}" for one, two in pairs]
    path.write_text("\n".join(["source,target", *rows]) + "\n", "utf-8")
    return path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def searched(folder, task, data):
    """The trials of a search of `folder`/model by the study file that `init` writes."""
    study = folder / "study.yaml"
    words = ["--task", task, "--model", folder / "model", "--data", data, "--out", study]
    written = call("init", *words)
    assert written.exit_code == 0, written.output
    changes = [word for change in QUICK for word in ("--set", change)]
    found = call("search", study, "--out", folder / "run", *changes)
    assert found.exit_code == 0, found.output
    return results.load(folder / "run")


def clip(folder):
    CLIPModel(CLIPConfig(vision_config=SEEN, text_config=READ)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": SIZE}
    CLIPImageProcessor(**size).save_pretrained(folder)


def siglip(folder):
    SiglipModel(SiglipConfig(vision_config=SEEN, text_config=READ)).save_pretrained(folder)
    SiglipImageProcessor(size=SIZE).save_pretrained(folder)


def grey(folder, channels=1):
    ViTModel(ViTConfig(**SEEN, num_channels=1)).save_pretrained(folder)
    middle = [0.5] * channels
    ViTImageProcessor(size=SIZE, image_mean=middle, image_std=middle).save_pretrained(folder)


def grey_from_scratch(folder):
    ViTConfig(**SEEN, num_channels=1).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("brought", [clip, siglip, grey, grey_from_scratch])
def test_models_of_pictures_are_trained(tmp_path, brought):
    torch.manual_seed(0)
    brought(tmp_path / "model")
    trials = searched(tmp_path, "image-classification", pictures(tmp_path / "pictures"))
    assert trials["state"].tolist().count("COMPLETE") >= 2
    assert trials["parameters"].nunique() > 1


def test_a_processor_of_other_channels_is_refused(tmp_path):
    grey(tmp_path / "model", channels=3)
    words = ["--task", "image-classification", "--model", tmp_path / "model"]
    words += ["--data", pictures(tmp_path / "pictures"), "--out", tmp_path / "study.yaml"]
    found = call("init", *words)
    assert found.exit_code == 2
    assert (
        "error: the model reads pictures of 1 channels, and its image processor makes some of 3"
        in " ".join(found.output.split())
    )
    assert not (tmp_path / "study.yaml").exists()


@pytest.mark.slow
def test_a_marian_configuration_with_a_small_vocabulary_is_trained(tmp_path):
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}
    MarianConfig(vocab_size=80, **sizes).save_pretrained(tmp_path / "model")
    trials = searched(tmp_path, "translation", sentences(tmp_path / "pairs.csv"))
    assert trials["state"].tolist().count("COMPLETE") >= 2
