"""params.yaml as a whole: what is shipped is valid, and a mistake is one line that names key and value."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows import params

SHIPPED = Path(__file__).resolve().parents[2] / "params.yaml"


def test_the_shipped_file_is_valid_and_comes_back_from_render(tmp_path: Path) -> None:
    loaded = params.load(SHIPPED)
    again = tmp_path / "params.yaml"
    again.write_text(params.render(loaded))
    assert params.load(again) == loaded


def test_the_stride_stated_here_is_the_networks_own() -> None:
    from sana_video.autoencoder.dcae_v import PRESETS

    for name, stride in params.AUTOENCODER_STRIDE.items():
        assert PRESETS[name].stride[1:] == (stride, stride)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.seedd=3", "did you mean seed"),
        ("nosuch.key=3", "no section nosuch"),
        ("train.seed=-1", "train.seed: -1 is not possible"),
        ("train.seed", "expected section.key=value"),
        ("data.views.high.after=train-nosuch", "after train-nosuch is a verdict that no gate writes"),
        ("data.views.high.after=shards-pixels", "asks for train-autoencoder"),
        ("data.views.high.clips=sft", "clips_after is data, but clips sft are judged by sft"),
        ("data.views.high.height=72", "72x160 is not a multiple of 16"),
        ("data.views.high.frames=37", "split.frames cuts clips of 33"),
        ("train.stages.causal.view=nosuch", "view nosuch is not in data.views"),
        ("train.stages.causal.view=pixels", "pixels are for the autoencoder stage"),
        ("train.stages.causal.init=models/nosuch", "init models/nosuch is the output of no stage"),
        ("train.stages.causal.after=train-t2i", "asks for train-t2v_high"),
        ("train.stages.t2i.autoencoder=models/causal", "not the output of a stage with objective autoencoder"),
        ("eval.stage=nosuch", "eval.stage nosuch is not in train.stages"),
        ("eval.stage=autoencoder", "it generates nothing"),
        ("eval.step_list=[500,1000]", "must fall strictly"),
        ("eval.view=nosuch", "eval.view nosuch is not in data.views"),
        ("eval.gate.min_videos=9", "can never be met"),
        ("flow.schedules.curate='0 3 * *'", "expected 5 fields"),
        ("flow.schedules.curate='0 25 * * *'", "hour '25' is not within 0-23"),
        ("flow.parallel=0", "flow.parallel: 0"),
    ],
)
def test_a_mistake_is_one_line(override: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        params.load(SHIPPED, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_step_list_is_for_a_chunk_causal_model() -> None:
    steps = "eval.step_list=[1000, 960, 889, 727]"
    assert params.load(SHIPPED, [steps]).eval.step_list == (1000, 960, 889, 727)
    with pytest.raises(ValueError, match=r"is for a chunk-causal model; eval\.stage t2v_high is none"):
        params.load(SHIPPED, [steps, "eval.stage=t2v_high"])


def test_stages_that_start_from_one_another_are_refused() -> None:
    changes = ["train.stages.t2i.init=models/causal", "train.stages.t2i.after=train-causal"]
    with pytest.raises(ValueError, match="leads back to the stage itself"):
        params.load(SHIPPED, changes)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    document = yaml.safe_load(SHIPPED.read_text())
    del document["tracking"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match="tracking: missing"):
        params.load(path)


@pytest.mark.parametrize("cron", ["*/5 * * * *", "0 3 1,15 1-6 7", "0-30/10 0 * * 1-5"])
def test_cron_lines_that_are_fine(cron: str) -> None:
    assert params.load(SHIPPED, [f"flow.schedules.evaluate='{cron}'"]).flow.schedules.evaluate == cron
