"""Configurations: checked, complete in themselves, and read without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sana_video.config import PRESETS, ModelParams, SamplingDefaults, SanaVideoConfig

TINY = SanaVideoConfig.preset("tiny")


def test_2b_as_published() -> None:
    config = SanaVideoConfig.preset("2b-480p")
    assert (config.width, config.heads, config.head_width, config.depth, config.ffn_width) == (2240, 20, 112, 20, 6720)
    assert config.rotary_split == (40, 36, 36)
    assert (config.attention_eps, config.cross_norm_eps) == (1e-8, 1e-6)
    other = config.with_(origin="diffusers")
    assert (other.attention_eps, other.cross_norm_eps) == (1e-15, 1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_survives_its_file(name: str, tmp_path: Path) -> None:
    config = SanaVideoConfig.preset(name)
    (tmp_path / "config.json").write_text(config.dump())
    assert SanaVideoConfig.load(tmp_path / "config.json") == config
    assert ModelParams(preset=name).preset == name  # type: ignore[arg-type]


def test_with_checks_again() -> None:
    assert TINY.with_(in_channels=8, text_width=12).in_channels == 8
    with pytest.raises(ValueError, match="width 130 is not a multiple of heads 4"):
        TINY.with_(width=130)
    with pytest.raises(ValueError, match="Extra inputs"):
        TINY.with_(channels=3)


@pytest.mark.parametrize("patch", [(2, 1, 1), (1, 2, 1), (1, 0, 0)])
def test_patches_are_square_and_of_one_frame(patch: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="patch_size"):
        TINY.with_(patch_size=patch)


@pytest.mark.parametrize(
    ("chunk", "frames", "starts"),
    [
        (None, 21, (0,)),
        (10, 21, (0, 11)),
        (10, 261, (0, *range(11, 261, 10))),
        (3, 9, (0, 3, 6)),
        (3, 5, (0,)),
        (3, 1, (0,)),
    ],
)
def test_first_chunk_takes_the_remainder(chunk: int | None, frames: int, starts: tuple[int, ...]) -> None:
    assert TINY.with_(chunk_frames=chunk).chunk_index(frames) == starts


def test_unknown_preset_names_the_known() -> None:
    with pytest.raises(ValueError, match="unknown model preset '3b'; choose one of 2b-480p"):
        SanaVideoConfig.preset("3b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "autoencoder"}, "does not describe a SANA-Video model"),
        ({"version": 2}, "version 2; this code reads version 1"),
        ({"depth": "deep"}, "depth: Input should be a valid integer"),
        ({"rope": 1}, "rope: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_file_is_one_clear_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(TINY.dump()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        SanaVideoConfig.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        SanaVideoConfig.load(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"kind": "sana-')
    with pytest.raises(ValueError, match="not valid JSON"):
        SanaVideoConfig.load(tmp_path / "config.json")


@pytest.mark.parametrize("steps", [(), (500, 500), (200, 300), (1001, 5), (5, 0)])
def test_step_lists_fall(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must fall strictly"):
        SamplingDefaults(step_list=steps)


def test_published_step_list_is_fine() -> None:
    assert SamplingDefaults(step_list=(1000, 960, 889, 727)).step_list == (1000, 960, 889, 727)


def test_parameters_are_read_without_torch() -> None:
    code = "import sys, sana_video.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
