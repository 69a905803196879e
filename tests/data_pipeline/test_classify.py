"""A classifier out of labels: judged on films it has not seen, kept as numbers, and refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from good_tables import row, score, table
from typer.testing import CliRunner

from data_pipeline import classify, curate, tables
from data_pipeline.cli import app
from data_pipeline.params import ClassifierParams, CurateParams
from infra.settings import AppContext

VIDEOS, CLIPS = 40, 4
IDS = [f"v{video:02d}c{clip}" for video in range(VIDEOS) for clip in range(CLIPS)]


def clips() -> pa.Table:
    return table("clips", [row("clips", clip_id=i, video_id=i[:3], source="game") for i in IDS])


def truth() -> dict[str, bool]:
    return {clip: int(clip[1:3]) % 2 == 0 for clip in IDS}


def scores(signal: float) -> pa.Table:
    """Embeddings in which the class shifts one direction by `signal`; every film has a direction of its own as well."""
    rng, rows = np.random.default_rng(5), []
    films = rng.normal(size=(VIDEOS, 16))
    for clip in IDS:
        vector = films[int(clip[1:3])] + 0.3 * rng.normal(size=16)
        vector[0] += signal * truth()[clip]
        rows.append(
            {**score(clip), "embedding": vector.astype(np.float32).tolist(), "embedder": "test", "stillness": 0.1}
        )
    return table("scores", rows)


@pytest.fixture(scope="module")
def fitted() -> classify.Classifier:
    return classify.fit("low_quality_game", truth(), clips(), scores(12.0))


def test_it_finds_a_class_in_films_it_has_not_seen(fitted: classify.Classifier) -> None:
    metrics = fitted.metrics
    assert metrics.auc.lowest > 0.9 and metrics.accuracy.mean > metrics.baseline_accuracy + 0.3
    assert (metrics.clips, metrics.videos, metrics.positive, metrics.folds) == (160, 40, 80, 5)
    said = classify.shown(fitted)
    assert "auc" in said and "baseline" in said and "over the folds" in said


def test_what_only_tells_films_apart_is_worth_nothing() -> None:
    """Labels drawn by film say nothing of the next film; folds that shared films would know them by heart."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    matrix, _, _ = classify.features(scores(0.0))
    video, honest, leaky = np.repeat(np.arange(VIDEOS), CLIPS), [], []
    for seed in range(6):
        labels = np.random.default_rng(seed).permutation(np.arange(VIDEOS) % 2 == 0)[video]
        honest.append(classify.cross_validated(matrix, labels, video).auc.mean)
        mixed = StratifiedKFold(5, shuffle=True, random_state=seed)
        leaky.append(
            cross_val_score(LogisticRegression(C=100), matrix[:, -16:], labels, cv=mixed, scoring="roc_auc").mean()
        )
    assert abs(np.mean(honest) - 0.5) < 0.1 < 0.7 < np.mean(leaky)


def test_the_file_is_named_by_its_content(fitted: classify.Classifier, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(fitted.text())
    assert classify.read(path) == fitted
    assert classify.fit("low_quality_game", truth(), clips(), scores(12.0)).text() == fitted.text()
    path.write_text(fitted.text().replace(f'"bias": {fitted.bias}', '"bias": 9.0'))
    with pytest.raises(ValueError, match="changed by hand"):
        classify.read(path)
    for text in ("{}", "[", "[]", '{"id": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="no classifier"):
            classify.read(path)


def test_it_becomes_a_column_and_a_reason(fitted: classify.Classifier) -> None:
    asked = {"low_quality_game": ClassifierParams(file="classifiers/x.json", thresholds={"game": 0.5})}
    found = classify.run(clips(), scores(12.0), asked, {"low_quality_game": fitted})
    assert found.schema.equals(classify.CLASSES) and len(found) == len(IDS)
    told = dict(zip(found["clip_id"].to_pylist(), found["probability"].to_pylist(), strict=True))
    assert np.mean([(told[clip] >= 0.5) == truth()[clip] for clip in IDS]) > 0.95
    videos = table(
        "videos",
        [
            row("videos", video_id=f"v{n:02d}", source="game", uri=f"{n}", width=64, height=64, rotation=0)
            for n in range(VIDEOS)
        ],
    )
    cut = table(
        "clips",
        [
            row(
                "clips",
                clip_id=i,
                video_id=i[:3],
                source="game",
                shot=0,
                start=9.0 * n,
                end=9.0 * n + 2,
                frames=33,
                fps=16.0,
            )
            for n, i in enumerate(IDS)
        ],
    )
    captions = table("captions", [row("captions", clip_id=i, text="x") for i in IDS])
    params = CurateParams.model_validate({"ranges": {"default": {}}, "validation": 0.1})

    def reasons(classes: pa.Table, asked: dict[str, ClassifierParams]) -> dict[str, list[str]]:
        chosen = curate.run(videos, cut, scores(12.0), captions, table("twins", []), params, None, classes, asked)
        return dict(zip(chosen["clip_id"].to_pylist(), chosen["reasons"].to_pylist(), strict=True))

    dropped = reasons(found, asked)
    assert {clip for clip in IDS if told[clip] >= 0.5} == {
        c for c, why in dropped.items() if "CLASSIFIED_LOW_QUALITY_GAME" in why
    }
    assert all("MISSING_LOW_QUALITY_GAME" in why for why in reasons(found.slice(0, 0), asked).values())
    other = {"low_quality_game": ClassifierParams(file="classifiers/x.json", thresholds={"film": 0.0})}
    assert not any("QUALITY_GAME" in "".join(why) for why in reasons(found, other).values()), (
        "asked of its sources alone"
    )
    assert not len(classify.run(clips(), scores(12.0), other, {"low_quality_game": fitted}))


def test_a_missing_measure_has_no_probability_and_is_no_pass(fitted: classify.Classifier) -> None:
    broken = scores(12.0)
    rows = broken.to_pylist()
    rows[3]["flicker"] = None
    asked = {"low_quality_game": ClassifierParams(file="classifiers/x.json", thresholds={"game": 0.5})}
    found = classify.run(clips(), table("scores", rows), asked, {"low_quality_game": fitted})
    assert [r["clip_id"] for r in found.to_pylist() if r["probability"] is None] == [IDS[3]]


def test_other_measures_or_another_embedder_are_refused(fitted: classify.Classifier) -> None:
    asked = {"low_quality_game": ClassifierParams(file="classifiers/x.json", thresholds={"game": 0.5})}
    old = fitted.model_copy(update={"measures": {**fitted.measures, "flow_motion": 1}})
    with pytest.raises(ValueError, match="fitted on flow_motion 1"):
        classify.run(clips(), scores(12.0), asked, {"low_quality_game": old})
    foreign = fitted.model_copy(update={"embedder": "another"})
    with pytest.raises(ValueError, match="fit it again"):
        classify.run(clips(), scores(12.0), asked, {"low_quality_game": foreign})


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (dict.fromkeys(IDS, True), "too few labels: 0 clips of 0 videos are 0"),
        (dict(list(truth().items())[:30]), "too few labels"),
        ({**truth(), "nowhere": True}, "clip nowhere is labelled and not in data/scores"),
    ],
)
def test_too_few_labels_are_refused(labels: dict[str, bool], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        classify.fit("x", labels, clips(), scores(12.0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip,label\na,1\n", "first line"),
        ("clip_id,label\na,maybe\n", "line 2"),
        ("clip_id,label\na,1\na,0\n", "line 3: clip a is labelled twice"),
    ],
)
def test_labels_that_are_wrong_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        classify.read_labels(path)


def test_labels_are_a_csv_or_a_review(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("clip_id,label\r\na,1\r\nb,no\r\n")
    assert classify.read_labels(path) == {"a": True, "b": False}
    told: list[dict[str, Any]] = [{"clip_id": "a", "decision": "reject", "failed": [], "time": "2026-01-31T12:00:00Z"}]
    path = tmp_path / "review.json"
    path.write_text(json.dumps({"kind": "sana-video-sft-review", "version": 1, "reviewer": "x", "decisions": told}))
    assert classify.read_labels(path) == {"a": True}


def test_the_commands_fit_and_apply_it(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for name in ("dvc.yaml", "params.yaml", "versions.yaml"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    for batch, chosen in (("film", slice(0, 80)), ("more", slice(80, None))):
        for name, full in (("clips", clips()), ("scores", scores(12.0))):
            tables.write(name, full.to_pylist()[chosen], tmp_path / "data" / name / f"{batch}.parquet")
    labels = tmp_path / "labels.csv"
    labels.write_text("clip_id,label\n" + "".join(f"{clip},{int(label)}\n" for clip, label in truth().items()))

    def sana(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["classify", *words], obj=AppContext(tmp_path, tmp_path / "params.yaml"))
        return result.exit_code, result.output

    code, said = sana("fit", "--labels", str(labels), "--name", "low_quality_game")
    assert code == 0 and "160 clips of 40 videos, 80 are 1" in said
    asked = "data.classify={low_quality_game: {file: classifiers/low_quality_game.json, thresholds: {game: 0.5}}}"
    assert sana("--set", asked)[0] == 0
    path = tmp_path / "data" / "classes.parquet"
    assert tables.read("classes", path).num_rows == len(IDS)
    first = path.read_bytes()
    assert sana("--set", asked)[0] == 0 and path.read_bytes() == first
    assert sana()[0] == 0 and tables.read("classes", path).num_rows == 0, "no classifier is named: an empty table"
    labels.write_text("clip_id,label\nx,1\n")
    code, said = sana("fit", "--labels", str(labels), "--name", "low_quality_game")
    assert code == 2 and said.strip().count("\n") == 0 and "clip x is labelled" in said
