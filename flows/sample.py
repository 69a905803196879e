"""`sample`: a registered model or a folder, and a prompt; out comes a film that says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.storage import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sana_video.pipeline import SanaVideoPipeline


@dataclass(frozen=True)
class Request:
    """What to make. None takes the model's own default; `frames` wins over `seconds`."""

    model: str
    prompt: str
    image: Path | None
    motion_score: float | None
    seconds: float | None
    frames: int | None
    size: str | None
    steps: int | None
    guidance: float | None
    seed: int


def sample(request: Request, out: Path, root: Path, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Write `out` (mp4; PNG for one frame) and return what was made.

    Raises ValueError or FileNotFoundError for a model, image, size or length that cannot be had, before any sampling.
    """
    if out.suffix.lower() not in (".mp4", ".png"):
        raise ValueError(f"--out {out}: write to a .mp4, or a .png for one frame")
    height, width = _size(request.size)
    image = None if request.image is None else _read_image(request.image)
    folder, called = locate(request.model, root)
    from sana_video.pipeline import SanaVideoPipeline

    pipeline = SanaVideoPipeline.from_pretrained(folder)
    frames = _frames(request, pipeline)
    if (frames == 1) != (out.suffix.lower() == ".png"):
        raise ValueError(f"--out {out}: {frames} frames are written as {'.png' if frames == 1 else '.mp4'}")
    video = pipeline(
        request.prompt,
        image=image,
        motion_score=request.motion_score,
        frames=frames,
        height=height,
        width=width,
        steps=request.steps,
        guidance=request.guidance,
        seed=request.seed,
        on_step=on_step,
    )[0].numpy()
    about = _about(request, called, folder, pipeline, video.shape)
    _write(out, video, pipeline.defaults.fps, request, about)
    return {"out": str(out), **about}


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


def _about(
    request: Request, called: str, folder: Path, pipeline: SanaVideoPipeline, shape: tuple[int, ...]
) -> dict[str, Any]:
    defaults = pipeline.defaults
    return {
        "model": called,
        "prompt": request.prompt,
        "image": request.image.name if request.image else None,
        "seed": request.seed,
        "steps": defaults.steps if request.steps is None else request.steps,
        "guidance": defaults.guidance if request.guidance is None else request.guidance,
        "motion_score": defaults.motion_score if request.motion_score is None else request.motion_score,
        "frames": shape[0],
        "height": shape[1],
        "width": shape[2],
        "text_encoder": pipeline.text_encoder.name,
        "attribution": _attributions(folder),
    }


def _attributions(folder: Path) -> list[str]:
    """Whose films the model learned from, as its lineage states them."""
    lineage = folder / "lineage.json"
    if not lineage.is_file():
        return []
    sources = json.loads(lineage.read_text())["sources"]
    return sorted({f"{s['attribution']} ({s['licence']})" for s in sources if s["attribution"]})


def _write(out: Path, video: NDArray[np.uint8], fps: float, request: Request, about: dict[str, Any]) -> None:
    if len(video) == 1:
        atomic_write(out, _png(video[0], about))
        return
    from fractions import Fraction

    from sana_video.video.io import encode_mp4

    metadata = {
        "title": request.prompt,
        "comment": json.dumps(about, ensure_ascii=False, sort_keys=True),
        "copyright": "; ".join(about["attribution"]),
    }
    encode_mp4(out, video, Fraction(fps).limit_denominator(1001), {k: v for k, v in metadata.items() if v})


def _png(picture: NDArray[np.uint8], about: dict[str, Any]) -> bytes:
    import io

    from PIL import Image, PngImagePlugin

    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("Description", json.dumps(about, ensure_ascii=False, sort_keys=True))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", pnginfo=notes)
    return buffer.getvalue()


def _read_image(path: Path) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"--image {path}: no such file")
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"--image {path}: not a picture that can be read ({error})") from None


def _frames(request: Request, pipeline: SanaVideoPipeline) -> int:
    """Frames asked for; seconds become the nearest count the autoencoder knows (a multiple of its stride plus one)."""
    if request.frames is not None:
        return request.frames
    if request.seconds is None:
        return pipeline.defaults.frames
    if not 0 < request.seconds <= 3600:
        raise ValueError(f"--seconds {request.seconds}: expected more than 0 and at most 3600")
    stride = pipeline.autoencoder.stride[0]
    return 1 + stride * max(0, round((request.seconds * pipeline.defaults.fps - 1) / stride))


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    height, mark, width = text.lower().partition("x")
    if not (mark and height.isdigit() and width.isdigit()):
        raise ValueError(f"--size {text}: expected HEIGHTxWIDTH, such as 96x160")
    return int(height), int(width)
