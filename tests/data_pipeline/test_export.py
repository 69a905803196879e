"""Exports, read back by the rules of those who will read them."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest
import yaml
from s3_server import s3_server

from data_pipeline import export
from data_pipeline.encode import Kept
from data_pipeline.export import Item, Plan, hf, sana
from infra.stage import classify
from sana_video.text import with_motion

FRAMES, FPS, SIZES = 5, 16, ((48, 96), (96, 48))
EVIL = '../../x|<script>.zip\n"'


def track(items: Iterable[object], total: int, label: str) -> Iterable[object]:
    return items


def item(n: int, stand_in: bool = False, **more: Any) -> Item:
    clip = Kept(f"clip{n}", "wide.mp4", (n * 4096, n * 4096 + 5120), "", 3.0, "val" if n == 4 else "train", (48, 96))
    scores: dict[str, Any] = dict.fromkeys(field.name for field in hf._MEASURED)
    scores |= {
        "flow_pairs": [2.0 + n, 5.0], "flow_motion": (7.0 + n) / 2, "vmaf_motion": 2.5, "overall": 0.6,
        "flow_estimator": "opencv-dis (stand-in for UniMatch)" if stand_in else "unimatch gmflow-scale2-regrefine6",
        "aesthetic_scorer": "classical (stand-in for DOVER)" if stand_in else "dover (0123456789ab)",
    }  # fmt: skip
    caption = {
        "text": f"A film {n}. {EVIL}", "original": None, "category": "scene", "style": "cinematic", "model": "x",
        "captioner": "template (stand-in for Qwen2.5-VL)" if stand_in else "qwen2.5-vl",
    }  # fmt: skip
    known: dict[str, Any] = {"source": EVIL if n == 3 else "film", "licence": "CC BY 3.0", "attribution": f"(c) {EVIL}"}
    known["origin"] = "synthetic" if n == 3 else "real"
    return Item(clip, (48, 96), **(known | more), video_id="v", scores=scores, caption=caption)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make_video(folder / "wide.mp4", seconds=4.0, fps=24, size=(48, 96))
    return folder


def plan(root: Path, stand_in: bool = False, allow: bool = False, n: int = 5) -> Plan:
    found = [item(i, stand_in) for i in range(n)]
    ranges = {each.source: {"flow_motion": (1.0, 30.0)} for each in found}
    return Plan(found, FRAMES, FPS, SIZES, ranges, allow, root)


class OfficialLoader:
    """The loader's contract in our words: what it opens, in which order, and what it tells the network."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments, self.entries = arguments, list[dict[str, Any]]()
        for name, folder in arguments["data_dir"].items():
            zips = list(Path(folder).glob("*.zip"))
            index = Path(arguments["json_cache_dir"]) / self.index_name(name, len(zips))
            assert index.is_file(), f"the loader would build an unfiltered index: no {index.name}"
            self.entries += json.loads(index.read_text())

    def index_name(self, name: str, zips: int) -> str:
        rules = self.arguments["external_data_filter"].get(name)
        if not rules:
            return f"{name}-{zips}_cached_dataset.json"
        told = "_".join(f"{k.lstrip('_')}_{float(v['min'])}-{float(v['max'])}" for k, v in rules.items())
        return f"{name}-{zips}_{told}_f{max(self.arguments['num_frames'], 81)}_cached_dataset.json"

    def sample(self, entry: dict[str, Any]) -> tuple[list[av.VideoFrame], str, dict[str, Any]]:
        with zipfile.ZipFile(entry["zip_file"]) as archive:
            info = json.loads(archive.read(entry["json_name"]))
            video = archive.read(entry["key"] + entry["ext"])
        assert int(info["frames"]) >= self.arguments["num_frames"]
        prompt = self.side(entry, "_Qwen2.5-VL").get("prompt", info["prompt"])
        if score := self.side(entry, "_unimatch"):
            value = next(iter(score.values()))
            mean = sum(value) / len(value) if isinstance(value, list) else value
            prompt += f" motion score: {int(mean)}."
        with av.open(io.BytesIO(video)) as container:
            frames = list(container.decode(video=0))
            assert container.streams.video[0].average_rate == FPS
        return frames, prompt, info

    def side(self, entry: dict[str, Any], suffix: str) -> dict[str, Any]:
        path = Path(entry["zip_file"].replace(".zip", f"{suffix}.json"))
        return json.loads(path.read_text()).get(entry["key"], {}) if path.is_file() else {}


def loader(out: Path) -> OfficialLoader:
    return OfficialLoader(yaml.safe_load((out / "loader.yaml").read_text()))


def written(root: Path, out: Path, **more: Any) -> list[str]:
    said: list[str] = []
    sana.write(out, plan(root, **more), track, said.append, clips_a_zip=2)
    return said


def test_the_official_loader_reads_what_was_kept_and_no_held_out_clip(root: Path, tmp_path: Path) -> None:
    said = written(root, tmp_path)
    assert said == ["clips have 5 frames: a configuration with num_frames 81 skips every one of them"]
    read = loader(tmp_path)
    assert sorted(entry["key"] for entry in read.entries) == ["clip0", "clip1", "clip2", "clip3"]
    assert len({(entry["dataset_name"], entry["key"]) for entry in read.entries}) == 4
    for entry in read.entries:
        frames, prompt, info = read.sample(entry)
        assert [len(frames), frames[0].height, frames[0].width] == [FRAMES, info["height"], info["width"]]
        nearest = min(SIZES, key=lambda s: abs(math.log(s[0] / s[1] / (info["height"] / info["width"]))))
        assert (info["height"], info["width"]) == nearest
        source = item(int(entry["key"][-1]))
        assert prompt == with_motion(source.caption["text"], source.scores["flow_motion"])
        assert [info[name] for name in export.STATED] == [getattr(source, name) for name in export.STATED]
        assert entry.keys() == {"info", "cache_key", "key", "zip_file", "ext", "json_name", "dataset_name"}
        assert entry["cache_key"] == f"{entry['dataset_name']}/{entry['key']}" and entry["info"] == {}
        assert 1.0 <= sum(read.side(entry, "_unimatch")["unimatch_flow_score"]) / 2 <= 30.0
        assert read.side(entry, "_dover") == {"dover_score": 0.6}
        assert read.side(entry, "_vmafmotion") == {"vmafmotion_score": 2.5}
    card = json.loads((tmp_path / "dataset_card.json").read_text())
    assert {(each["source"], each["origin"], each["clips"]) for each in card["sources"]} == {
        ("film", "real", 4), (EVIL, "synthetic", 1),
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "train" / "film" / "00000.zip") as archive:
        assert {each.compress_type for each in archive.infolist()} == {zipfile.ZIP_STORED}
        assert [each.filename for each in archive.infolist()] == ["clip0.mp4", "clip0.json", "clip1.mp4", "clip1.json"]
    assert (tmp_path / "train-index" / "film-2_unimatch_1.0-30.0_f81_cached_dataset.json").is_file()
    assert (tmp_path / "train-index" / "film-2_cached_dataset.json").is_file()
    below = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert not any("<" in name or ".." in name for name in below)


def test_a_stand_in_is_not_written_under_a_production_name(root: Path, tmp_path: Path) -> None:
    said = written(root, tmp_path / "plain", stand_in=True)
    assert {path.name for path in (tmp_path / "plain" / "train" / "film").iterdir()} == {
        "00000.zip", "00001.zip", "00000_vmafmotion.json", "00001_vmafmotion.json",
    }  # fmt: skip
    assert any(line.startswith("_unimatch is not written for 5 clips") for line in said)
    assert len(loader(tmp_path / "plain").entries) == 4
    assert loader(tmp_path / "plain").arguments["external_data_filter"] == {}
    said = written(root, tmp_path / "allowed", stand_in=True, allow=True)
    assert any("--allow-stand-ins" in line for line in said)
    assert (tmp_path / "allowed" / "train" / "film" / "00000_unimatch.json").is_file()
    assert json.loads((tmp_path / "allowed" / "dataset_card.json").read_text())["stand_ins_under_production_names"]


def test_a_run_that_stopped_goes_on_zip_by_zip_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    def fails(items: Iterable[object], total: int, label: str) -> Iterable[object]:
        yield from range(3)  # the one clip of another source and the two of the first zip
        raise OSError(28, "No space left on device")

    written(root, tmp_path / "whole")
    with pytest.raises(OSError, match="No space"):
        sana.write(tmp_path / "stopped", plan(root), fails, lambda line: None, clips_a_zip=2)
    stopped = tmp_path / "stopped"
    assert [path.name for path in stopped.rglob("*.zip")] == ["00000.zip"] * 2 and not list(stopped.glob(".part-*"))
    first = (stopped / "train" / "film" / "00000.zip").stat()
    written(root, stopped)
    assert (stopped / "train" / "film" / "00000.zip").stat().st_ino == first.st_ino
    assert (stopped / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()


def test_a_folder_of_something_else_is_refused(root: Path, tmp_path: Path) -> None:
    one, other = plan(root).digest("sana"), plan(root, n=4).digest("sana")
    assert len({one, other, plan(root).digest("hf"), plan(root, allow=True).digest("sana")}) == 4
    export.claim(tmp_path / "out", one)
    export.claim(tmp_path / "out", one)
    with pytest.raises(ValueError, match="holds another export"):
        export.claim(tmp_path / "out", other)
    with pytest.raises(ValueError, match="not empty"):
        export.claim(tmp_path, one)
    with pytest.raises(ValueError, match=r"`\.zip`"):
        export.claim(tmp_path / "my.zips", one)


@pytest.mark.parametrize("told", [b'{"export": "ab', b"", b"\xff\xfe", b"[]", b'{"other": 1}'])
def test_a_folder_whose_plan_is_none_of_ours_is_refused(root: Path, tmp_path: Path, told: bytes) -> None:
    (tmp_path / ".export.json").write_bytes(told)
    with pytest.raises(ValueError, match="holds something else") as error:
        export.claim(tmp_path, plan(root).digest("sana"))
    assert classify(error.value).exit_code == 2


def test_an_endpoint_counts_as_qwen_by_the_model_it_was_asked_for() -> None:
    told = item(0)
    asked = replace(told, caption=told.caption | {"captioner": "endpoint", "model": "Qwen/Qwen2.5-VL-7B-Instruct"})
    assert sana._is_qwen(asked)
    assert not sana._is_qwen(replace(asked, caption=asked.caption | {"model": "other-vl"}))


def test_a_folder_of_videos_with_a_table(root: Path, tmp_path: Path) -> None:
    counters = hf.write(tmp_path, plan(root, stand_in=True), track)
    assert counters == {"clips": 5, "written": 5}
    table = pq.read_table(tmp_path / "train" / "metadata.parquet")
    assert table.column_names[0] == "file_name"
    rows = table.to_pylist()
    assert [row["clip_id"] for row in rows] == [f"clip{n}" for n in range(4)]
    for row in rows:
        with av.open(str(tmp_path / "train" / row["file_name"])) as container:
            assert len(list(container.decode(video=0))) == FRAMES
        known = item(int(row["clip_id"][-1]), stand_in=True)
        assert row["caption"] == known.caption["text"] and row["flow_pairs"] == known.scores["flow_pairs"]
        assert [row[name] for name in export.STATED] == [getattr(known, name) for name in export.STATED]
        assert row["flow_estimator"] == "opencv-dis (stand-in for UniMatch)"
    assert pq.read_table(tmp_path / "val" / "metadata.parquet").column("clip_id").to_pylist() == ["clip4"]
    card = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["configs"][0]["data_files"][1] == {"split": "validation", "path": "val/**"}
    assert "4 clips to train on and 1 held out" in card and "classical (stand-in for DOVER)" in card
    assert "<script>" not in card
    assert "| film | real | CC BY 3.0 |" in card and "| synthetic | CC BY 3.0 |" in card
    before = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "train" / rows[1]["file_name"]).unlink()
    assert hf.write(tmp_path, plan(root, stand_in=True), track)["written"] == 1
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_datasets_reads_the_folder(root: Path, tmp_path: Path) -> None:
    import datasets

    asked = plan(root)
    export.claim(tmp_path / "set", asked.digest("hf"))
    hf.write(tmp_path / "set", asked, track)
    found = datasets.load_dataset("videofolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in found.items()} == {"train": 4, "validation": 1}


def test_an_export_goes_to_a_prefix_whole_or_goes_on_there(root: Path, tmp_path: Path) -> None:
    """By the parts of it that a killed run had sent; another export, or other files, are left alone."""
    made: list[Path] = []

    def write(folder: Path) -> dict[str, int | float | str]:
        made.append(folder)
        return hf.write(folder, plan(root), track)

    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        client = server.client()
        client.create_bucket(Bucket="out")
        client.put_object(Bucket="out", Key="taken/other.txt", Body=b"x")
        first = export.send_whole("s3://out/films", "one", tmp_path, write)
        keys = {entry["Key"] for entry in client.list_objects_v2(Bucket="out", Prefix="films/")["Contents"]}
        assert first["sent"] == len(keys) and not made[0].exists()
        (tmp_path / "here").mkdir()
        hf.write(tmp_path / "here", plan(root), track)
        for path in filter(Path.is_file, (tmp_path / "here").rglob("*")):
            sent = client.get_object(Bucket="out", Key=f"films/{path.relative_to(tmp_path / 'here').as_posix()}")
            assert sent["Body"].read() == path.read_bytes(), path
        assert export.send_whole("s3://out/films", "one", tmp_path, write) == {"sent": 0} and len(made) == 1

        client.delete_object(Bucket="out", Key="films/manifest.json")  # as if killed before the end
        client.delete_object(Bucket="out", Key="films/train/metadata.parquet")
        assert export.send_whole("s3://out/films", "one", tmp_path, write)["sent"] == 2
        with pytest.raises(ValueError, match="holds another export"):
            export.send_whole("s3://out/films", "two", tmp_path, write)
        client.put_object(Bucket="out", Key="films/.export.json", Body=b'{"expo')
        with pytest.raises(ValueError, match="s3://out/films holds something else"):
            export.send_whole("s3://out/films", "one", tmp_path, write)
        with pytest.raises(ValueError, match="s3://out/taken is not empty"):
            export.send_whole("s3://out/taken", "one", tmp_path, write)
