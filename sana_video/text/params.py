"""The `text` section of params.yaml, and `text.json` of a released model: which encoder turns prompts into states."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TextParams(BaseModel):
    """Which encoder, how many tokens each prompt is padded or cut to, and what is said before the prompt.

    `instruction` is Gemma's alone: "image" is the wording in the published training configurations, of images and
    videos alike, and the default; "video" is the one that diffusers ships. The same prompt behind the other wording is
    another embedding, so it has to be the one that the weights were trained with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: Literal["minilm", "gemma-2-2b-it"]
    tokens: int = Field(ge=2, le=512)
    instruction: Literal["video", "image"] | None = None
    folder: str | None = None  # of Gemma's weights; MiniLM brings its own

    @model_validator(mode="before")
    @classmethod
    def _default_instruction(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("encoder") == "gemma-2-2b-it" and given.get("instruction") is None:
            return {**given, "instruction": "image"}
        return given

    @model_validator(mode="after")
    def _fits_the_encoder(self) -> Self:
        if self.encoder == "minilm" and self.folder is not None:
            raise ValueError(f"folder {self.folder} has no use: minilm brings its own weights")
        if self.encoder == "minilm" and self.instruction is not None:
            raise ValueError(f"instruction {self.instruction} has no use: minilm is told the prompt alone")
        return self
