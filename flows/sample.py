"""`sample`: a registered model or a folder, and a prompt or a file of them; out come films that say what they are.

Videos are written while they are made, one at a time unless a batch is asked for, so neither their number nor their
length costs memory, and each is the same to the bit as if it were made alone with its seed (in a batch, but for the
rounding of its arithmetic). A file appears when it is whole, which is why a run that was cut off goes on where it
stopped.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows import films
from flows.films import Job
from infra.stage import Progress
from infra.storage import sha256_file

if TYPE_CHECKING:
    import torch

    from sana_video.pipeline import Options, SanaVideoPipeline

Precision = Literal["fp8", "bf16", "fp32"]
Decoder = Literal["fast", "exact"]
DEFAULT_NEGATIVE = "default"  # as --negative-prompt: the published one


@dataclass(frozen=True)
class Request:
    """What to make. None takes the model's own default; `frames` wins over `seconds`; one of `prompt`, `prompts`."""

    model: str
    prompt: str | None = None
    prompts: Path | None = None
    image: Path | None = None
    motion_score: float | None = None
    seconds: float | None = None
    frames: int | None = None
    size: str | None = None
    aspect: str | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_rule: Literal["cfg", "apg"] | None = None
    negative_prompt: str | None = None
    videos_per_prompt: int = 1
    batch: int = 1
    seed: int = 0
    device: str | None = None
    precision: Precision | None = None
    decoder: Decoder | None = None
    step_cache: float | None = None


def sample(request: Request, out: Path, root: Path, progress: Progress) -> dict[str, Any]:
    """Write `out` and return what was made: a .mp4 (.png for one frame), or a folder of them for several videos.

    A folder also gets index.json; a video that is there already with the same settings is not made again. Raises
    ValueError or FileNotFoundError for what cannot be had, before any sampling.
    """
    from sana_video.ops.select import describe

    prompts = _prompts(request)
    several = request.prompts is not None or request.videos_per_prompt > 1
    _check_out(out, several)
    options = _options(request)
    folder, called = locate(request.model, root)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)  # once each
        warnings.showwarning = lambda message, *_: progress.say(str(message))
        pipeline = _load(request, folder)
        options["frames"] = _frames(request, pipeline)
        pipeline.check(prompts, **options)
        common = _about(request, called, folder, pipeline, options)
        jobs = list(_jobs(request, prompts, out, several, common))
        due = [job for job in jobs if not (several and films.made(job))]
        if due:
            progress.say(f"operations run as {describe(_device(request.device))}")
        begun = 0
        for group in grouped(due, request.batch):
            begun += len(group)
            label = f"{begun}/{len(due)}" if several else ""
            with progress.steps(label) as on_step:
                _make(pipeline, options, group, on_step)
            if several:
                films.write_index(out, jobs)
    if not several:
        return {"out": str(out), **jobs[0].about}
    films.write_index(out, jobs)
    return {"out": str(out), "made": len(due), "there already": len(jobs) - len(due)}


def locate(model: str, root: Path) -> tuple[Path, str]:
    """The pipeline folder that `model` names, and its name: a path, or NAME@STAGE or NAME@vX.Y.Z registered here.

    A registered one is fetched once, verified against its manifest each time.
    """
    if Path(model).is_dir():
        return Path(model), Path(model).resolve().name
    if "@" not in model:
        raise FileNotFoundError(f"--model {model}: no such folder (a registered one is NAME@champion or NAME@v0.1.0)")
    from infra import registry

    version = registry.resolve(root, model)
    called = f"{version.name}@{version.version}"
    folder = root / "runs" / "fetched" / called
    registry.fetch(root, called, folder)
    return folder, called


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; blank lines and those that begin with # are left out. ValueError if none is left."""
    if not path.is_file():
        raise FileNotFoundError(f"--prompts {path}: no such file")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {path}: not UTF-8 text (byte {error.start})") from None
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"--prompts {path}: no prompt in it; write one on each line")
    return prompts


def _prompts(request: Request) -> list[str]:
    if (request.prompt is None) == (request.prompts is None):
        raise ValueError("give one of --prompt and --prompts")
    return [request.prompt] if request.prompt is not None else read_prompts(request.prompts or Path())


def _check_out(out: Path, several: bool) -> None:
    if not several and out.suffix.lower() not in (".mp4", ".png"):
        raise ValueError(f"--out {out}: write to a .mp4, or a .png for one frame")
    if several and (out.is_file() or out.suffix.lower() in (".mp4", ".png")):
        raise ValueError(f"--out {out}: several videos need a folder")


def _options(request: Request) -> Options:
    """The pipeline's options, but for the seed and the frames, which need more than the request."""
    height, width, size = _size(request.size)
    options: Options = {
        "motion_score": request.motion_score,
        "height": height,
        "width": width,
        "size": size,
        "aspect": request.aspect,
        "steps": request.steps,
        "guidance": request.guidance,
        "guidance_rule": request.guidance_rule,
        "negative_prompt": request.negative_prompt,
        "step_cache": request.step_cache,
    }
    if request.negative_prompt == DEFAULT_NEGATIVE:
        from sana_video.text import NEGATIVE_PROMPT

        options["negative_prompt"] = NEGATIVE_PROMPT
    if request.image is not None:
        from flows.picture import read_picture

        options["image"] = read_picture(request.image)
    return options


def _size(text: str | None) -> tuple[int | None, int | None, str | None]:
    """Height and width, or the name of a published resolution."""
    if text is None or text in ("480p", "720p"):
        return None, None, text
    height, mark, width = text.lower().partition("x")
    if not (mark and height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size {text}: expected HEIGHTxWIDTH, such as 480x832, or 480p or 720p")
    return int(height), int(width), None


def _load(request: Request, folder: Path) -> SanaVideoPipeline:
    import torch

    from sana_video.device import sampling_dtype
    from sana_video.pipeline import SanaVideoPipeline

    device = _device(request.device)
    bf16 = torch.bfloat16
    named = {"fp8": bf16, "bf16": bf16, "fp32": torch.float32, None: sampling_dtype(device)}
    return SanaVideoPipeline.from_pretrained(
        folder,
        device=device,
        dtype=named[request.precision],
        autoencoder_dtype=torch.float32 if request.precision == "fp32" else None,
        fast_decoder=_decoder(request, device.type) == "fast",
        in_fp8=request.precision == "fp8",
    )


def _decoder(request: Request, kind: str) -> Decoder:
    """As asked for; else fast on a GPU, unless everything is to be fp32."""
    return request.decoder or ("fast" if kind == "cuda" and request.precision != "fp32" else "exact")


def _device(name: str | None) -> torch.device:
    """The device called `name`; without one the first GPU, else the CPU."""
    import torch

    from sana_video.device import best_device

    if name is None:
        return best_device()
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not to be had here ({str(error).splitlines()[0]})") from None
    return torch.device(name)


def _frames(request: Request, pipeline: SanaVideoPipeline) -> int:
    """Frames asked for; seconds become the nearest count the autoencoder knows."""
    if request.frames is not None:
        return request.frames
    if request.seconds is None:
        return pipeline.defaults.frames
    if not 0 < request.seconds <= 3600:
        raise ValueError(f"--seconds {request.seconds}: expected more than 0 and at most 3600")
    stride, alone = pipeline.autoencoder.stride[0], int(pipeline.autoencoder.images)
    latents = round((request.seconds * pipeline.defaults.fps - alone) / stride)
    return alone + stride * max(1 - alone, latents)


def _about(
    request: Request, called: str, folder: Path, pipeline: SanaVideoPipeline, options: Options
) -> dict[str, Any]:
    """What every video of the request depends on."""
    from sana_video.fp8 import quantized

    defaults, weight = pipeline.defaults, pipeline.model.patch_embed.weight
    height, width = pipeline.size_for(options)
    few = defaults.step_list is not None
    guidance = 1.0 if few else defaults.guidance if request.guidance is None else request.guidance
    return {
        "model": called,
        "weights_sha256": _fingerprint(folder),
        "image": request.image.name if request.image else None,
        "image_sha256": sha256_file(request.image) if request.image else None,
        "negative_prompt": pipeline.negative_prompt(options) if guidance != 1 else None,
        "steps": list(defaults.step_list or ()) if few else request.steps or defaults.steps,
        "guidance": guidance,
        "guidance_rule": request.guidance_rule or defaults.guidance_rule,
        "flow_shift": defaults.flow_shift,
        "step_cache": request.step_cache or None,
        "motion_score": defaults.motion_score if request.motion_score is None else request.motion_score,
        "frames": options["frames"],
        "height": height,
        "width": width,
        "fps": defaults.fps,
        "text_encoder": pipeline.text_encoder.name,
        "precision": "fp8" if quantized(pipeline.model) else str(weight.dtype).removeprefix("torch."),
        "decoder": _decoder(request, weight.device.type),
        "device": weight.device.type,
        "batch": request.batch,
        "attribution": _attributions(folder),
    }


def _fingerprint(folder: Path) -> str | None:
    """The first 16 hex digits of the sha256 of the network's file: all of it, read once a command, which is seconds
    where the network is of gigabytes. None for a network that does not lie in our layout.
    """
    path = folder / "model.safetensors"
    return sha256_file(path)[:16] if path.is_file() else None


def _attributions(folder: Path) -> list[str]:
    """Whose films the model learned from, as its lineage states them."""
    lineage = folder / "lineage.json"
    if not lineage.is_file():
        return []
    sources = json.loads(lineage.read_text())["sources"]
    return sorted({f"{s['attribution']} ({s['licence']})" for s in sources if s["attribution"]})


def _jobs(request: Request, prompts: list[str], out: Path, several: bool, common: dict[str, Any]) -> Iterator[Job]:
    """Prompt after prompt, its videos beside each other; video i of them all has seed + i."""
    suffix = ".png" if common["frames"] == 1 else ".mp4"
    if not several and out.suffix.lower() != suffix:
        raise ValueError(f"--out {out}: {common['frames']} frames are written as {suffix}")
    each = request.videos_per_prompt
    for i in range(len(prompts) * each):
        prompt, seed = prompts[i // each], request.seed + i
        target = out / f"{i // each + 1:03d}-{seed}{suffix}" if several else out
        yield Job(target, prompt, seed, {**common, "prompt": prompt, "seed": seed})


def grouped(jobs: Sequence[Job], most: int) -> Iterator[list[Job]]:
    """`jobs` in order, at most `most` together, whose seeds follow one another: as the pipeline counts them."""
    group: list[Job] = []
    for job in jobs:
        if group and (len(group) == most or job.seed != group[-1].seed + 1):
            yield group
            group = []
        group.append(job)
    if group:
        yield group


def _make(pipeline: SanaVideoPipeline, options: Options, group: list[Job], on_step: Callable[[int, int], None]) -> None:
    skipped: list[int] = []
    own: Options = {**options, "seed": group[0].seed, "on_step": on_step, "on_skip": skipped.append}
    pieces = pipeline.stream([job.prompt for job in group], **own)
    films.write(group, pieces, lambda: {"skipped_steps": len(skipped)} if options.get("step_cache") else {})
