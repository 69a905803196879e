"""From words, and perhaps an image, to frames: text encoder, sampler, network and autoencoder in one call.

The same call makes a video from text, a video from an image and, with one frame, an image. A network in both directions
is sampled with DPM-Solver++ (Euler where frames carry their own times); a chunk-causal one chunk by chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor

from sana_video import weights
from sana_video.autoencoder import Autoencoder, load_autoencoder
from sana_video.config import SamplingDefaults, read_json, validated
from sana_video.model import SanaVideo
from sana_video.sampling import (
    OnStep,
    Velocity,
    dpmpp_2m_flow,
    euler,
    flow_schedule,
    gaussian,
    guided,
    hold_first_frame,
    renoise,
    silent,
    step_sigmas,
)
from sana_video.streaming import Condition, Sampler, generate_chunks, network_time
from sana_video.text import TextEncoder, TextParams, load_text_encoder, with_motion

NULL_FILE = "null_embedding.safetensors"


@dataclass(frozen=True)
class SanaVideoPipeline:
    """A network with the autoencoder and the text encoder it was trained on, and how to sample it by default.

    `null`: what the network is told instead of a prompt, for guidance; None means the encoding of the empty string.
    """

    model: SanaVideo
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    null: Condition | None = None

    def __post_init__(self) -> None:
        channels, width = self.model.config.in_channels, self.model.config.text_width
        if channels != self.autoencoder.latent_channels:
            raise ValueError(f"the model takes {channels} channels, the autoencoder {self.autoencoder.latent_channels}")
        if width != self.text_encoder.width:
            raise ValueError(
                f"the model takes text of width {width}; {self.text_encoder.name} gives {self.text_encoder.width}"
            )
        if self.defaults.step_list is not None and self.model.config.chunk_frames is None:
            raise ValueError("a step_list is for a chunk-causal model; this one has no chunk_frames")

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        *,
        text_folder: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Everything from one folder: model.safetensors, config.json, autoencoder/, text.json, sampling.json.

        `null_embedding.safetensors` is used where it is there; `text_folder` holds the weights of a text encoder that
        does not bring its own; `dtype` is the network's. Raises FileNotFoundError for what is missing, ValueError for
        what is damaged or does not fit together.
        """
        folder = Path(folder)
        text = validated(TextParams, read_json(folder / "text.json"), folder / "text.json")
        autoencoder = load_autoencoder(folder / "autoencoder")
        if isinstance(autoencoder, torch.nn.Module):
            autoencoder.to(device)
        return cls(
            model=SanaVideo.from_pretrained(folder, device=device, dtype=dtype),
            autoencoder=autoencoder,
            text_encoder=load_text_encoder(text, text_folder),
            defaults=SamplingDefaults.load(folder / "sampling.json"),
            null=_load_null(folder / NULL_FILE),
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image: NDArray[np.uint8] | Tensor | None = None,
        motion_score: float | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        negative_prompt: str = "",
        on_step: OnStep = silent,
    ) -> Tensor:
        """One video per prompt: uint8 RGB (B, F, H, W, 3) on the CPU.

        image: uint8 (H, W, 3), becomes the first frame of each video (covered and cropped to size); motion_score: told
        to the network after the prompt; frames: pixel frames, 1 for an image; seed: sample i draws its noise from
        seed + i, so the same call gives the same bits on the same device; on_step(done, total): called after each step.
        What is None comes from `defaults`. Raises ValueError for what cannot be made, naming the nearest that can.
        """
        known = self.defaults
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        size = (known.height if height is None else height, known.width if width is None else width)
        shape = self._latent_shape(len(prompts), known.frames if frames is None else frames, *size)
        score = known.motion_score if motion_score is None else motion_score
        told = self._encode([_told(text, score) for text in prompts])
        null = self._null(negative_prompt, len(prompts))
        first = None if image is None else self._encode_image(image, size, shape)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
        request = Request(
            shape=shape,
            prompt=told,
            null=null,
            image=first,
            steps=known.steps if steps is None else steps,
            guidance=known.guidance if guidance is None else guidance,
            flow_shift=known.flow_shift,
            step_list=known.step_list,
            generators=generators,
            on_step=on_step,
        )
        sample = _sample_whole if self.model.config.chunk_frames is None else _sample_chunks
        pieces = self.autoencoder.decode_stream(sample(self.model, request))
        return torch.cat([to_uint8(piece) for piece in pieces], dim=1)

    def _latent_shape(self, batch: int, frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        _, down_h, down_w = self.autoencoder.stride
        patch = self.model.config.patch_size[1]
        for name, pixels, unit in (("height", height, down_h * patch), ("width", width, down_w * patch)):
            if pixels < 1 or pixels % unit:
                raise ValueError(
                    f"{name} {pixels} is not a multiple of {unit}; the nearest is {_nearest(pixels, unit)}"
                )
        if batch < 1:
            raise ValueError("no prompt given")
        T = self.autoencoder.latent_frames(frames)
        if self.model.config.rope_max < T:
            raise ValueError(f"{frames} frames are {T} latent frames; this model knows {self.model.config.rope_max}")
        return batch, self.autoencoder.latent_channels, T, height // down_h, width // down_w

    def _encode(self, texts: list[str]) -> Condition:
        text, mask = self.text_encoder.encode(texts)
        return Condition(text.to(self._device), mask.to(self._device))

    def _null(self, negative_prompt: str, batch: int) -> Condition:
        one = self._encode([negative_prompt]) if negative_prompt or self.null is None else self.null
        return Condition(
            repeat(one.text.to(self._device), "1 l d -> b l d", b=batch),
            repeat(one.mask.to(self._device), "1 l -> b l", b=batch),
        )

    def _encode_image(
        self, image: NDArray[np.uint8] | Tensor, size: tuple[int, int], shape: tuple[int, int, int, int, int]
    ) -> Tensor:
        if shape[2] < 2:
            raise ValueError(
                "a video from an image needs more frames than the image itself; ask for 2 latent frames up"
            )
        pixels = repeat(cover(image, *size), "c h w -> b c 1 h w", b=shape[0])
        return self.autoencoder.encode(pixels.to(self._device)).float()

    @property
    def _device(self) -> torch.device:
        return self.model.patch_embed.weight.device


@dataclass(frozen=True)
class Request:
    """One call of the pipeline, everything settled. `image`: clean first latent frame (B, C, 1, h, w)."""

    shape: tuple[int, int, int, int, int]
    prompt: Condition
    null: Condition
    image: Tensor | None
    steps: int
    guidance: float
    flow_shift: float
    step_list: tuple[int, ...] | None
    generators: list[torch.Generator]
    on_step: OnStep


def _sample_whole(model: SanaVideo, request: Request) -> Iterator[Tensor]:
    """Yield the clean latents (B, C, T, h, w) of a network in both directions, all frames at once."""
    noise = gaussian(request.shape, request.generators).to(request.prompt.text.device)
    sigmas = flow_schedule(request.steps, request.flow_shift)
    velocity = guided(_velocity(model, request.prompt), _velocity(model, request.null), request.guidance)
    if request.image is None:
        yield dpmpp_2m_flow(velocity, noise, sigmas, request.on_step)
    else:
        latents = euler(hold_first_frame(velocity, request.image), noise, sigmas, request.on_step)
        yield torch.cat([request.image, latents[:, :, 1:]], dim=2)


def _sample_chunks(model: SanaVideo, request: Request) -> Iterator[Tensor]:
    """Yield the clean latents (B, C, frames of the chunk, h, w) of a chunk-causal network, chunk after chunk."""
    chunk_index = model.config.chunk_index(request.shape[2])
    few = request.step_list is not None
    return generate_chunks(
        model,
        request.prompt,
        shape=request.shape,
        chunk_index=chunk_index,
        sampler=_chunk_sampler(request, len(chunk_index)),
        generators=request.generators,
        null=request.null,
        guidance=1.0 if few else request.guidance,
        image=request.image,
    )


def _chunk_sampler(request: Request, chunks: int) -> Sampler:
    """The sampler of one chunk; steps are counted over all of them."""
    done = 0

    def count(step: int, total: int) -> None:
        nonlocal done
        done += 1
        request.on_step(done, total * chunks)

    if request.step_list is None:
        return partial(euler, sigmas=flow_schedule(request.steps, request.flow_shift), on_step=count)

    def fresh(x: Tensor) -> Tensor:
        return gaussian(x.shape, request.generators).to(x)

    return partial(renoise, sigmas=step_sigmas(request.step_list), fresh_noise=fresh, on_step=count)


def _velocity(model: SanaVideo, condition: Condition) -> Velocity:
    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, network_time(sigma, x), condition.text, condition.mask).to(x.dtype)  # type: ignore[no-any-return]

    return velocity


def cover(image: NDArray[np.uint8] | Tensor, height: int, width: int) -> Tensor:
    """uint8 (H, W, 3) -> float (3, height, width) in [-1, 1]: scaled until it covers, then cropped at the centre."""
    pixels = torch.as_tensor(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != torch.uint8 or 0 in pixels.shape:
        raise ValueError(f"an image is uint8 (height, width, 3), not {pixels.dtype} {list(pixels.shape)}")
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    size = [max(height, round(pixels.shape[0] * scale)), max(width, round(pixels.shape[1] * scale))]
    wide = rearrange(pixels, "h w c -> 1 c h w").float()
    scaled = F.interpolate(wide, size=size, mode="bicubic", antialias=True).clamp(0, 255)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width] / 127.5 - 1


def to_uint8(video: Tensor) -> Tensor:
    """(B, 3, F, H, W) in [-1, 1] -> uint8 (B, F, H, W, 3) on the CPU, rounded to the nearest."""
    bounded = (video.float() * 127.5 + 127.5).clamp(0, 255).round()
    return rearrange(bounded.to(torch.uint8).cpu(), "b c f h w -> b f h w c")


def _told(prompt: str, motion_score: float | None) -> str:
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what the video shows")
    return prompt if motion_score is None else with_motion(prompt, motion_score)


def _nearest(pixels: int, unit: int) -> int:
    return max(unit, round(pixels / unit) * unit)


def _load_null(path: Path) -> Condition | None:
    """The stored null prompt: `text` (L, D), and `mask` (L) bool where not all of it counts."""
    if not path.is_file():
        return None
    stored = weights.load(path)
    if "text" not in stored or stored["text"].ndim != 2:
        raise ValueError(f'{path} holds no tensor "text" (tokens, width)')
    text = stored["text"]
    mask = stored.get("mask", torch.ones(text.shape[0], dtype=torch.bool)).bool()
    return Condition(text.unsqueeze(0), mask.unsqueeze(0))
