"""`sana-video weights`: what a user types, what comes of it, and the one line for weights that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from flows.cli import app
from sana_video import weights
from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo

CONFIG = SanaVideoConfig(in_channels=4, width=112, heads=1, depth=2, text_width=12, text_tokens=6)


def sana(root: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--root", str(root), "weights", *words])


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    state = weights.to_official(SanaVideo(CONFIG, seed=1).state_dict(), CONFIG)
    null = {"y_embedder.y_embedding": torch.ones(6, 12)}
    torch.save({"generator": state | null, "generator_ema": {n: t + 1 for n, t in state.items()}}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_list_shows_what_there_is_and_what_is_here(tmp_path: Path) -> None:
    rows = json.loads(sana(tmp_path, "list", "--json").stdout)
    assert {row["here"] for row in rows} == {"no"}
    assert [row["size"] for row in rows if row["name"] == "gemma-2-2b-it"] == ["5.25 GB"]
    assert "Gemma Terms of Use" in sana(tmp_path, "list").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fetch", "gemma"), "no weights are called 'gemma'"),
        (("verify", "gemma"), "no weights are called 'gemma'"),
        (("verify", "wan2.1-vae"), "holds no record of Wan-AI/Wan2.1"),
        (("convert", "nosuch.pth", "out"), "nosuch.pth: no such file"),
        (("convert", "nosuch", "out"), "nosuch: no such file or folder"),
        (("convert", "x.pth", "out", "--config-from", "3b"), "--config-from 3b: no preset (2b-480p,"),
        (("convert", "x.pth", "out", "--chunk-frames", "10"), "x.pth: no such file"),
        (
            ("convert", "x.pth", "out", "--chunk-frames", "10", "--warm-start"),
            "say of which network with --config-from",
        ),
        (("convert", "x.pth", "out", "--autoencoder", "vae"), "needs both --autoencoder and --text-encoder"),
        (("convert", "x.pth", "out", "--warm-start"), "give that with --config-from"),
        (("convert", "x.pth", "out", "--layout", "pickle"), "pickle"),
    ],
)
def test_a_mistake_is_a_line_and_exit_2(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = sana(tmp_path, *words)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_verify_of_nothing_says_so(tmp_path: Path) -> None:
    result = sana(tmp_path, "verify")
    assert (result.exit_code, result.stdout) == (0, "nothing there yet\n")


def test_a_checkpoint_goes_to_ours_and_on_to_diffusers(tmp_path: Path, pth: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    said = json.loads(sana(tmp_path, "convert", str(pth), str(ours), "--json").stdout)
    assert said["parameters"] == sum(p.numel() for p in SanaVideo(CONFIG).parameters())
    plain = SanaVideo.from_pretrained(ours).final.table
    assert torch.equal(plain, SanaVideo(CONFIG, seed=1).final.table)
    assert (ours / weights.NULL_FILE).is_file()
    assert sana(tmp_path, "convert", str(ours), str(theirs), "--layout", "diffusers").exit_code == 0
    assert (theirs / "diffusion_pytorch_model.safetensors").is_file()
    assert (theirs / weights.NULL_FILE).is_file()
    assert sana(tmp_path, "convert", str(pth), str(ours), "--ema").exit_code == 0
    assert torch.equal(SanaVideo.from_pretrained(ours).final.table, plain + 1)


def test_a_network_is_named_by_its_config_and_chunked(tmp_path: Path, pth: Path) -> None:
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "config.json").write_text(CONFIG.dump())
    words = ("convert", str(pth), str(tmp_path / "ours"), "--config-from", str(tmp_path / "named"))
    assert sana(tmp_path, *words, "--chunk-frames", "10").exit_code == 0
    assert SanaVideo.from_pretrained(tmp_path / "ours").config == CONFIG.with_(chunk_frames=10)
    wrong = sana(tmp_path, "convert", str(pth), str(tmp_path / "ours"), "--config-from", "tiny")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "wrong shape: x_embedder.proj.weight" in wrong.stderr


def test_an_image_checkpoint_grows_on_demand(tmp_path: Path, pth: Path) -> None:
    image = weights.to_official(SanaVideo(CONFIG, seed=1).state_dict(), CONFIG)
    torch.save({n: t for n, t in image.items() if ".t_conv" not in n}, tmp_path / "image.pth")
    (tmp_path / "config.json").write_text(CONFIG.with_(ffn_ratio=4.0).dump())
    words = ("convert", str(tmp_path / "image.pth"), str(tmp_path / "ours"))
    told = sana(tmp_path, *words)
    assert (told.exit_code, "an image model; a warm start" in told.stderr) == (2, True)
    done = sana(tmp_path, *words, "--warm-start", "--config-from", str(tmp_path / "config.json"))
    assert done.exit_code == 0, done.output
    assert SanaVideo.from_pretrained(tmp_path / "ours").config.ffn_ratio == 4.0


def test_missing_weights_are_one_line_with_size_licence_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.weights
    from sana_video.autoencoder import load_autoencoder

    place = tmp_path / "weights" / "wan2.1-vae"
    monkeypatch.setattr(flows.weights, "convert", lambda asked: load_autoencoder(place))
    result = sana(tmp_path, "convert", "a", "b")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    for part in (str(place), "0.51 GB", "Apache-2.0", "`sana-video weights fetch wan2.1-vae`"):
        assert part in result.stderr


def test_naming_missing_weights_does_not_load_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from sana_video.weights import MissingWeights; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


def test_published_weights_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    for inside in ("", "checkpoints/SANA_Video_2B_480p.pth"):
        result = sana(tmp_path, "convert", str(tmp_path / "weights" / "sana-video-2b-480p" / inside), "out")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "`sana-video weights fetch sana-video-2b-480p`" in result.stderr


def test_an_image_autoencoder_is_inflated(tmp_path: Path) -> None:
    from diffusers import AutoencoderDC

    from sana_video.autoencoder import load_autoencoder

    torch.manual_seed(0)
    image = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        scaling_factor=0.5,
    ).eval()
    image.save_pretrained(tmp_path / "image")
    done = sana(tmp_path, "convert", str(tmp_path / "image"), str(tmp_path / "video"))
    assert done.exit_code == 0, done.output
    video, picture = load_autoencoder(tmp_path / "video"), torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        wanted = image.encode(picture).latent * 0.5
    torch.testing.assert_close(video.encode(picture[:, :, None])[:, :, 0], wanted, atol=1e-5, rtol=1e-5)
    told = sana(tmp_path, "convert", str(tmp_path / "image"), str(tmp_path / "other"), "--layout", "diffusers")
    assert (told.exit_code, (tmp_path / "other").exists()) == (2, False)
    assert "is an image autoencoder; it is inflated with no other option" in told.stderr
