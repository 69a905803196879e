"""Shapes of DCAE-V: `DcaeVConfig`, and the presets that have a name."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from sana_video.autoencoder.blocks import Activation, Stride

# conv: two convolutions and an RMS norm. relu: the same with ReLU and no norm, which is what a block with batch norm is
# once the norm is folded into its convolution. attention, attention5: `evit.AttentionBlock`, without and with heads
# that see 5x5 means.
Block = Literal["conv", "relu", "attention", "attention5"]


class Stages(BaseModel):
    """The stages of an encoder, pixels first; a decoder runs its own backwards.

    `patch` folds (t, h, w) pixels into channels before the first convolution; `strides[i]` stands between stage i and
    i+1. `blocks` names each stage's kind; without it all are conv. `resample` says how strides are taken: `fold` lets a
    convolution make or read the folded channels, `resize` takes every second position or repeats each (only in space).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch: Stride
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[Stride, ...]
    blocks: tuple[Block, ...] = ()
    resample: Literal["fold", "resize"] = "fold"

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if not len(self.widths) == len(self.depths) == len(self.strides) + 1:
            raise ValueError(f"dcae-v: {len(self.widths)} widths need as many depths and one stride less")
        if self.blocks and len(self.blocks) != len(self.widths):
            raise ValueError(f"dcae-v: {len(self.widths)} widths need as many blocks, not {len(self.blocks)}")
        return self

    @property
    def kinds(self) -> tuple[Block, ...]:
        """One of `Block` per stage."""
        plain: Block = "conv"
        return self.blocks or (plain,) * len(self.widths)

    @property
    def stride(self) -> Stride:
        """Pixels (t, h, w) per latent."""
        t, h, w = (math.prod(axis) for axis in zip(self.patch, *self.strides, strict=True))
        return t, h, w


class DcaeVConfig(Stages):
    """Shape of the network. The decoder mirrors the encoder, unless it has stages of its own.

    `first_frame_alone`: a clip has 4k+1 frames, and the first is a latent of its own. Without it a clip has 4k frames,
    the rule of checkpoints that were trained so; there is no latent of one frame then, and so neither images nor
    image-to-video.
    """

    kind: Literal["dcae-v"] = "dcae-v"
    latent_channels: int
    chunk: int  # latent frames that are coded together
    linear_shortcut: bool  # a learned linear map from pixels to latents and back beside the whole network
    first_frame_alone: bool = True
    latent_shortcut: bool = True  # channels averaged into the latent, and repeated out of it
    head_width: int = 32  # channels of an attention head
    last_activation: Activation = "silu"  # before the decoder's last convolution
    decoder: Stages | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.chunk < 1 or self.latent_channels < 1:
            raise ValueError(
                f"dcae-v: chunk {self.chunk} and latent_channels {self.latent_channels} must be at least 1"
            )
        if self.decoder and self.decoder.stride != self.stride:
            raise ValueError(f"dcae-v: the decoder's stride {self.decoder.stride} is not the encoder's, {self.stride}")
        return self

    @property
    def decoding(self) -> Stages:
        return self.decoder or self


PRESETS = {
    # F32T4C32: widths [128, 256, 512, 512, 1024, 1024, 1024], depths [0, 5, 10, 4, 4, 4, 4], five spatial halvings and
    # time last; the stage of width 128 has depth 0 and so is the fold by 2 alone.
    "full": DcaeVConfig(
        latent_channels=32,
        chunk=10,
        patch=(1, 2, 2),
        widths=(256, 512, 512, 1024, 1024, 1024),
        depths=(5, 10, 4, 4, 4, 4),
        strides=((1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2), (4, 1, 1)),
        linear_shortcut=False,
    ),
    # F16T4C16 for two CPU cores: time and 4x4 pixels are folded at once, so that no convolution sees more than 1/64 of
    # the positions, and a linear map carries what a few hundred steps can learn.
    "small": DcaeVConfig(
        latent_channels=16,
        chunk=2,
        patch=(4, 4, 4),
        widths=(32, 64, 64),
        depths=(1, 1, 1),
        strides=((1, 2, 2), (1, 2, 2)),
        linear_shortcut=True,
    ),
    # F32T4C32 that holds the published image autoencoder dc-ae-f32c32-sana-1.0 and 1.1 (`inflate.from_image`): its
    # stages, and one of two blocks on top that folds time.
    "inflated": DcaeVConfig(
        latent_channels=32,
        chunk=10,
        patch=(1, 1, 1),
        widths=(128, 256, 512, 512, 1024, 1024, 1024),
        depths=(2, 2, 2, 3, 3, 3, 2),
        strides=((1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2), (4, 1, 1)),
        blocks=("conv", "conv", "conv", "attention5", "attention5", "attention5", "conv"),
        resample="resize",
        linear_shortcut=False,
        last_activation="relu",
        decoder=Stages(
            patch=(1, 1, 1),
            widths=(128, 256, 512, 512, 1024, 1024, 1024),
            depths=(3, 3, 3, 3, 3, 3, 2),
            strides=((1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2), (4, 1, 1)),
            blocks=("conv", "conv", "conv", "attention5", "attention5", "attention5", "conv"),
            resample="resize",
        ),
    ),
}
