"""`sana-video sample` from the command line to the files: every use, and every mistake one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from flows import films
from flows.cli import app
from flows.sample import grouped

SIZE = (32, 48)
DEFAULTS = {"height": 32, "width": 48, "frames": 9, "steps": 2, "guidance": 2.0, "motion_score": 4}


def write_release(folder: Path, *, chunk_frames: int | None, **defaults: object) -> Path:
    """A pipeline's folder with a network of two narrow blocks."""
    from sana_video.autoencoder.dcae_v import PRESETS, DcaeV
    from sana_video.config import SanaVideoConfig
    from sana_video.model import SanaVideo

    config = SanaVideoConfig(
        in_channels=16, width=24, heads=2, depth=2, text_width=384, text_tokens=24, chunk_frames=chunk_frames
    )
    SanaVideo(config).save_pretrained(folder)
    DcaeV(PRESETS["small"]).save_pretrained(folder / "autoencoder")
    (folder / "text.json").write_text(json.dumps({"encoder": "minilm", "tokens": 24}))
    (folder / "sampling.json").write_text(json.dumps({**DEFAULTS, **defaults}))
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("both-ways"), chunk_frames=None)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    return write_release(folder, chunk_frames=10, step_list=[1000, 960, 889, 727], motion_score=None)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob(".*.tmp"))


def sana(*words: object) -> Result:
    return CliRunner().invoke(app, ["sample", "--device", "cpu", "--json", *map(str, words)])


def made(*words: object) -> dict[str, object]:
    result = sana(*words)
    assert result.exit_code == 0, result.output
    shown: dict[str, object] = json.loads(result.stdout)
    return shown


def refused(said: str, *words: object) -> None:
    result = sana(*words)
    assert (result.exit_code, "Traceback" in result.output) == (2, False), result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and said in lines[0], result.stderr


def frames_of(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return np.asarray(Image.open(path))[None]
    from sana_video.video.io import iter_frames

    return np.stack([picture.rgb for picture in iter_frames(path)])


def test_a_film_of_a_prompt_says_all_that_it_was_made_with(release: Path, tmp_path: Path) -> None:
    from sana_video.video.mp4 import read_metadata
    from sana_video.video.probe import probe

    made("--model", release, "--prompt", "a red car", "--out", "a.mp4", "--seed", 3, "--guidance-rule", "apg")
    told = read_metadata(tmp_path / "a.mp4")
    about = json.loads(told["comment"])
    assert told["title"] == "a red car"
    expected = {"model": release.name, "prompt": "a red car", "seed": 3, "steps": 2, "guidance": 2.0, "fps": 16.0}
    expected |= {
        "guidance_rule": "apg",
        "motion_score": 4,
        "frames": 9,
        "height": 32,
        "width": 48,
        "precision": "float32",
        "decoder": "exact",
    }
    assert expected.items() <= about.items()
    assert {"negative_prompt", "flow_shift", "text_encoder", "image", "device"} <= about.keys()
    whole = hashlib.sha256((release / "model.safetensors").read_bytes()).hexdigest()
    assert about["weights_sha256"] == whole[:16]
    assert frames_of(tmp_path / "a.mp4").shape == (9, 32, 48, 3)
    assert probe(tmp_path / "a.mp4").codec == "h264"


def test_which_form_of_the_operations_runs_is_said_once(release: Path) -> None:
    result = sana("--model", release, "--prompts", write_prompts("a car", "a tree"), "--out", "films")
    told = [line for line in result.stderr.splitlines() if "operations run as" in line]
    assert len(told) == 1 and told[0].startswith("sample: operations run as plain torch ("), result.stderr


def write_prompts(*prompts: str) -> Path:
    path = Path("prompts.txt")
    path.write_text("\n".join(prompts))
    return path


def test_a_film_made_in_fp8_says_so(release: Path) -> None:
    from flows import sample
    from sana_video import fp8
    from sana_video.pipeline import SanaVideoPipeline

    pipeline = SanaVideoPipeline.from_pretrained(release)
    assert not fp8.quantized(fp8.quantize(pipeline.model, emulate=True))  # 24 channels do not fit
    wide = pipeline.model.config.with_(width=32)
    model = fp8.quantize(type(pipeline.model)(wide).eval(), emulate=True)
    request = sample.Request(str(release), prompt="a car")
    about = sample._about(request, "here", release, dataclasses.replace(pipeline, model=model), {"frames": 9})
    assert about["precision"] == "fp8"


def test_steps_that_were_skipped_are_told_and_do_not_change_what_is_there(release: Path, tmp_path: Path) -> None:
    def film(name: str, *words: object) -> dict[str, object]:
        made("--model", release, "--prompt", "a red car", "--out", name, "--steps", 8, *words)
        return films.read_about(tmp_path / name)

    plain, zero, cached = film("plain.mp4"), film("zero.mp4", "--step-cache", 0), film("b.mp4", "--step-cache", 0.9)
    assert plain == zero
    assert plain["step_cache"] is None
    assert "skipped_steps" not in plain
    assert (tmp_path / "zero.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()
    assert cached["step_cache"] == 0.9
    assert 0 < cached["skipped_steps"] <= 5  # of 8: two to begin with and the last are computed
    words = ("--model", release, "--prompt", "x", "--videos-per-prompt", 2, "--out", "films", "--step-cache", 0.5)
    assert made(*words)["made"] == 2
    assert made(*words)["there already"] == 2


def test_a_step_cache_is_for_networks_in_both_directions(causal: Path) -> None:
    refused("works chunk by chunk", "--model", causal, "--prompt", "x", "--out", "a.mp4", "--step-cache", 0.1)


def test_a_picture_of_a_prompt(release: Path, tmp_path: Path) -> None:
    from flows.picture import read_about

    made("--model", release, "--prompt", "a car", "--out", "a.png", "--frames", 1, "--size", "32x32")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (32, 32)
    assert read_about(tmp_path / "a.png")["frames"] == 1
    refused("1 frames are written as .png", "--model", release, "--prompt", "x", "--out", "b.mp4", "--frames", 1)


def test_a_film_from_an_image_takes_its_aspect(release: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (10, 200, 30)).save(tmp_path / "first.png")
    about = made("--model", release, "--prompt", "a car", "--image", "first.png", "--out", "a.mp4")
    assert (about["height"], about["width"], about["image"]) == (32, 32, "first.png")
    wide = made("--model", release, "--prompt", "x", "--image", "first.png", "--aspect", "2:1", "--out", "b.mp4")
    assert wide["width"] > wide["height"]


def test_seconds_of_long_video_come_chunk_by_chunk(causal: Path, tmp_path: Path) -> None:
    about = made("--model", causal, "--prompt", "a car", "--out", "a.mp4", "--seconds", 7.5)
    assert (about["frames"], about["steps"], about["guidance"]) == (121, [1000, 960, 889, 727], 1.0)
    assert len(frames_of(tmp_path / "a.mp4")) == 121
    refused("at most 4093 frames, 256 s", "--model", causal, "--prompt", "x", "--out", "b.mp4", "--seconds", 300)
    refused("is distilled to the steps", "--model", causal, "--prompt", "x", "--out", "b.mp4", "--steps", 9)


def test_longer_than_trained_on_is_one_line(release: Path) -> None:
    result = sana("--model", release, "--prompt", "a car", "--out", "a.mp4", "--seconds", 1)
    assert result.exit_code == 0
    warned, told = result.stderr.splitlines()
    assert warned == "sample: 17 frames are more than the 9 this model was trained on"
    assert told.startswith("sample: operations run as ")


def test_several_videos_go_to_a_folder_that_is_continued(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("# two\na red car\n\n  two birds  \n")
    words = ("--model", release, "--prompts", "prompts.txt", "--out", "films", "--videos-per-prompt", 2, "--seed", 7)

    write, count = films.write, []

    def cut_off(*args: object) -> None:
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(films, "write", cut_off)
        assert sana(*words).exit_code == 130
    index = json.loads((tmp_path / "films" / "index.json").read_text())
    assert [row["file"] for row in index] == ["001-7.mp4", "001-8.mp4"]
    first = (tmp_path / "films" / "001-7.mp4").stat().st_mtime_ns

    assert made(*words) == {"out": "films", "made": 2, "there already": 2}
    index = json.loads((tmp_path / "films" / "index.json").read_text())
    told = [(row["file"], row["prompt"], row["seed"]) for row in index]
    assert told == [
        ("001-7.mp4", "a red car", 7),
        ("001-8.mp4", "a red car", 8),
        ("002-9.mp4", "two birds", 9),
        ("002-10.mp4", "two birds", 10),
    ]
    assert (tmp_path / "films" / "001-7.mp4").stat().st_mtime_ns == first

    made("--model", release, "--prompt", "two birds", "--out", "alone.mp4", "--seed", 9)
    assert np.array_equal(frames_of(tmp_path / "alone.mp4"), frames_of(tmp_path / "films" / "002-9.mp4"))
    refused("001-7.mp4 was made with steps 2, not 1; give another --out folder", *words, "--steps", 1)


@pytest.mark.parametrize("options", [(), ("--frames", 1)])
def test_a_batch_makes_what_each_alone_does(release: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    words = ("--model", release, "--prompt", "a red car", "--videos-per-prompt", 3, "--seed", 7, *options)
    made(*words, "--out", "alone")
    assert made(*words, "--out", "together", "--batch", 2) == {"out": "together", "made": 3, "there already": 0}
    index = json.loads((tmp_path / "together" / "index.json").read_text())
    assert [(row["seed"], row["batch"]) for row in index] == [(7, 2), (8, 2), (9, 2)]
    for row in index:
        # arithmetic on a batch may round the last bit differently, and H.264 carries a level on
        alone, together = (frames_of(tmp_path / folder / row["file"]).astype(int) for folder in ("alone", "together"))
        assert np.abs(alone - together).mean() < 0.5
        assert np.abs(alone - frames_of(tmp_path / "alone" / index[row["seed"] - 8]["file"])).mean() > 0.5


def test_a_batch_holds_seeds_that_follow_one_another() -> None:
    jobs = [films.Job(Path(f"{seed}.mp4"), "x", seed, {}) for seed in (3, 4, 5, 7, 8)]
    assert [[job.seed for job in group] for group in grouped(jobs, 2)] == [[3, 4], [5], [7, 8]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give one of --prompt and --prompts"),
        (("--prompt", "x", "--prompts", "none.txt"), "give one of --prompt and --prompts"),
        (("--prompts", "none.txt"), "none.txt: no such file"),
        (("--prompts", "empty.txt"), "no prompt in it"),
        (("--prompts", "bytes.txt"), "not UTF-8 text"),
        (("--prompt", " "), "the prompt is empty"),
        (("--prompt", "word " * 40), "tokens too long"),
        (("--prompt", "x", "--negative-prompt", "word " * 40), "negative prompt is"),
        (("--prompt", "x", "--frames", "8"), "take 5 or 9"),
        (("--prompt", "x", "--size", "33x48"), "height 33 is not a multiple of 16; the nearest is 32"),
        (("--prompt", "x", "--size", "big"), "HEIGHTxWIDTH"),
        (("--prompt", "x", "--size", "32x48", "--aspect", "1:1"), "leave one out"),
        (("--prompt", "x", "--aspect", "1"), "expected WIDTH:HEIGHT"),
        (("--prompt", "x", "--seconds", "0"), "--seconds 0"),
        (("--prompt", "x", "--image", "none.png"), "none.png: no such file"),
        (("--prompt", "x", "--image", "empty.txt"), "not a PNG or JPEG"),
        (("--prompt", "x", "--out", "a.gif"), ".mp4"),
        (("--prompt", "x", "--videos-per-prompt", "2"), "several videos need a folder"),
        (("--prompt", "x", "--device", "nosuch"), "--device nosuch: not to be had here"),
        (("--prompt", "x", "--precision", "fp8"), "fp8 needs a Hopper GPU (H100, H200), and this is cpu; take bf16"),
    ],
)
def test_a_mistake_is_one_line(release: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    out = () if "--out" in words else ("--out", "folder" if "--prompts" in words else "a.mp4")
    refused(said, "--model", release, *words, *out)
    assert not list(tmp_path.glob("a.*"))


def test_a_folder_of_another_model_or_with_a_part_missing_is_one_line(release: Path, tmp_path: Path) -> None:
    words = ("--prompt", "x", "--out", "a.mp4", "--model")
    other = shutil.copytree(release, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "gemma2"}))
    refused("config.json does not describe a SANA-Video model", *words, other)
    cut = shutil.copytree(release, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused("model.safetensors", *words, cut)
    gemma = shutil.copytree(release, tmp_path / "gemma")
    (gemma / "text.json").write_text(json.dumps({"encoder": "gemma-2-2b-it", "tokens": 24, "folder": "gemma"}))
    refused(str(gemma / "gemma"), *words, gemma)  # beside the pipeline, not in the folder the command runs in
    (gemma / "text.json").unlink()
    refused("text.json is missing", *words, gemma)
