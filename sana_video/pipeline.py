"""From words, and perhaps an image, to frames: text encoder, sampler, network and autoencoder in one call.

The same call makes a video from text, a video from an image and, with one frame, an image. `stream` gives the frames
as they are made; for a chunk-causal network and a streaming autoencoder its memory does not grow with the video.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypedDict, TypeVar, Unpack

import torch
from einops import repeat
from torch import Tensor

from sana_video import fp8, weights
from sana_video.autoencoder import Autoencoder, load_autoencoder
from sana_video.config import SamplingDefaults, read_json, validated
from sana_video.data import buckets
from sana_video.generate import Request, clean_latents, unheard
from sana_video.guidance import GuidanceRule, check_rule
from sana_video.model import SanaVideo
from sana_video.sampling import OnStep, silent
from sana_video.step_cache import OnSkip, check_threshold
from sana_video.streaming import Condition
from sana_video.text import TextEncoder, TextParams, check_prompt, load_text_encoder, with_motion
from sana_video.video.pixels import Image, check_image, cover, to_uint8

Size = buckets.Size
T = TypeVar("T")


class Options(TypedDict, total=False):
    """What a call may ask for; what is left out, or None, comes from the pipeline's `defaults`."""

    image: Image | None  # uint8 (H, W, 3): the first frame of each video, covered and cropped to size
    motion_score: float | None  # told to the network after the prompt
    frames: int | None  # pixel frames; 1 for an image
    height: int | None
    width: int | None
    size: str | None  # instead of height and width: "480p" or "720p", at the nearest aspect
    aspect: str | None  # WIDTH:HEIGHT; without it the image's, or the default's
    steps: int | None
    guidance: float | None  # 1 for none
    guidance_rule: GuidanceRule | None
    negative_prompt: str | None  # what guidance leads away from: see `SanaVideoPipeline.negative_prompt`
    videos_per_prompt: int
    seed: int  # video i of the whole list draws its noise from seed + i
    cut_prompts: bool  # cut a prompt that is longer than the encoder takes, as in training, instead of refusing it
    step_cache: float | None  # above 0: skip steps whose estimated error stays below it, see `sana_video.step_cache`
    on_skip: OnSkip  # called with the number of each step that was skipped
    on_step: OnStep  # called with (done, total) after each step, counted over all batches


@dataclass(frozen=True)
class SanaVideoPipeline:
    """A network with the autoencoder and the text encoder it was trained on, and how to sample it by default.

    `null`: what the network is told instead of a prompt, where guidance has no negative prompt to lead away from; None
    means the encoding of the empty string. The network is changed by `SanaVideo.for_sampling`.
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
        self.model.for_sampling()

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        *,
        text_folder: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        autoencoder_dtype: torch.dtype | None = None,
        fast_decoder: bool = False,
        in_fp8: bool = False,
    ) -> Self:
        """Everything from one folder: model.safetensors, config.json, autoencoder/, text.json, sampling.json.

        `null_embedding.safetensors` is used where it is there; `text_folder` holds the weights of a text encoder that
        does not bring its own, else the `folder` of text.json does, relative to the pipeline's; `dtype` is the
        network's; the text encoder keeps the one that training used. `fast_decoder` loads the
        autoencoder `for_speed`. `in_fp8` runs the network's large products in fp8
        on a Hopper GPU, the rest in bf16: see `sana_video.fp8`. Raises FileNotFoundError for what is missing
        (`MissingWeights` for published weights), ValueError for what is damaged or does not fit together, and for fp8
        where it cannot be had.
        """
        if in_fp8:
            fp8.require(device)
            dtype = torch.bfloat16
        folder = Path(folder)
        text = validated(TextParams, read_json(folder / "text.json"), folder / "text.json")
        if text_folder is None and text.folder is not None:
            text_folder = folder / text.folder
        model = SanaVideo.from_pretrained(folder, device=device, dtype=dtype)
        return cls(
            model=fp8.quantize(model) if in_fp8 else model,
            autoencoder=load_autoencoder(
                folder / "autoencoder", device=device, dtype=autoencoder_dtype, for_speed=fast_decoder
            ),
            text_encoder=load_text_encoder(text, text_folder, device=device),
            defaults=SamplingDefaults.load(folder / "sampling.json"),
            null=_load_null(folder / weights.NULL_FILE),
        )

    def __call__(self, prompt: str | Sequence[str], *, batch: int = 1, **options: Unpack[Options]) -> Tensor:
        """`videos_per_prompt` videos of each prompt, a prompt's beside each other: uint8 RGB (B, F, H, W, 3), CPU.

        `batch` videos are sampled at once: memory on the device grows with it, not with the number of videos. At 1 a
        video is the same to the bit whatever is made beside it; in larger batches the last bits of the arithmetic may
        differ, the noise never does. The same call gives the same bits on the same device. Raises ValueError for what
        cannot be made, naming the nearest that can, before anything is sampled.
        """
        if batch < 1:
            raise ValueError(f"batch {batch}: at least 1 video is made at a time")
        parts = self._request(prompt, options).split(batch)
        return torch.cat([torch.cat(list(self._frames(part)), dim=1) for part in parts])

    def stream(self, prompt: str | Sequence[str], **options: Unpack[Options]) -> Iterator[Tensor]:
        """The same videos piece by piece along time, as they are made: uint8 (B, f, H, W, 3), all B in step.

        A chunk-causal network gives frames after each chunk, and holds one chunk and a state of fixed size however
        long the video is; a network in both directions is done before its first frame is decoded. Raises like a call,
        before the first piece is asked for.
        """
        return self._frames(self._request(prompt, options))

    def check(self, prompt: str | Sequence[str], **options: Unpack[Options]) -> None:
        """Raise the ValueError that a call would raise; samples and encodes nothing.

        Warns of a video longer than those a network in both directions was trained on: it may, but hardly will, do.
        """
        if unknown := options.keys() - Options.__annotations__.keys():
            raise TypeError(f"unknown options {sorted(unknown)}; there are {', '.join(Options.__annotations__)}")
        self._prompts(prompt, options)
        self.size_for(options)
        frames = _or(options.get("frames"), self.defaults.frames)
        self._latent_frames(frames, options.get("image") is not None)
        asked = options.get("steps") is not None or options.get("guidance") is not None
        if asked and self.defaults.step_list is not None:
            steps = list(self.defaults.step_list)
            raise ValueError(f"this model is distilled to the steps {steps} without guidance; leave both options out")
        if cut := self.text_encoder.overflow(self.negative_prompt(options), instruct=False):
            limit = self.text_encoder.tokens
            raise ValueError(f"the negative prompt is {cut} tokens longer than the {limit} it may have; shorten it")
        if _or(options.get("steps"), 1) < 1:
            raise ValueError(f"sampling needs at least 1 step, not {options['steps']}")
        if threshold := options.get("step_cache"):
            check_threshold(threshold)
            if self.model.config.chunk_frames is not None:
                raise ValueError("a step cache is for networks in both directions; this one works chunk by chunk")
        if (rule := options.get("guidance_rule")) is not None:
            check_rule(rule)
        if self.model.config.chunk_frames is None and frames > self.defaults.frames:
            known = self.defaults.frames
            warnings.warn(f"{frames} frames are more than the {known} this model was trained on", stacklevel=1)

    def size_for(self, options: Options) -> Size:
        """(height, width) that a call with these options makes. ValueError, naming the nearest, if it cannot be."""
        known, unit = self.defaults, self._unit
        native = (known.height, known.width)
        height, width, image = options.get("height"), options.get("width"), options.get("image")
        size, aspect = options.get("size"), options.get("aspect")
        if height is not None or width is not None or not (size or aspect or image is not None):
            if size or aspect:
                raise ValueError(f"height and width are given: {size or aspect} would be a second size; leave one out")
            chosen = (height if height is not None else native[0], width if width is not None else native[1])
            return _divisible(chosen, unit)
        H, W = native if image is None else check_image(image).shape[:2]
        if aspect is not None:
            H, W = buckets.parse_aspect(aspect)
        return buckets.nearest(H, W, buckets.around(native, unit) if size is None else buckets.named(size, unit))

    def negative_prompt(self, options: Options) -> str:
        """What guidance leads away from, in words: the caller's, else the defaults'.

        If that is empty (a caller may say "" to mean it), it leads away from the stored null embedding, and where there
        is none, from the encoding of the empty string.
        """
        return _or(options.get("negative_prompt"), self.defaults.negative_prompt) or ""

    @property
    def _unit(self) -> int:
        """Pixels that a side must be a multiple of."""
        return max(self.autoencoder.stride[1:]) * self.model.config.patch_size[1]

    @property
    def _device(self) -> torch.device:
        return self.model.patch_embed.weight.device

    @torch.no_grad()
    def _request(self, prompt: str | Sequence[str], options: Options) -> Request:
        """All videos of a call as one batch; conditions stay on the CPU until their turn comes."""
        self.check(prompt, **options)
        known, image = self.defaults, options.get("image")
        prompts = self._prompts(prompt, options)
        size = self.size_for(options)
        latent_frames = self._latent_frames(_or(options.get("frames"), known.frames), image is not None)
        few = known.step_list is not None
        request = Request(
            shape=(len(prompts), self.autoencoder.latent_channels, latent_frames, *self._latent_size(size)),
            prompt=self._encode(prompts),
            null=None,
            image=None,
            steps=_or(options.get("steps"), known.steps),
            guidance=1.0 if few else _or(options.get("guidance"), known.guidance),
            guidance_rule=_or(options.get("guidance_rule"), known.guidance_rule),
            flow_shift=known.flow_shift,
            step_list=known.step_list,
            generators=[torch.Generator().manual_seed(options.get("seed", 0) + i) for i in range(len(prompts))],
            on_step=options.get("on_step", silent),
            step_cache=_or(options.get("step_cache"), 0.0),
            on_skip=options.get("on_skip", unheard),
        )
        if request.guidance != 1:
            request = replace(request, null=self._null(self.negative_prompt(options), len(prompts)))
        return request if image is None else replace(request, image=self._encode_image(image, size, len(prompts)))

    @torch.no_grad()
    def _frames(self, request: Request) -> Iterator[Tensor]:
        for piece in self.autoencoder.decode_stream(clean_latents(self.model, request.to(self._device))):
            if not bool(torch.isfinite(piece).all()):
                raise RuntimeError(
                    "the model made values that are not finite; its weights or the precision are at fault"
                )
            yield to_uint8(piece)

    def _prompts(self, prompt: str | Sequence[str], options: Options) -> list[str]:
        """What the encoder is told for each video, once per video."""
        videos = options.get("videos_per_prompt", 1)
        if videos < 1:
            raise ValueError(f"videos_per_prompt {videos}: at least 1 video is made of a prompt")
        given = [prompt] if isinstance(prompt, str) else list(prompt)
        if not given:
            raise ValueError("no prompt given")
        score = _or(options.get("motion_score"), self.defaults.motion_score)
        told = [_told(text, score) for text in given]
        for text in () if options.get("cut_prompts", False) else told:
            check_prompt(self.text_encoder, text)
        return [text for text in told for _ in range(videos)]

    def _latent_frames(self, frames: int, from_image: bool) -> int:
        if (frames == 1 or from_image) and not self.autoencoder.images:
            raise ValueError("this autoencoder has no latent for a single image, so it makes videos from text alone")
        latents = self.autoencoder.latent_frames(frames)
        limit, stride = self.model.config.rope_max, self.autoencoder.stride[0]
        if limit < latents:
            most = 1 + (limit - 1) * stride
            raise ValueError(
                f"{frames} frames are {latents} latent frames; this model knows {limit} positions: at most {most} "
                f"frames, {most / self.defaults.fps:.0f} s"
            )
        if from_image and latents < 2:
            raise ValueError(
                f"a video from an image needs more frames than the image itself; ask for {1 + stride} frames or more"
            )
        return latents

    def _latent_size(self, size: Size) -> Size:
        return size[0] // self.autoencoder.stride[1], size[1] // self.autoencoder.stride[2]

    def _encode(self, texts: list[str]) -> Condition:
        """Each different text is encoded once."""
        different = list(dict.fromkeys(texts))
        text, mask = self.text_encoder.encode(different)
        rows = torch.tensor([different.index(one) for one in texts])
        return Condition(text.cpu()[rows], mask.cpu()[rows])

    def _null(self, negative_prompt: str, batch: int) -> Condition:
        if negative_prompt or self.null is None:
            one = Condition(*self.text_encoder.encode([negative_prompt], instruct=False))
        else:
            one = self.null
        return Condition(one.text.cpu().expand(batch, -1, -1), one.mask.cpu().expand(batch, -1))

    def _encode_image(self, image: Image, size: Size, batch: int) -> Tensor:
        pixels = repeat(cover(image, *size), "c h w -> 1 c 1 h w")
        return self.autoencoder.encode(pixels.to(self._device)).float().cpu().expand(batch, -1, -1, -1, -1)


def _or(given: T | None, default: T) -> T:
    return default if given is None else given


def _told(prompt: str, motion_score: float | None) -> str:
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what the video shows")
    return prompt if motion_score is None else with_motion(prompt, motion_score)


def _divisible(size: Size, unit: int) -> Size:
    for name, pixels in zip(("height", "width"), size, strict=True):
        if pixels < 1 or pixels % unit:
            nearest = max(unit, round(pixels / unit) * unit)
            raise ValueError(f"{name} {pixels} is not a multiple of {unit}; the nearest is {nearest}")
    return size


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
