"""Networks pass from file to file and back, the real diffusers agrees with them, and memory does not grow."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import SanaVideoTransformer3DModel
from torch import Tensor

from sana_video import weights
from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo
from sana_video.pipeline import _load_null
from sana_video.weights import conversion

Oracle = Callable[[SanaVideo], SanaVideoTransformer3DModel]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def theirs(oracle: SanaVideoTransformer3DModel, inputs: Inputs) -> Tensor:
    latents, timestep, text, mask = inputs
    with torch.no_grad():
        return oracle(latents, text, timestep, encoder_attention_mask=mask.float()).sample


def same(ours: Tensor, others: Tensor) -> bool:
    """Two implementations in fp32: some hundred roundings of 6e-8 each along two blocks."""
    return ((ours - others).norm() / others.norm()).item() < 1e-5


@pytest.mark.parametrize("max_shard_size", ["10GB", "300KB"])
def test_diffusers_folder_becomes_ours(
    tmp_path: Path, model: SanaVideo, oracle_of: Oracle, inputs: Inputs, max_shard_size: str
) -> None:
    oracle = oracle_of(model)
    oracle.save_pretrained(tmp_path / "theirs", max_shard_size=max_shard_size)
    shards = len(list((tmp_path / "theirs").glob("*.safetensors")))
    assert (shards > 1) == (max_shard_size == "300KB")
    done = conversion.convert(tmp_path / "theirs", tmp_path / "ours")
    assert done["parameters"] == sum(p.numel() for p in oracle.parameters())
    for folder in ("ours", "theirs"):  # converted first, or read as it is
        loaded = SanaVideo.from_pretrained(tmp_path / folder)
        assert loaded.config == model.config.with_(origin="diffusers", text_tokens=300)
        assert not loaded.training
        with torch.no_grad():
            assert same(loaded(*inputs), theirs(oracle, inputs))
    assert SanaVideo.from_pretrained(tmp_path / "theirs", dtype=torch.bfloat16).final.table.dtype == torch.bfloat16


def test_a_whole_pipeline_folder_gives_its_network(tmp_path: Path, model: SanaVideo, oracle_of: Oracle) -> None:
    oracle_of(model).save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text('{"_class_name": "SanaVideoPipeline"}')
    loaded = SanaVideo.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_ours_becomes_a_folder_that_diffusers_reads_strictly(
    tmp_path: Path, model: SanaVideo, oracle_of: Oracle, inputs: Inputs
) -> None:
    model.save_pretrained(tmp_path / "ours")
    conversion.convert(tmp_path / "ours", tmp_path / "theirs", layout="diffusers")
    read, info = SanaVideoTransformer3DModel.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(theirs(read, inputs), theirs(oracle_of(model), inputs))
    oracle_of(model).save_pretrained(tmp_path / "saved")
    saved, written = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("saved", "theirs"))
    for fields in (saved, written):
        del fields["_diffusers_version"]
        fields.pop("_name_or_path", None)
    assert written == saved | {"cross_attention_dim": 112, "sample_size": 30}


def test_the_480p_config_of_diffusers_is_the_published_one(tmp_path: Path) -> None:
    from sana_video.weights.diffusers import dump_config, read_config

    config = SanaVideoConfig.preset("2b-480p")
    (tmp_path / "config.json").write_text(dump_config(config))
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "_class_name": "SanaVideoTransformer3DModel",
        "_diffusers_version": "0.36.0.dev0",
        "attention_bias": False,
        "attention_head_dim": 112,
        "caption_channels": 2304,
        "cross_attention_dim": 2240,
        "cross_attention_head_dim": 112,
        "dropout": 0.0,
        "guidance_embeds": False,
        "guidance_embeds_scale": 0.1,
        "in_channels": 16,
        "interpolation_scale": None,
        "mlp_ratio": 3.0,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "num_attention_heads": 20,
        "num_cross_attention_heads": 20,
        "num_layers": 20,
        "out_channels": 16,
        "patch_size": [1, 2, 2],
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "sample_size": 30,
    }
    assert read_config(tmp_path / "config.json") == config.with_(origin="diffusers")


def test_official_through_ours_and_diffusers_and_back_is_the_same_file(
    tmp_path: Path, pth: Path, official: dict[str, Tensor], config: SanaVideoConfig, model: SanaVideo
) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    conversion.convert(pth, a)
    assert SanaVideo.from_pretrained(a).config == config
    conversion.convert(a, b, layout="diffusers", config=config)
    conversion.convert(b, c, layout="official", config=config)
    back = safetensors.torch.load_file(c / "official.safetensors")
    assert back.keys() == official.keys()
    assert all(torch.equal(back[name], official[name]) for name in official)
    again = conversion.convert(c / "official.safetensors", tmp_path / "d")
    assert (tmp_path / "d" / "model.safetensors").read_bytes() == (a / "model.safetensors").read_bytes()
    assert again["bytes"] == (a / "model.safetensors").stat().st_size


def test_the_null_prompt_lies_beside_as_the_pipeline_reads_it(
    tmp_path: Path, pth: Path, official: dict[str, Tensor], model: SanaVideo
) -> None:
    conversion.convert(pth, tmp_path / "ours")
    null = _load_null(tmp_path / "ours" / weights.NULL_FILE)
    assert null is not None
    assert torch.equal(null.text[0], official["y_embedder.y_embedding"])
    assert null.mask.all()
    model.save_pretrained(tmp_path / "other")
    conversion.convert(tmp_path / "other", tmp_path / "ours")  # another network has no use for that null prompt
    assert not (tmp_path / "ours" / weights.NULL_FILE).exists()


def test_a_damaged_null_prompt_is_refused(tmp_path: Path, model: SanaVideo) -> None:
    model.save_pretrained(tmp_path / "ours")
    weights.save(tmp_path / "ours" / weights.NULL_FILE, {"words": torch.zeros(1)})
    with pytest.raises(ValueError, match='no tensor "text"'):
        conversion.convert(tmp_path / "ours", tmp_path / "x", layout="diffusers")


def test_the_types_of_a_checkpoint_stay(tmp_path: Path, official: dict[str, Tensor]) -> None:
    torch.save({"generator": {f"model.{n}": t.bfloat16() for n, t in official.items()}}, tmp_path / "long.pt")
    conversion.convert(tmp_path / "long.pt", tmp_path / "ours")
    loaded = SanaVideo.from_pretrained(tmp_path / "ours")
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def refused(source: Path, target: Path, says: str, **options: object) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
        conversion.convert(source, target, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not list(target.glob("*")) if target.exists() else True


def test_what_cannot_be_converted_is_told_in_a_line(
    tmp_path: Path, model: SanaVideo, oracle_of: Oracle, official: dict[str, Tensor], pth: Path
) -> None:
    out, folder = tmp_path / "out", tmp_path / "theirs"
    oracle_of(model).save_pretrained(folder, max_shard_size="300KB")
    shard = sorted(folder.glob("*.safetensors"))[0]
    refused(tmp_path / "nosuch", out, "no such file or folder")
    refused(tmp_path / "nosuch.safetensors", out, "is missing")
    refused(tmp_path, out, "config.json is missing")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", out, "a folder, a .safetensors, a .pth or a .pt")
    refused(folder, out, "only an official .pth or .pt", ema=True)
    nan = {**official, "t_block.1.bias": torch.full_like(official["t_block.1.bias"], float("nan"))}
    torch.save(nan, tmp_path / "nan.pth")
    refused(tmp_path / "nan.pth", out, r"nan\.pth: t_block\.1\.bias holds NaN or infinity")
    safetensors.torch.save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", out, r"no SANA-Video network: it holds conv\.weight")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    refused(folder, out, f"{shard.name} is damaged, truncated")
    shard.unlink()
    refused(folder, out, f"lacks {shard.name}, which")
    safetensors.torch.save_file({"proj_out.bias": torch.zeros(2)}, shard)
    refused(folder, out, "missing: .*proj_out|which another file beside it holds too")
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
    refused(folder, out, "holds no weight_map")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "SanaTransformer2DModel"}, "is missing|does not describe"),
        ({"attention_bias": True}, "attention_bias is True; SANA-Video has False"),
        ({"cross_attention_dim": 9}, "cross_attention_dim is 9; SANA-Video has 112"),
        ({"num_layers": 3}, r"missing: .*transformer_blocks\.2"),
        ({"num_attention_heads": None}, "num_attention_heads is None"),
        ({"in_channels": 8, "out_channels": 8}, r"wrong shape: patch_embedding.weight \[112, 4, 1, 2, 2\] instead"),
    ],
)
def test_a_config_of_another_network_is_told(
    tmp_path: Path, model: SanaVideo, oracle_of: Oracle, change: dict[str, object], says: str
) -> None:
    oracle_of(model).save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(tmp_path / "theirs", tmp_path / "out", says)


def test_a_failed_write_leaves_nothing(tmp_path: Path, pth: Path) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            conversion.convert(pth, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert list((tmp_path / "out").iterdir()) == []


def peak_anonymous(source: Path, target: Path) -> int:
    """Bytes of memory of its own (RssAnon) that a process needs at most to convert `source`, beyond its libraries."""
    code = (
        "import sys, torch, safetensors.torch, sana_video.model\n"
        "from sana_video.weights import convert\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "convert(sys.argv[1], sys.argv[2])\n"
    )
    words = [sys.executable, "-c", code, str(source), str(target)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        start = anonymous(process.pid)
        seen = [start]
        watch = threading.Thread(target=lambda: sample(process, seen))
        watch.start()
        process.stdin.write("go\n")
        process.stdin.flush()
        process.wait()
        watch.join()
        assert process.returncode == 0
    return max(seen) - start


def sample(process: subprocess.Popen[str], seen: list[int]) -> None:
    while process.poll() is None:
        seen.append(anonymous(process.pid))
        time.sleep(0.01)


def anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def zeros(config: SanaVideoConfig, path: Path) -> None:
    """An official checkpoint of the network whose tensors are holes in the file: whole in size, free to make."""
    with torch.device("meta"):
        state = weights.to_official(SanaVideo(config).state_dict(), config)
    with torch.serialization.skip_data():
        torch.save({"state_dict": {name: torch.empty(tensor.shape) for name, tensor in state.items()}}, path)


def test_memory_holds_some_tensors_not_the_checkpoint(tmp_path: Path) -> None:
    config = SanaVideoConfig(in_channels=16, width=560, heads=5, depth=8, text_width=256, text_tokens=300)
    zeros(config, tmp_path / "x.pth")
    size = (tmp_path / "x.pth").stat().st_size
    assert size > 180 * 2**20
    # the largest tensor is 7 MiB, read once and checked; 200 MiB would be the whole
    assert peak_anonymous(tmp_path / "x.pth", tmp_path / "ours") < 64 * 2**20
    assert peak_anonymous(tmp_path / "ours", tmp_path / "theirs") < 64 * 2**20
    assert (tmp_path / "theirs" / "model.safetensors").stat().st_size > 180 * 2**20


@pytest.mark.slow
def test_eight_gigabytes_pass_in_less_than_two(tmp_path: Path) -> None:
    zeros(SanaVideoConfig.preset("2b-480p"), tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size > 8.2e9
    peak = peak_anonymous(tmp_path / "x.pth", tmp_path / "ours")
    print(f"\nRssAnon at most {peak / 2**20:.0f} MiB for {(tmp_path / 'x.pth').stat().st_size / 1e9:.2f} GB")
    assert peak < 2 * 10**9
    assert SanaVideoConfig.load(tmp_path / "ours" / "config.json") == SanaVideoConfig.preset("2b-480p")
    (tmp_path / "ours" / "model.safetensors").unlink()
