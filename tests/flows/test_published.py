"""From published files to a video in two commands, with small random models of the published classes."""

from __future__ import annotations

import json
import re
import shlex
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

from flows.cli import app
from sana_video import weights
from sana_video.config import SamplingDefaults, SanaVideoConfig
from sana_video.model import SanaVideo
from sana_video.text import NEGATIVE_PROMPT, TextParams

CONFIG = SanaVideoConfig(
    in_channels=4, patch_size=(1, 2, 2), width=112, heads=1, depth=1, text_width=12, text_tokens=300
)
ROOT = Path(__file__).resolve().parents[2]
README_SECTION = (ROOT / "README.md").read_text().partition("## Sample from the published")[2].partition("\n## ")[0]
README_COMMANDS = re.findall(r"(?:^|\$ |`)(sana-video (?:weights|sample) [^`\n]*)", README_SECTION, re.M)


def sana(*words: object) -> Result:
    return CliRunner().invoke(app, ["--json", *map(str, words)])


def shown(*words: object) -> dict[str, Any]:
    result = sana(*words)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def put_gemma(folder: Path, width: int = 12) -> Path:
    """A tiny random text encoder and its tokenizer of single characters."""
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *string.printable.replace(" ", "▁")]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True).save_pretrained(folder)
    config = Gemma2Config(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    Gemma2Model(config).save_pretrained(folder)
    return folder


def put_wan(folder: Path, channels: int = 4) -> Path:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    mean, std = [0.5] * channels, [2.0] * channels
    AutoencoderKLWan(
        base_dim=8, z_dim=channels, dim_mult=[1] * 4, num_res_blocks=1, latents_mean=mean, latents_std=std
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_gemma(tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put_official(path: Path, key: str = "state_dict") -> Path:
    """As it is fetched: a repository's folder with one checkpoint."""
    state = weights.to_official(SanaVideo(CONFIG, seed=1).state_dict(), CONFIG)
    path.parent.mkdir(parents=True)
    torch.save({key: state | {"y_embedder.y_embedding": torch.ones(300, 12)}}, path)
    return path


@pytest.mark.parametrize("line", README_COMMANDS)
def test_the_commands_of_the_readme_parse(line: str) -> None:
    command, words = get_command(app), shlex.split(line)[1:]
    while isinstance(command, TyperGroup):
        name = words.pop(0)
        command = command.commands[name]
    command.make_context(line, words)  # raises for an option that there is none of, and runs nothing


SMALL = ("--size", "32x48", "--frames", 5, "--device", "cpu", "--prompt", "a boat")


def test_an_official_checkpoint_becomes_a_pipeline_that_samples(tmp_path: Path, gemma: Path, wan: Path) -> None:
    from flows.films import read_about

    put_official(tmp_path / "fetched" / "checkpoints" / "SANA_Video.pth")
    told = shown("weights", "convert", "fetched", "ours", "--autoencoder", wan, "--text-encoder", gemma)
    assert (told["pipeline"], told["instruction"], told["for"]) == ("ours", "image", "video and images")
    assert told["weights"] == "ours/model.safetensors"
    assert sorted(p.name for p in Path("ours").iterdir()) == [
        "autoencoder",
        "config.json",
        "model.safetensors",
        "null_embedding.safetensors",
        "sampling.json",
        "text.json",
    ]
    text = TextParams.model_validate_json(Path("ours/text.json").read_text())
    assert (text.tokens, text.instruction, text.folder) == (300, "image", str(gemma.resolve()))
    defaults = SamplingDefaults.load(Path("ours/sampling.json"))
    assert (defaults.steps, defaults.guidance, defaults.flow_shift, defaults.motion_score) == (50, 6.0, 8.0, 30)

    film = shown("sample", "--model", "ours", "--out", "a.mp4", "--steps", 2, *SMALL)
    assert (film["negative_prompt"], film["motion_score"]) == (NEGATIVE_PROMPT, 30)
    assert film == {"out": "a.mp4", **read_about(Path("a.mp4"))}
    alone = shown("sample", "--model", "ours", "--out", "b.mp4", "--steps", 2, "--negative-prompt", "", *SMALL)
    assert alone["negative_prompt"] == ""
    shown("sample", "--model", "ours", "--out", "a.png", "--steps", 1, *SMALL, "--frames", 1)
    moved = shown("sample", "--model", "ours", "--out", "d.mp4", "--steps", 1, *SMALL, "--image", "a.png", "--seed", 2)
    assert (moved["image"], moved["frames"]) == ("a.png", 5)
    without = shown("sample", "--model", "ours", "--out", "c.mp4", "--steps", 2, "--guidance", 1, *SMALL)
    assert without["negative_prompt"] is None  # nothing is led away from


def test_a_long_video_checkpoint_is_known_by_its_name(tmp_path: Path, gemma: Path, wan: Path) -> None:
    source = put_official(tmp_path / "x" / "LongSANA_2B_480p_ode.pt", key="generator")
    parts = ("--autoencoder", wan, "--text-encoder", gemma)
    assert shown("weights", "convert", source, "long", *parts)["for"] == "long video, chunk after chunk"
    defaults = SamplingDefaults.load(Path("long/sampling.json"))
    assert (defaults.step_list, defaults.guidance, defaults.flow_shift) == ((1000, 960, 889, 727), 1.0, 7.0)
    assert SanaVideoConfig.load(Path("long/config.json")).chunk_frames == 10
    film = shown("sample", "--model", "long", "--out", "a.mp4", *SMALL)
    assert (film["steps"], film["guidance"], film["negative_prompt"]) == ([1000, 960, 889, 727], 1.0, None)
    other = source.rename(tmp_path / "renamed.pt")
    shown("weights", "convert", other, "told", *parts, "--chunk-frames", 10)
    assert Path("told/sampling.json").read_text() == Path("long/sampling.json").read_text()


def test_a_transformer_of_diffusers_is_told_in_the_wording_of_its_pipeline(tmp_path: Path, wan: Path) -> None:
    put_official(tmp_path / "x" / "a.pth")
    shown("weights", "convert", "x/a.pth", "transformer", "--layout", "diffusers")
    inside = put_gemma(tmp_path / "ours" / "gemma")
    told = shown("weights", "convert", "transformer", "ours", "--autoencoder", wan, "--text-encoder", inside)
    assert told["instruction"] == "video"
    assert TextParams.model_validate_json(Path("ours/text.json").read_text()).folder == "gemma"  # goes along with it
    assert shown("sample", "--model", "ours", "--out", "a.png", "--steps", 1, *SMALL, "--frames", 1)["frames"] == 1


def test_parts_that_do_not_fit_or_are_not_there_are_one_line_and_nothing_is_written(
    tmp_path: Path, gemma: Path, wan: Path
) -> None:
    put_official(tmp_path / "x" / "a.pth")
    Path("file").write_text("x")
    for vae, text, target, said in (
        (put_wan(tmp_path / "other", channels=6), gemma, "ours", "6 channels; the network takes 4"),
        (wan, put_gemma(tmp_path / "wide", width=16), "ours", "gives text of width 16; the network takes 12"),
        (Path("weights/wan2.1-vae"), gemma, "ours", "`sana-video weights fetch wan2.1-vae`"),
        (wan, Path("weights/gemma-2-2b-it"), "ours", "`sana-video weights fetch gemma-2-2b-it`"),
        (wan, gemma, "file", "is a file; a folder is to be written"),
    ):
        result = sana("weights", "convert", "x/a.pth", target, "--autoencoder", vae, "--text-encoder", text)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert said in result.stderr
    assert not Path("ours").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_conversion_that_fails_leaves_the_old_folder_whole(
    tmp_path: Path, gemma: Path, wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sana_video.autoencoder.published import Published

    put_official(tmp_path / "x" / "a.pth")
    words = ("weights", "convert", "x/a.pth", "ours", "--autoencoder", wan, "--text-encoder", gemma)
    shown(*words)
    Path("ours/notes.txt").write_text("mine")
    before = {path: path.stat().st_ino for path in Path("ours").rglob("*")}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Published, "save_pretrained", full)
        assert sana(*words).exit_code == 1
    assert {path: path.stat().st_ino for path in Path("ours").rglob("*")} == before
    shown(*words)
    assert Path("ours/notes.txt").read_text() == "mine"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
