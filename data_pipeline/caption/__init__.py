"""caption: what is seen in every clip, in words, and what came of each clip that has none.

Three captioners, one table: `template` writes from the measures (a stand-in), `qwen` runs Qwen2.5-VL in this process,
`endpoint` asks any server of OpenAI's chat completions. The two that look are given pictures at equal distances of
time and a versioned prompt. An answer that is no caption (`answer`) is asked for once more with another seed, and then
its clip goes on without text and with a reason. Every prompt and answer is kept (`kept`): a killed or stopped stage
goes on where it stood, and nothing is asked twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.caption import template
from data_pipeline.caption.answer import Caption, read
from data_pipeline.caption.ask import Ask, Captioner, Reply, compose
from data_pipeline.caption.endpoint import Endpoint
from data_pipeline.caption.kept import ATTEMPTS, Kept
from data_pipeline.caption.originals import originals, synthetic
from data_pipeline.caption.pictures import gap, pictures_of
from data_pipeline.caption.qwen import Qwen
from data_pipeline.caption.template import CAPTIONER as CAPTIONER
from data_pipeline.caption.template import display_aspect as display_aspect
from data_pipeline.params import CaptionParams, ranges_of
from infra.settings import machine

CAPTION_VERSION = 2
CAPTIONERS = {"template": template.CAPTIONER, "qwen": "qwen2.5-vl", "endpoint": "endpoint"}

Row = dict[str, Any]
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class Told:
    """What became of one clip: a caption or a reason, and how often was asked."""

    caption: Caption | None
    reason: str | None
    attempts: int


def run(
    videos: pa.Table, clips: pa.Table, scores: pa.Table, params: CaptionParams, batch: str, root: Path, track: Track
) -> list[Row]:
    """One caption row for every clip that split let through, of the batch whose films lie at `batch`.

    `track(rows, total, label)` reports progress. A clip without usable scores, or outside `params.ranges`, is not asked
    about and gets no text and a reason (`MISSING_SCORE`, the reason that scoring stated, `OUT_OF_RANGE:`). Raises
    MissingWeights without the captioner's weights, ValueError for a mistake in params or side files and for a spent
    budget, ConnectionError for a server that stays unable.
    """
    live = [row for row in clips.to_pylist() if row["reason"] is None]
    measured = {row["clip_id"]: row for row in scores.to_pylist()}
    reasons = {row["clip_id"]: _reason(row["source"], measured.get(row["clip_id"]), params) for row in live}
    prompts = originals(videos, batch, root)
    if params.captioner == "template":
        return _from_measures(videos, live, measured, reasons, prompts, params, track)
    rewritten = prompts if params.rewrite == "all" else _only(prompts, synthetic(videos))
    uris = {row["video_id"]: row["uri"] for row in videos.to_pylist() if row["reason"] is None}
    wanted = [row for row in live if reasons[row["clip_id"]] is None]
    captioner = open_captioner(params, root)
    told = Session(captioner, params, root, uris, rewritten).tell(wanted, track)
    told |= {clip: Told(None, reason, 0) for clip, reason in reasons.items() if reason is not None}
    name = CAPTIONERS[params.captioner]
    return [_row(row, told[row["clip_id"]], prompts, name, captioner.model, params) for row in live]


def open_captioner(params: CaptionParams, root: Path) -> Captioner:
    """The captioner that looks, as params say; a network's weights are read when the first clip comes."""
    if params.captioner == "qwen":
        from sana_video.device import best_device

        return Qwen(root / params.weights, params.batch, params.new_tokens, best_device())
    assert params.endpoint is not None
    key = machine().caption_api_key
    return Endpoint(params.endpoint, params.new_tokens, key.get_secret_value() if key else None)


class Session:
    """Asks about clips until each has a caption or a reason, and keeps what was said."""

    def __init__(
        self,
        captioner: Captioner,
        params: CaptionParams,
        root: Path,
        uris: Mapping[str, str],
        rewritten: Mapping[str, str],
    ) -> None:
        self._captioner, self._params, self._root, self._uris = captioner, params, root, uris
        self._rewritten = rewritten
        self._kept = Kept(root, params.captioner, params.prompt_version, self._settings())

    def tell(self, clips: list[Row], track: Track) -> dict[str, Told]:
        """What became of each clip, by its id."""
        self._kept.recall({row["video_id"] for row in clips})
        asks = {row["clip_id"]: self._compose(row) for row in clips}
        told: dict[str, Told] = {}
        left = clips
        for attempt in range(ATTEMPTS):
            known = {row["clip_id"]: self._kept.find(asks[row["clip_id"]], attempt) for row in left}
            unknown = [row for row in left if known[row["clip_id"]] is None]
            known |= track(self._ask(unknown, asks, attempt), len(unknown), f"captions, attempt {attempt + 1}")
            told |= {clip: self._judge(reply, attempt) for clip, reply in known.items() if reply is not None}
            left = [row for row in left if _worth_another(told[row["clip_id"]])]
        return told

    def _ask(self, clips: list[Row], asks: Mapping[str, Ask], attempt: int) -> Iterator[tuple[str, Reply]]:
        """Replies as they come, each kept before it is passed on; a clip without pictures is a reply of its own."""
        videos = {row["clip_id"]: row["video_id"] for row in clips}
        unseen: list[Reply] = []
        seen = self._with_pictures(clips, asks, unseen)
        for reply in self._captioner.replies(seen, self._params.seed, attempt):
            ask, video_id = asks[reply.clip_id], videos[reply.clip_id]
            self._kept.add(video_id, ask, attempt, self._params.seed + attempt, reply)
            yield reply.clip_id, reply
        yield from ((reply.clip_id, reply) for reply in unseen)

    def _with_pictures(self, clips: list[Row], asks: Mapping[str, Ask], unseen: list[Reply]) -> Iterator[Ask]:
        """In any order where clips are asked about one by one; in that of films where a network sees several at once,
        so that it sees the same ones each time."""
        count, cores = self._params.frames, len(os.sched_getaffinity(0))
        endpoint = self._params.endpoint if self._params.captioner == "endpoint" else None
        readers = min(cores, endpoint.concurrency) if endpoint else 1
        for clip, found in pictures_of(clips, self._uris, count, self._params.short_side, self._root, readers):
            if isinstance(found, str):
                unseen.append(Reply(clip["clip_id"], None, found, requests=0))
            else:
                yield replace(asks[clip["clip_id"]], pictures=found, gap=gap(clip, count))

    def _compose(self, clip: Row) -> Ask:
        return compose(clip["clip_id"], self._rewritten.get(clip["video_id"]), self._params.prompt_version)

    def _judge(self, reply: Reply, attempt: int) -> Told:
        asked = attempt + 1 if reply.requests else attempt
        if reply.answer is None:
            return Told(None, reply.reason, asked)
        try:
            return Told(read(reply.answer, self._params.words), None, asked)
        except ValueError as error:
            return Told(None, str(error), asked)

    def _settings(self) -> dict[str, Any]:
        """What an answer depends on besides the clip and its own prompt. The bounds on words judge it afterwards."""
        described, rewritten = (compose("", text, self._params.prompt_version).instruction for text in (None, ""))
        names = ("frames", "short_side", "new_tokens", "seed", "prompt_version", "captioner")
        return {
            "version": CAPTION_VERSION,
            "model": self._captioner.model,
            "instruction": described,
            "rewrite_instruction": rewritten,
            **{name: getattr(self._params, name) for name in names},
        }


def _worth_another(told: Told) -> bool:
    """An answer that is no caption is; a clip that cannot be seen, or that the server will not have, stays so."""
    return told.reason is not None and told.attempts > 0 and not told.reason.startswith("ENDPOINT_REFUSED")


def _from_measures(
    videos: pa.Table,
    live: list[Row],
    measured: Mapping[str, Row],
    reasons: Mapping[str, str | None],
    prompts: Mapping[str, str],
    params: CaptionParams,
    track: Track,
) -> list[Row]:
    shapes = {row["video_id"]: display_aspect(row) for row in videos.to_pylist() if row["reason"] is None}
    rows = []
    for clip in track(live, len(live), "captions"):
        clip_id, reason, text = clip["clip_id"], reasons[clip["clip_id"]], None
        if reason is None:
            text = template.describe(clip_id, clip["source"], shapes.get(clip["video_id"]), measured[clip_id])
        row = _row(clip, Told(None, reason, 0), prompts, template.CAPTIONER, template.CAPTIONER, params)
        rows.append({**row, "text": text})
    return rows


def _row(clip: Row, told: Told, prompts: Mapping[str, str], captioner: str, model: str, params: CaptionParams) -> Row:
    caption = told.caption
    return {
        "clip_id": clip["clip_id"],
        "text": caption.text if caption else None,
        "original": prompts.get(clip["video_id"]),
        "category": caption.category if caption else None,
        "style": caption.style if caption else None,
        "captioner": captioner,
        "prompt_version": params.prompt_version,
        "model": model,
        "attempts": told.attempts,
        "reason": told.reason,
    }


def _reason(source: str, score: Row | None, params: CaptionParams) -> str | None:
    """Why a clip is not asked about. What `curate` would drop for its measures need not be paid for."""
    if score is None:
        return "MISSING_SCORE"
    if score["reason"] is not None or any(score[name] is None for name in template.NEEDED):
        return score["reason"] or "MISSING_SCORE"
    ranges = ranges_of(params.ranges, source) if params.ranges else {}
    outside = [name for name, (low, high) in ranges.items() if score[name] is None or not low <= score[name] <= high]
    return f"OUT_OF_RANGE: {', '.join(outside)}" if outside else None


def _only(prompts: Mapping[str, str], ids: set[str]) -> dict[str, str]:
    return {video_id: text for video_id, text in prompts.items() if video_id in ids}
