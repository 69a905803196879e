"""Scores of rendered clips; what is measured again, and what is not."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from data_pipeline import ingest, score, scoring, split, tables
from data_pipeline.params import DoverParams, IngestParams, LimitParams, ScoreParams, SplitParams
from data_pipeline.score import networks
from data_pipeline.score.clip import measure, measure_clips
from data_pipeline.score.seen import Seen
from infra.storage import sha256_file
from sana_video.video import io, measures
from sana_video.video.flow import unimatch

INGEST = IngestParams(min_seconds=0.1, max_seconds=60.0, max_pixels=1 << 22, min_short_side=16)
SPLIT = SplitParams(detector="content", threshold=27.0, min_shot_seconds=0.6, fps=16, frames=17, trim_frames=1)
PARAMS = ScoreParams(short_side=96, flow="dis", aesthetic="classical", sample_seconds=0.5, workers=2)
VERSIONS = measures.MEASURE_VERSIONS
ALL = LimitParams()
OWN = [name for name in score.COLUMNS if name not in ("text_area", "nsfw")]  # asked for by default
MEASURED = [column for name in OWN for column in score.COLUMNS[name]]


def track(items: Any, total: int, label: str) -> Any:
    return items


class Batch:
    """Videos and clips of a folder, and its scores on request."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.videos = tables.write("videos", ingest.run("film", "raw", INGEST, root, track), root / "videos.parquet")
        rows = split.run(self.videos, ALL, SPLIT, root, track)
        self.clips = tables.write("clips", rows, root / "clips.parquet")

    def measured_here(self, **changes: Any) -> dict[str, Any]:
        """What a worker answers for all clips, in this process, in chunks of a film: {clip_id: values}."""
        params = PARAMS.model_copy(update=changes)
        settings = score.settings_of(ALL, SPLIT, params, self.root)
        uris = {row["video_id"]: row["uri"] for row in self.videos.to_pylist()}
        chunks = score.plan(self.clips.to_pylist(), uris, {name: {} for name in settings.measures}, 4)
        answers = scoring.measure_chunks(chunks, settings.as_json(), self.root, params, threads=1)
        return {clip: values for answer in answers for clip, values in answer.items()}

    def scores(self, versions: dict[str, int] | None = None, cut: SplitParams = SPLIT, **changes: Any) -> pa.Table:
        params = PARAMS.model_copy(update=changes)
        rows = score.run(self.videos, self.clips, ALL, cut, params, versions or VERSIONS, self.root, track)
        return tables.write("scores", rows, self.root / "scores.parquet")

    def stored(self) -> dict[str, int]:
        """Modification time of every file of kept measures."""
        store = self.root / "runs" / "measures"
        return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.rglob("*.parquet")}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, make_video: Any) -> Batch:
    """Scored once; only to be copied."""
    root = tmp_path_factory.mktemp("scored")
    make_video(root / "raw" / "fast.mp4", seconds=3, speed=3.0)
    make_video(root / "raw" / "still.mp4", seconds=3, speed=0.0, seed=1)
    batch = Batch(root)
    batch.scores()
    return batch


@pytest.fixture
def batch(tmp_path: Path, scored: Batch) -> Batch:
    """A copy of the same batch, already scored, free to be changed."""
    shutil.copytree(scored.root, tmp_path, dirs_exist_ok=True)
    mine = copy.copy(scored)
    mine.root = tmp_path
    return mine


@pytest.fixture
def single(tmp_path: Path, make_video: Any) -> Batch:
    """One clip, not scored."""
    make_video(tmp_path / "raw" / "a.mp4", seconds=1.3)
    return Batch(tmp_path)


def test_every_clip_has_every_measure_labelled_with_its_estimator(batch: Batch) -> None:
    rows = batch.scores().to_pylist()
    assert len(rows) == batch.clips.num_rows == 4
    for row in rows:
        assert row["reason"] is None and all(row[name] is not None for name in MEASURED)
        assert row["flow_estimator"] == "opencv-dis (stand-in for UniMatch)"
        assert row["aesthetic_scorer"] == "classical (stand-in for DOVER)"
        assert len(row["flow_pairs"]) == 2 and len(row["phash"]) == 3 and (row["height"], row["width"]) == (240, 400)
        assert row["cuts_inside"] == 0 and 0 < row["overall"] < 1


def test_motion_tells_the_moving_from_the_still(batch: Batch) -> None:
    source = {row["clip_id"]: row["video_id"] for row in batch.clips.to_pylist()}
    uris = {row["video_id"]: row["uri"] for row in batch.videos.to_pylist()}
    motion = {uris[source[row["clip_id"]]]: row["flow_motion"] for row in batch.scores().to_pylist()}
    # 3 px a frame at 24 fps, 12 frames between samples, 160 -> 576 px wide: 36 * 3.6; it wraps, so not exactly
    assert motion["raw/still.mp4"] < 0.5 < 30 < motion["raw/fast.mp4"]


def test_a_second_run_reads_nothing_and_gives_equal_bytes(batch: Batch) -> None:
    first, before = (batch.root / "scores.parquet").read_bytes(), batch.stored()
    for video in (batch.root / "raw").iterdir():
        video.unlink()
    batch.scores()
    assert (batch.root / "scores.parquet").read_bytes() == first and batch.stored() == before


def test_a_kept_measure_that_is_damaged_is_measured_again(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    first = batch.scores()
    damaged = next((batch.root / "runs" / "measures").glob("saturation-*/*/*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert batch.scores().equals(first)
    assert f"{damaged} is damaged" in caplog.text
    caplog.clear()
    assert batch.scores().equals(first) and not caplog.text, "it is whole again"


def test_a_raised_version_measures_that_one_measure_again(batch: Batch) -> None:
    first, before = batch.scores(), batch.stored()
    raised = VERSIONS["saturation"] + 1
    again = batch.scores({**VERSIONS, "saturation": raised})
    new = set(batch.stored()) - set(before)
    assert new and all(name.startswith(f"saturation-v{raised}-") for name in new)
    assert {name: time for name, time in batch.stored().items() if name in before} == before
    assert again.equals(first)


def test_a_changed_setting_measures_all_again(batch: Batch) -> None:
    before = batch.stored()
    batch.scores(cut=SPLIT.model_copy(update={"frames": 13}))
    assert len(batch.stored()) == 2 * len(before)


def test_no_score_but_a_networks_knows_the_size_asked_for(batch: Batch) -> None:
    first, before = batch.scores(), batch.stored()
    assert batch.scores(short_side=64).equals(first) and batch.stored() == before


def test_one_decode_a_clip_and_only_what_is_asked(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (calls.append(name), real(*a, **k))[1])

    for owner, name in (
        (io, "clip_frames"),
        (measures, "flows_between"),
        (measures, "vmaf_motion"),
        (measures, "technical"),
    ):
        counted(owner, name)
    video = batch.videos.to_pylist()[0]
    spans = [
        (row["clip_id"], row["start_pts"], row["end_pts"], row["frames"])
        for row in batch.clips.to_pylist()
        if row["video_id"] == video["video_id"]
    ]
    settings = score.settings_of(ALL, SPLIT, PARAMS, batch.root).as_json()
    measure_clips(str(batch.root / video["uri"]), spans, list(OWN), settings, None)
    assert sorted(calls) == sorted(["clip_frames", "flows_between", "vmaf_motion", "technical"] * len(spans))
    calls.clear()
    measure_clips(str(batch.root / video["uri"]), spans, ["vmaf_motion"], settings, None)
    assert sorted(calls) == sorted(["clip_frames", "vmaf_motion"] * len(spans))


def shifted_by(planes: np.ndarray, offset: int) -> np.ndarray:
    """The same array, `offset` bytes behind a multiple of 64."""
    room = np.empty(planes.nbytes + 128, np.uint8)
    begin = -room.ctypes.data % 64 + offset
    copy_of = room[begin : begin + planes.nbytes].reshape(planes.shape)
    copy_of[...] = planes
    return copy_of


def test_no_score_knows_where_in_memory_its_pictures_lie(batch: Batch) -> None:
    """Vector code may round otherwise at another alignment, and tables are to be equal to the byte."""
    rng = np.random.default_rng(0)
    shapes = (17, 96, 160), (17, 48, 80, 3), (2, 120, 200), (3, 96, 160, 3)
    planes = [rng.integers(16, 236, shape).astype(np.uint8) for shape in shapes]
    settings = score.settings_of(ALL, SPLIT, PARAMS, batch.root)
    first = measure(Seen(*planes, indices=(0, 8, 16)), OWN, settings)
    for offset in (1, 8, 17, 32, 47):
        moved = Seen(*(shifted_by(each, offset) for each in planes), indices=(0, 8, 16))
        assert measure(moved, OWN, settings) == first


def test_a_broken_video_costs_its_clips_and_a_mended_one_is_measured(batch: Batch) -> None:
    bad = batch.root / "raw" / "still.mp4"
    whole = bad.read_bytes()
    shutil.rmtree(batch.root / "runs")
    bad.write_bytes(whole[: len(whole) // 2])
    rows = batch.scores().to_pylist()
    broken = {row["reason"].split(":")[0] for row in rows if row["reason"]}
    assert broken == {"TRUNCATED"} and sum(row["reason"] is None for row in rows) == 2
    assert all(row["flow_motion"] is None and row["phash"] is None for row in rows if row["reason"])
    bad.write_bytes(whole)
    assert all(row["reason"] is None for row in batch.scores().to_pylist())


def test_a_clip_that_breaks_leaves_its_neighbours_in_the_same_film(tmp_path: Path, make_video: Any) -> None:
    path = make_video(tmp_path / "raw" / "a.mp4", seconds=9)
    batch = Batch(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + len(data) // 2
    data[at : at + 300] = b"\xff" * 300
    path.write_bytes(data)
    reasons = [row["reason"] for row in batch.scores().to_pylist()]
    assert 1 <= sum(reason is not None for reason in reasons) <= 3
    assert all(reason.startswith("DECODE_FAILED") for reason in reasons if reason)


def test_settings_that_leave_no_pair_are_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match=r"sample_seconds 2 leaves no pair in 17 frames at 16 fps"):
        batch.scores(sample_seconds=2.0)


def measured_again(batch: Batch, before: dict[str, int]) -> set[str]:
    """The measures of which something new is kept."""
    return {name.split("-v")[0] for name in set(batch.stored()) - set(before)}


def test_a_changed_setting_of_one_measure_measures_it_alone(batch: Batch) -> None:
    before, first = batch.stored(), batch.scores()
    again = batch.scores(cut=SPLIT.model_copy(update={"threshold": 20.0}))
    assert measured_again(batch, before) == {"cuts_inside"}
    assert again.equals(first)


def test_what_is_not_asked_for_is_null_and_is_not_kept(batch: Batch) -> None:
    rows = batch.scores().to_pylist()
    assert all(row[name] is None for row in rows for name in ("text_area", "text_detector", "nsfw", "nsfw_detector"))
    assert not any(name.startswith(("text_area", "nsfw")) for name in batch.stored())


@pytest.mark.parametrize(("key", "value", "extra"), [("text", "rapidocr", "text"), ("nsfw", "nudenet", "nsfw")])
def test_an_extra_that_is_absent_is_one_line(
    batch: Batch, key: str, value: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Found first by the workers, which look for modules where their parent does."""
    (tmp_path / f"{value}.py").write_text("raise ModuleNotFoundError('not installed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=rf"score\.{key} asks for {value}.*sana-video-mlops\[{extra}\]"):
        batch.scores(**{key: value})


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value", "column"), [("text", "rapidocr", "text_area"), ("nsfw", "nudenet", "nsfw")])
def test_extras_are_measured_alone_where_asked_for(single: Batch, key: str, value: str, column: str) -> None:
    pytest.importorskip(value)
    single.scores()
    before = single.stored()
    (row,) = single.scores(**{key: value}).to_pylist()
    assert measured_again(single, before) == {column}
    assert 0.0 <= row[column] <= 1.0
    assert value in row["text_detector" if key == "text" else "nsfw_detector"]


class Branches(torch.nn.Module):
    """In DOVER's place: two scores, each of one view."""

    def forward(self, aesthetic: torch.Tensor, technical: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.1 * aesthetic.mean((1, 2, 3, 4)), 0.1 * technical.std((1, 2, 3, 4))


def dover_params(root: Path, **changes: Any) -> DoverParams:
    path = root / "weights" / "dover.pt"
    path.parent.mkdir(exist_ok=True)
    torch.jit.script(Branches()).save(str(path))
    order = ("aesthetic", "technical")
    return DoverParams(
        **{"file": "weights/dover.pt", "sha256": sha256_file(path), "inputs": order, "outputs": order, **changes}
    )


def test_a_users_dover_scores_the_clips_twice_the_same_and_is_named(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    before, first, params = batch.stored(), batch.scores(), dover_params(batch.root)
    rows = batch.scores(aesthetic="dover", dover=params, workers=1).to_pylist()
    assert measured_again(batch, before) == {"aesthetic"}
    assert caplog.text.count("non-commercial") == 1
    for row, other in zip(rows, first.to_pylist(), strict=True):
        assert row["aesthetic_scorer"] == f"dover ({params.sha256[:12]})" and row["reason"] is None
        assert 0.0 < row["overall"] < 1.0 and row["flow_pairs"] == other["flow_pairs"]
    assert len({row["overall"] for row in rows}) > 1
    many = params.model_copy(update={"batch": 3})
    again = batch.measured_here(aesthetic="dover", dover=many)
    for name in ("overall", "aesthetic", "technical"):
        found = [again[row["clip_id"]][name] for row in rows]
        assert found == pytest.approx([row[name] for row in rows], abs=1e-6)


def test_another_dover_than_the_pinned_one_is_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match=r"dover\.pt has sha256 [0-9a-f]{64}, params pin 0000"):
        batch.scores(aesthetic="dover", dover=dover_params(batch.root, sha256="0" * 64), workers=1)
    with pytest.raises(FileNotFoundError, match="bring your own export"):
        batch.measured_here(aesthetic="dover", dover=dover_params(batch.root, file="weights/none.pt"))


def unimatch_of_chance(root: Path) -> unimatch.UniMatch:
    """The network with random weights, also as a file under weights/flow."""
    torch.manual_seed(0)
    network = unimatch.UniMatch()
    (root / "weights" / "flow").mkdir(parents=True)
    save_file(network.state_dict(), root / "weights" / "flow" / "model.safetensors")
    return network.eval()


def shifted(self: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """In the place of the network's half minute a pair on a CPU: a flow that tells its pair."""
    return torch.stack([first.mean(1), second.mean(1)], 1)


@pytest.mark.parametrize("at_once", [1, 3])
def test_unimatch_runs_in_the_worker_on_pairs_of_several_clips(
    batch: Batch, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unimatch.UniMatch, "forward", shifted)
    monkeypatch.setitem(networks.PAIRS_AT_ONCE, "cpu", at_once)
    network, first = unimatch_of_chance(batch.root), batch.scores().to_pylist()
    found = batch.measured_here(flow="unimatch", flow_weights="weights/flow")
    uris = {row["video_id"]: row["uri"] for row in batch.videos.to_pylist()}
    for other, clip in zip(first, batch.clips.to_pylist(), strict=True):
        row, path = found[clip["clip_id"]], batch.root / uris[clip["video_id"]]
        pictures = io.decode_span(path, clip["start_pts"], clip["end_pts"], 16, 17, short_side=480)  # not PARAMS' 96
        flow = network.flow(pictures[[0, 8]], pictures[[8, 16]]).numpy()
        assert row["vmaf_motion"] == other["vmaf_motion"]
        assert row["flow_pairs"] == pytest.approx([float(np.hypot(*each).mean()) for each in flow], rel=1e-5)
        assert row["flow_absmean_pairs"] == pytest.approx([float(np.abs(each).mean()) for each in flow], rel=1e-5)
        assert row["flow_estimator"] == unimatch.ESTIMATOR and row["flow_times"] == [0.0, 0.5]
    with pytest.raises(ValueError, match="`sana-video weights fetch unimatch-flow`"):
        batch.scores(flow="unimatch", flow_weights="weights/elsewhere", workers=1)


@pytest.mark.slow
def test_unimatch_itself_measures_a_clip(single: Batch) -> None:
    unimatch_of_chance(single.root)
    (row,) = single.scores(flow="unimatch", flow_weights="weights/flow").to_pylist()
    assert row["reason"] is None and len(row["flow_pairs"]) == 2 and row["flow_motion"] > 0


def test_pictures_that_are_not_what_was_asked_for_cost_their_clip(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that was taken over may write anything: it is refused, and nothing of it is run."""
    real, spoilt = scoring._decode, []

    def spoiling(path: Path, clips: Any, measures: Any, settings: Any, folder: Path) -> Any:
        values = real(path, clips, measures, settings, folder)
        if not spoilt:
            spoilt.append(next(iter(values)))
            np.save(folder / f"{spoilt[0]}-technical.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        return values

    monkeypatch.setattr(scoring, "_decode", spoiling)
    found = batch.measured_here(aesthetic="dover", dover=dover_params(batch.root))
    reasons = {clip: values["reason"] for clip, values in found.items() if "reason" in values}
    assert list(reasons) == spoilt and reasons[spoilt[0]].startswith("DECODER_CRASHED: no technical pictures")
    assert len(found) == batch.clips.num_rows
