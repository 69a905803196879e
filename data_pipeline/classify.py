"""A small classifier of clips, such as the paper's for low-quality game footage: fitted on labels, kept as numbers.

Logistic regression on the stored embedding and measures. A classifier is one JSON file whose `id` is the digest of all
else in it: coefficients in standard units, the names of its features, the versions of the measures they were taken by,
and how well it did on films it had not seen. It is applied without the library that fitted it, and refused where the
measures or the embedder are other ones.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_pipeline.columns import Bools, Floats, Ints, codes, numbers, places, sorted_by
from data_pipeline.params import ClassifierParams
from data_pipeline.sft import reviews
from data_pipeline.tables import CLASSES
from sana_video.video.measures import MEASURE_VERSIONS

CLASSIFY_VERSION = 1

MEASURES = (
    "flow_motion", "camera_motion", "camera_jitter", "object_motion", "vmaf_motion", "saturation", "brightness",
    "aesthetic", "technical", "overall", "borders", "watermark", "stillness", "flicker", "duplicate_frames",
)  # fmt: skip
NEEDED = ("clip_id", *MEASURES, "embedding", "embedder", "reason")
VERSION_OF = {  # the entry of MEASURE_VERSIONS of each measure that is written under another's
    "camera_motion": "flow_motion", "camera_jitter": "flow_motion", "object_motion": "flow_motion",
    "brightness": "saturation", "technical": "aesthetic", "overall": "aesthetic",
}  # fmt: skip
FOLDS = 5
LEAST = 20  # labelled clips of each side
LEAST_VIDEOS = FOLDS  # with each label: every fold holds both
STRENGTH = 0.1  # inverse of the penalty: there are more features than labels
DIGITS = 9  # of a stored number: the last ones differ between machines
AT_ONCE = 65_536

Finite = Annotated[float, Field(allow_inf_nan=False)]
LABELS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Spread(BaseModel):
    """One figure over the folds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Finite
    lowest: Finite
    highest: Finite


class Metrics(BaseModel):
    """On held-out films, at probability 0.5. `baseline_accuracy`: of always saying what most clips are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int
    videos: int
    positive: int
    folds: int
    auc: Spread
    precision: Spread
    recall: Spread
    accuracy: Spread
    baseline_accuracy: Finite


class Classifier(BaseModel):
    """What a classifier file holds; probability = 1 / (1 + exp(-(bias + weights · (features - mean) / scale)))."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sana-video-classifier"] = "sana-video-classifier"
    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    features: tuple[str, ...]  # measures, then embedding.0 …
    measures: dict[str, int]  # versions
    embedder: str
    mean: tuple[Finite, ...]
    scale: tuple[Annotated[Finite, Field(gt=0.0)], ...]
    weights: tuple[Finite, ...]
    bias: Finite
    labels: str  # sha256 of the labels it was fitted on
    metrics: Metrics

    @model_validator(mode="after")
    def _of_one_length(self) -> Classifier:
        lengths = {len(self.features), len(self.mean), len(self.scale), len(self.weights)}
        if len(lengths) > 1 or self.features[: len(MEASURES)] != MEASURES:
            raise ValueError("features, mean, scale and weights do not go together")
        return self

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]

    def text(self) -> str:
        return json.dumps({"id": self.id, **self.model_dump(mode="json")}, indent=1) + "\n"


def read(path: Path) -> Classifier:
    """The classifier at `path`. FileNotFoundError, or ValueError where it is none or its id is not that of the rest."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such classifier: `sana-video data classify fit` writes one")
    try:
        document = json.loads(path.read_bytes())
        stated = document.pop("id")
        found = Classifier.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path.name}: no classifier: {where}: {first['msg']}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: no classifier: {type(error).__name__} {error}") from None
    if found.id != stated:
        raise ValueError(f"{path.name}: changed by hand: its id is {stated}, its content {found.id}")
    return found


def read_labels(path: Path) -> dict[str, bool]:
    """{clip_id: label} of a CSV `clip_id,label` (1 or 0), or of a review, in which what was rejected is the class.

    Raises FileNotFoundError, or ValueError naming the first line that is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix.lower() == ".json":
        return {each.clip_id: each.decision == reviews.REJECT for each in reviews.read(path).decisions}
    found: dict[str, bool] = {}
    try:
        rows = csv.reader(path.read_bytes().decode("utf-8-sig").splitlines(), strict=True)
        if next(rows, None) != ["clip_id", "label"]:
            raise ValueError(f"{path.name}: its first line is not clip_id,label")
        for number, row in enumerate(rows, start=2):
            if len(row) != 2 or row[1].strip().lower() not in LABELS:
                raise ValueError(f"{path.name} line {number}: {','.join(row)!r} is not CLIP_ID,1 or CLIP_ID,0")
            if row[0] in found:
                raise ValueError(f"{path.name} line {number}: clip {row[0]} is labelled twice")
            found[row[0]] = LABELS[row[1].strip().lower()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name}: no CSV: {error}") from None
    return found


def fit(name: str, labels: Mapping[str, bool], clips: pa.Table, scores: pa.Table) -> Classifier:
    """A classifier of the labelled clips, judged by cross-validation in which no film is in two folds.

    Raises ValueError for a clip that is not there or was not measured, and for too few labels or films of one side.
    """
    ids = sorted(labels)
    table, row = scores, places(pa.chunked_array([pa.array(ids, pa.string())]), scores.column("clip_id"))
    if (row < 0).any():
        raise ValueError(f"clip {ids[int(np.argmax(row < 0))]} is labelled and not in data/scores")
    table = table.take(pa.array(row))
    matrix, embedder, names = features(table)
    whole = np.isfinite(matrix).all(axis=1)
    if not whole.all():
        raise ValueError(
            f"clip {ids[int(np.argmin(whole))]} is labelled and lacks a measure: take it out of the labels"
        )
    film = places(table.column("clip_id"), clips.column("clip_id"))
    if (film < 0).any():
        raise ValueError(f"clip {ids[int(np.argmax(film < 0))]} is labelled and not in data/clips")
    video, _ = codes(clips.column("video_id").take(pa.array(film)))
    truth = np.array([labels[clip] for clip in ids])
    _enough(truth, video)
    metrics = cross_validated(matrix, truth, video)
    mean, scale, weights, bias = _fitted(matrix, truth)
    versions = {VERSION_OF.get(name, name): 0 for name in MEASURES} | {"embedding": 0}
    told = json.dumps({clip: bool(labels[clip]) for clip in ids})
    return Classifier(
        name=name, features=names, measures={each: MEASURE_VERSIONS[each] for each in sorted(versions)},
        embedder=embedder, mean=mean, scale=scale, weights=weights, bias=bias,
        labels=hashlib.sha256(told.encode()).hexdigest(), metrics=metrics,
    )  # fmt: skip


def _enough(truth: Bools, video: Ints) -> None:
    for label in (True, False):
        clips, films = int((truth == label).sum()), len(np.unique(video[truth == label]))
        if clips < LEAST or films < LEAST_VIDEOS:
            raise ValueError(
                f"too few labels: {clips} clips of {films} videos are {int(label)}; "
                f"{LEAST} clips of {LEAST_VIDEOS} videos are needed of 1 and of 0"
            )


def features(scores: pa.Table) -> tuple[Floats, str, tuple[str, ...]]:
    """(one row a clip, the embedder, names): measures, then the embedding; NaN where one is missing.

    ValueError where the embeddings are of several embedders, or of several lengths.
    """
    embedders = pc.unique(scores.column("embedder").drop_null()).to_pylist()
    column = scores.column("embedding").combine_chunks()
    widths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if len(embedders) != 1 or len(widths) != 1:
        raise ValueError(f"embeddings of one embedder and one length are wanted, not of {embedders} and {widths}")
    vectors = np.full((len(scores), widths[0]), np.nan)
    vectors[column.is_valid().to_numpy(zero_copy_only=False)] = (
        pc.list_flatten(column).to_numpy().reshape(-1, widths[0])
    )
    told = np.stack([numbers(scores.column(name)) for name in MEASURES], axis=1)
    names = (*MEASURES, *(f"embedding.{at}" for at in range(widths[0])))
    return np.concatenate([told, vectors], axis=1), embedders[0], names


def cross_validated(matrix: Floats, truth: Bools, video: Ints) -> Metrics:
    """How well a fit does on films that it has not seen, over `FOLDS` folds of whole films."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    figures: dict[str, list[float]] = {name: [] for name in ("auc", "precision", "recall", "accuracy")}
    for train, held in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(matrix, truth, video):
        if len(np.unique(truth[held])) < 2 or len(np.unique(truth[train])) < 2:
            raise ValueError("too few videos: a fold holds clips of one label only; label clips of more videos")
        told = probability(matrix[held], *_fitted(matrix[train], truth[train]))
        said, real = told >= 0.5, truth[held]
        hits = int((said & real).sum())
        figures["auc"].append(float(roc_auc_score(real, told)))
        figures["precision"].append(hits / said.sum() if said.any() else 0.0)
        figures["recall"].append(hits / real.sum())
        figures["accuracy"].append(float((said == real).mean()))
    spreads = {
        name: Spread(mean=_round(np.mean(x)), lowest=_round(min(x)), highest=_round(max(x)))
        for name, x in figures.items()
    }
    share = float(truth.mean())
    return Metrics(
        clips=len(truth), videos=len(np.unique(video)), positive=int(truth.sum()), folds=FOLDS,
        baseline_accuracy=_round(max(share, 1 - share)), **spreads,
    )  # fmt: skip


def _fitted(matrix: Floats, truth: Bools) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float]:
    """(mean, scale, weights, bias). The sides weigh the same, however many there are of each."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = matrix.mean(axis=0), matrix.std(axis=0)
    scale[scale < 1e-12] = 1.0
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000, tol=1e-10)
    model.fit((matrix - mean) / scale, truth)
    rounded = [tuple(_round(value) for value in each) for each in (mean, scale, model.coef_[0])]
    return rounded[0], rounded[1], rounded[2], _round(model.intercept_[0])


def _round(value: Any) -> float:
    return float(f"{float(value):.{DIGITS}g}")


def probability(
    matrix: Floats, mean: Sequence[float], scale: Sequence[float], weights: Sequence[float], bias: float
) -> Floats:
    """Of each row; NaN where a feature is."""
    logit = ((matrix - np.array(mean)) / np.array(scale)) @ np.array(weights) + bias
    return cast(Floats, 0.5 * (1.0 + np.tanh(0.5 * logit)))


def run(
    clips: pa.Table, scores: pa.Table, params: Mapping[str, ClassifierParams], fitted: Mapping[str, Classifier]
) -> pa.Table:
    """What each classifier makes of every measured clip of its sources, in the schema CLASSES."""
    parts = [_of(name, fitted[name], clips, scores, asked) for name, asked in params.items()]
    return sorted_by(pa.concat_tables([CLASSES.empty_table(), *parts]), "entry").combine_chunks()


def _of(name: str, classifier: Classifier, clips: pa.Table, scores: pa.Table, asked: ClassifierParams) -> pa.Table:
    _fits(name, classifier)
    sources = pa.array(asked.thresholds, pa.string())
    own = clips.column("clip_id").filter(pc.is_in(clips.column("source"), value_set=sources))
    wanted = pc.and_(pc.is_in(scores.column("clip_id"), value_set=own), pc.is_null(scores.column("reason")))
    rows = scores.filter(wanted)
    told = [_told(rows.slice(at, AT_ONCE), classifier) for at in range(0, len(rows), AT_ONCE)]
    ids = rows.column("clip_id")
    columns = {
        "entry": pc.binary_join_element_wise(name, ids, ":"),
        "classifier": pa.repeat(pa.scalar(name), len(rows)),
        "clip_id": ids,
        "probability": pa.array(np.concatenate([np.empty(0), *told]), pa.float64(), from_pandas=True),
        "version": pa.repeat(pa.scalar(classifier.id), len(rows)),
    }
    return pa.table(columns, schema=CLASSES)


def _told(rows: pa.Table, classifier: Classifier) -> Floats:
    """Rounded, since what follows from a threshold must not hang on the last digit of a machine."""
    matrix, embedder, names = features(rows)
    if embedder != classifier.embedder or names != classifier.features:
        raise ValueError(
            f"classifier {classifier.name} reads embeddings of {classifier.embedder}, these are {embedder}: "
            "fit it again"
        )
    return probability(matrix, classifier.mean, classifier.scale, classifier.weights, classifier.bias).round(DIGITS)


def _fits(name: str, classifier: Classifier) -> None:
    if classifier.name != name:
        raise ValueError(f"data.classify.{name}: the file is of the classifier {classifier.name}")
    for measure, version in classifier.measures.items():
        if (now := MEASURE_VERSIONS.get(measure)) != version:
            raise ValueError(f"classifier {name} was fitted on {measure} {version}, which is {now} now: fit it again")


def shown(classifier: Classifier) -> str:
    """How well it does, for people."""
    metrics = classifier.metrics
    lines = [
        f"{classifier.name} {classifier.id}: {metrics.clips} clips of {metrics.videos} videos, {metrics.positive} are 1"
        f"; {metrics.folds} folds, no video in two",
        *(
            f"  {name:<10}{spread.mean:.3f}  ({spread.lowest:.3f} to {spread.highest:.3f} over the folds)"
            for name, spread in ((name, getattr(metrics, name)) for name in ("auc", "precision", "recall", "accuracy"))
        ),
        f"  baseline  accuracy {metrics.baseline_accuracy:.3f} and AUC 0.5 of always saying what most clips are",
    ]
    return "\n".join(lines)
