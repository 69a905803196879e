"""Captions from Qwen2.5-VL in this process, through transformers, from a folder of its published files.

The tokens are laid out here: control tokens are set by id, and words are encoded so that nothing in them can become
one. The video processor of transformers needs torchvision, which the project does without; a video's patches are those
of its pictures taken two by two, so the image processor makes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.caption.ask import Ask, Reply
from sana_video.weights import MissingWeights

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

NAME_IN_CATALOGUE = "qwen2.5-vl-7b"
TEMPERATURE = 0.7  # of a second attempt; the first one is greedy
_TEXT, _VIDEO = 0, 2  # kinds of tokens


class Qwen:
    """A captioner. `batch` clips are told about at once; weights are bf16 on a GPU, fp32 on the CPU."""

    def __init__(self, folder: Path, batch: int, new_tokens: int, device: torch.device) -> None:
        """Raises MissingWeights if the folder holds no model, ValueError if it is another or damaged."""
        self.model = f"{folder.name}@{identity(folder)}"
        self._folder, self._batch, self._new_tokens, self._device = folder, batch, new_tokens, device
        self._loaded: tuple[Any, Any, Any] | None = None

    def replies(self, asks: Iterable[Ask], seed: int, attempt: int) -> Iterator[Reply]:
        """See `Captioner`. The network is loaded when the first ask comes."""
        waiting = iter(asks)
        while group := list(itertools.islice(waiting, self._batch)):
            yield from self._answer(group, seed + attempt if attempt else None)

    def _answer(self, asks: Sequence[Ask], seed: int | None) -> Iterator[Reply]:
        import torch

        model, words, _ = self._parts()
        inputs = self._inputs(asks)
        drawn = {"do_sample": False} if seed is None else {"do_sample": True, "temperature": TEMPERATURE}
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(seed or 0)
            told = model.generate(**inputs, **drawn, max_new_tokens=self._new_tokens, pad_token_id=words.pad_token_id)
        asked, length = inputs["attention_mask"].sum(1).tolist(), inputs["input_ids"].shape[1]
        for ask, row, read in zip(asks, told[:, length:], asked, strict=True):
            answer = words.decode(row, skip_special_tokens=True)
            yield Reply(ask.clip_id, answer, tokens=int(read) + int((row != words.pad_token_id).sum()))

    def _inputs(self, asks: Sequence[Ask]) -> dict[str, Tensor]:
        """What the network reads, on its device: prompts padded on the left, all patches in one row."""
        import torch

        model, words, painter = self._parts()
        videos = [patches(painter, ask.pictures) for ask in asks]
        merge = painter.merge_size**2
        rows = [layout(words, ask, video.shape[0] // merge) for ask, (video, _) in zip(asks, videos, strict=True)]
        longest = max(len(row) for row in rows)
        pad, video_token = words.pad_token_id, words.convert_tokens_to_ids("<|video_pad|>")
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
            "mm_token_type_ids": torch.where(ids == video_token, _VIDEO, _TEXT),
            "pixel_values_videos": torch.cat([torch.from_numpy(video) for video, _ in videos]).to(model.dtype),
            "video_grid_thw": torch.tensor([grid for _, grid in videos]),
            "second_per_grid_ts": torch.tensor([ask.gap * painter.temporal_patch_size for ask in asks]),
        }
        return {name: value.to(self._device) for name, value in inputs.items()}

    def _parts(self) -> tuple[Any, Any, Any]:
        if self._loaded is None:
            self._loaded = load(self._folder, self._device)
        return self._loaded


def identity(folder: Path) -> str:
    """12 characters of a digest over the folder's weights and configuration. MissingWeights if there are none."""
    from sana_video.text.states import digest

    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise MissingWeights(NAME_IN_CATALOGUE, folder)
    return digest(folder)[:12]


def load(folder: Path, device: torch.device) -> tuple[Any, Any, Any]:
    """Network, tokenizer and image processor from files on disk alone; no code of the folder is run. ValueError if
    they are damaged or of another model."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        words = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        painter = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        network: Any = Qwen2_5_VLForConditionalGeneration
        model, report = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds a captioner that does not load: {str(error).splitlines()[0]}") from error
    if absent := sorted(report["missing_keys"]):
        raise ValueError(f"{folder} lacks weights of Qwen2.5-VL: {', '.join(absent[:3])}")
    return model.to(device).eval().requires_grad_(False), words, painter


def patches(painter: Any, pictures: Sequence[bytes]) -> tuple[NDArray[np.float32], list[int]]:
    """Rows of patches of a video, as the network reads them, and its grid (time, height, width).

    An image's row holds (channel, time, y, x) with the image itself at both times; a video's has the second picture of
    a pair at the second time. An odd last picture is shown twice, as the published processor does.
    """
    import numpy as np

    made = painter(images=[_decoded(one) for one in pictures], return_tensors="np")
    _, height, width = (int(n) for n in made["image_grid_thw"][0])
    depth, size = painter.temporal_patch_size, painter.patch_size**2
    rows = made["pixel_values"].reshape(len(pictures), height * width, -1, depth, size)[:, :, :, 0]
    if short := -len(pictures) % depth:
        rows = np.concatenate([rows, np.repeat(rows[-1:], short, axis=0)])
    pairs = rows.reshape(-1, depth, *rows.shape[1:]).transpose(0, 2, 3, 1, 4)
    times = pairs.shape[0]
    return np.ascontiguousarray(pairs.reshape(times * height * width, -1)), [times, height, width]


def layout(words: Any, ask: Ask, video_tokens: int) -> list[int]:
    """The ids of a prompt in Qwen's chat form: system, user with the video and the data, assistant's turn."""
    start, end, opened, closed, seen = words.convert_tokens_to_ids(
        ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
    )

    def plain(text: str) -> list[int]:
        ids: list[int] = words.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    video = [opened, *[seen] * video_tokens, closed]
    data = plain("\n" + ask.data) if ask.data is not None else []
    system, newline = [start, *plain("system\n" + ask.instruction), end], plain("\n")
    user = [start, *plain("user\n"), *video, *data, end]
    return [*system, *newline, *user, *newline, start, *plain("assistant\n")]


def _decoded(jpeg: bytes) -> NDArray[np.uint8]:
    import cv2
    import numpy as np

    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("a picture for the captioner is no JPEG")
    return np.ascontiguousarray(picture[..., ::-1])
