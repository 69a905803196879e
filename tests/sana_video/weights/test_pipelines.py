"""A diffusers pipeline folder becomes one that our pipeline and `sample` read."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, SanaVideoTransformer3DModel
from torch import Tensor

from sana_video.autoencoder import load_autoencoder
from sana_video.config import SamplingDefaults, SanaVideoConfig
from sana_video.model import SanaVideo
from sana_video.text import NEGATIVE_PROMPT, TextParams
from sana_video.weights import convert_pipeline
from sana_video.weights.pipelines import published

Oracle = Callable[[SanaVideo], SanaVideoTransformer3DModel]


@pytest.fixture
def pipeline(tmp_path: Path, model: SanaVideo, oracle_of: Oracle) -> Path:
    """A whole one, but for the text encoder, whose files are only carried over."""
    folder = tmp_path / "diffusers"
    oracle_of(model).save_pretrained(folder / "transformer", max_shard_size="300KB")
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.5] * 4, latents_std=[2.0] * 4
    )
    vae.save_pretrained(folder / "vae")
    for part, name in (("text_encoder", "config.json"), ("text_encoder", "model.safetensors"), ("tokenizer", "t.json")):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / name).write_text(f"{part} {name}")
    (folder / "text_encoder" / "config.json").write_text('{"model_type": "gemma2", "hidden_size": 12}')
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"flow_shift": 7.0}')
    (folder / "model_index.json").write_text('{"_class_name": "SanaVideoPipeline"}')
    return folder


def test_every_part_finds_its_place(
    pipeline: Path, tmp_path: Path, model: SanaVideo, inputs: tuple[Tensor, ...]
) -> None:
    ours = tmp_path / "ours"
    convert_pipeline(pipeline, ours)
    with torch.no_grad():
        wanted = SanaVideo.from_pretrained(pipeline)(*inputs)
        assert torch.equal(SanaVideo.from_pretrained(ours)(*inputs), wanted)
    latents = torch.randn(1, 4, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = load_autoencoder(ours / "autoencoder").decode(latents)
        assert torch.equal(made, load_autoencoder(pipeline / "vae").decode(latents))
    assert made.shape == (1, 3, 5, 16, 24)
    text = TextParams.model_validate_json((ours / "text.json").read_text())
    assert (text.encoder, text.tokens, text.instruction, text.folder) == ("gemma-2-2b-it", 300, "video", "text_encoder")
    assert sorted(p.name for p in (ours / "text_encoder").iterdir()) == ["config.json", "model.safetensors", "t.json"]
    assert SamplingDefaults.load(ours / "sampling.json").flow_shift == 7.0
    convert_pipeline(pipeline, ours)  # over itself


def put_gemma(folder: Path) -> None:
    """A tiny random text encoder and its tokenizer, as a diffusers pipeline keeps them: in two folders."""
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *string.printable.replace(" ", "▁")]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True).save_pretrained(folder / "tokenizer")
    config = Gemma2Config(
        vocab_size=len(vocab),
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    Gemma2Model(config).save_pretrained(folder / "text_encoder")


def test_the_converted_folder_makes_a_video(pipeline: Path, tmp_path: Path) -> None:
    from sana_video.pipeline import SanaVideoPipeline

    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(pipeline / part)
    put_gemma(pipeline)
    convert_pipeline(pipeline, tmp_path / "ours")
    made = SanaVideoPipeline.from_pretrained(tmp_path / "ours")("a boat", frames=5, height=32, width=48, steps=2)
    assert (made.dtype, tuple(made.shape)) == (torch.uint8, (1, 5, 32, 48, 3))


def test_the_published_settings_follow_the_size() -> None:
    small, large = (published(SanaVideoConfig.preset(name)) for name in ("2b-480p", "2b-720p"))
    assert (small.height, small.width, small.frames, small.fps, small.steps) == (480, 832, 81, 16, 50)
    assert (small.guidance, small.flow_shift, small.motion_score) == (6.0, 8.0, 30)
    assert (large.height, large.width) == (704, 1280)
    assert small.negative_prompt == large.negative_prompt == NEGATIVE_PROMPT
    long = published(SanaVideoConfig.preset("2b-480p").with_(chunk_frames=10))
    assert (long.step_list, long.guidance, long.flow_shift) == ((1000, 960, 889, 727), 1.0, 7.0)
    assert (long.motion_score, long.negative_prompt) == (10, None)


def test_a_pipeline_that_lacks_a_part_or_is_of_another_model_is_told(pipeline: Path, tmp_path: Path) -> None:
    config = pipeline / "transformer" / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"_class_name": "WanTransformer3DModel"}))
    with pytest.raises(ValueError, match="a pipeline of another model: WanTransformer3DModel in transformer/"):
        convert_pipeline(pipeline, tmp_path / "ours")
    (pipeline / "tokenizer").rename(pipeline / "other")
    with pytest.raises(FileNotFoundError, match="is no whole pipeline: tokenizer missing"):
        convert_pipeline(pipeline, tmp_path / "ours")
    (pipeline / "other").rename(pipeline / "tokenizer")
    config.write_text(json.dumps(fields))
    (pipeline / "text_encoder" / "config.json").write_text('{"model_type": "gemma2", "hidden_size": 8}')
    with pytest.raises(ValueError, match="gives text of width 8; the network takes 12"):
        convert_pipeline(pipeline, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
