"""From words to frames: all uses, seeds that repeat, and requests that cannot be met."""

import functools
import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sana_video import weights
from sana_video.autoencoder.dcae_v import PRESETS, DcaeV
from sana_video.config import SamplingDefaults, SanaVideoConfig
from sana_video.model import SanaVideo
from sana_video.pipeline import SanaVideoPipeline
from sana_video.streaming import Condition
from sana_video.video.pixels import cover, to_uint8

TEXT_WIDTH, TEXT_TOKENS = 8, 6
CONFIG = SanaVideoConfig(in_channels=16, width=24, heads=2, depth=2, text_width=TEXT_WIDTH, text_tokens=TEXT_TOKENS)
DEFAULTS = SamplingDefaults(fps=16, height=32, width=48, frames=9, steps=3, guidance=3.0)


class HashEncoder:
    """Each word is a fixed random vector; a prompt is its first words."""

    name, width, tokens = "hash", TEXT_WIDTH, TEXT_TOKENS

    identity = "hash"

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def overflow(self, prompt: str, *, instruct: bool = True) -> int:
        return max(0, len(prompt.split()) - self.tokens)

    def encode(self, texts: list[str], *, instruct: bool = True) -> tuple[Tensor, Tensor]:
        self.seen += [(text, instruct) for text in texts]
        text, mask = torch.zeros(len(texts), self.tokens, self.width), torch.zeros(len(texts), self.tokens).bool()
        for row, words in enumerate(t.split()[: self.tokens] for t in texts):
            for column, word in enumerate(words):
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
                text[row, column] = torch.randn(self.width, generator=torch.Generator().manual_seed(seed))
                mask[row, column] = True
        return text, mask


def network(config: SanaVideoConfig = CONFIG) -> SanaVideo:
    model = SanaVideo(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@functools.cache
def autoencoder() -> DcaeV:
    torch.manual_seed(0)
    return DcaeV(PRESETS["small"]).eval()


def pipeline(config: SanaVideoConfig = CONFIG, **defaults: object) -> SanaVideoPipeline:
    settings = SamplingDefaults(**{**DEFAULTS.model_dump(), **defaults})
    return SanaVideoPipeline(network(config), autoencoder(), HashEncoder(), settings)


BOTH = pytest.mark.parametrize("chunk_frames", [None, 1])


@BOTH
def test_text_to_video(chunk_frames: int | None) -> None:
    video = pipeline(CONFIG.with_(chunk_frames=chunk_frames))(["a red car", "two blue birds"])
    assert video.shape == (2, 9, 32, 48, 3)
    assert video.dtype == torch.uint8
    assert not torch.equal(video[0], video[1])


@BOTH
def test_one_frame_is_an_image(chunk_frames: int | None) -> None:
    assert pipeline(CONFIG.with_(chunk_frames=chunk_frames))("a red car", frames=1).shape == (1, 1, 32, 48, 3)


@BOTH
def test_a_seed_repeats_bit_for_bit_and_another_does_not(chunk_frames: int | None) -> None:
    pipe = pipeline(CONFIG.with_(chunk_frames=chunk_frames))
    first = pipe("a red car", seed=5)
    assert torch.equal(first, pipe("a red car", seed=5))
    assert not torch.equal(first, pipe("a red car", seed=6))


@BOTH
@pytest.mark.parametrize("image", [None, np.full((32, 48, 3), 90, np.uint8)])
def test_a_video_does_not_depend_on_what_is_made_beside_it(chunk_frames: int | None, image: object) -> None:
    pipe = pipeline(CONFIG.with_(chunk_frames=chunk_frames))
    alone = pipe("a red car", seed=5, image=image)
    beside = pipe(["two blue birds", "a red car"], seed=4, image=image)
    assert torch.equal(beside[1:], alone)
    # arithmetic on a batch may round the last bit differently; the noise is the same
    batched = pipe(["two blue birds", "a red car"], seed=4, image=image, batch=2)
    torch.testing.assert_close(batched[1:].int(), alone.int(), atol=1, rtol=0)


@BOTH
@pytest.mark.parametrize("options", [{}, {"frames": 1}, {"image": np.full((32, 48, 3), 90, np.uint8)}])
def test_several_videos_of_a_prompt_lie_together(chunk_frames: int | None, options: dict[str, object]) -> None:
    pipe = pipeline(CONFIG.with_(chunk_frames=chunk_frames))
    videos = pipe(["a red car", "two blue birds"], videos_per_prompt=2, seed=3, **options)
    assert videos.shape[0] == 4
    assert torch.equal(videos[1:2], pipe("a red car", seed=4, **options))
    assert torch.equal(videos[2:3], pipe("two blue birds", seed=5, **options))
    assert not torch.equal(videos[0], videos[1])


@BOTH
def test_pieces_of_a_stream_are_the_video(chunk_frames: int | None) -> None:
    pipe = pipeline(CONFIG.with_(chunk_frames=chunk_frames))
    told: list[int] = []
    pieces, steps = [], []
    pipe = replace(pipe, defaults=pipe.defaults.model_copy(update={"frames": 17}))
    for piece in pipe.stream("a red car", on_step=lambda done, of: told.append(done)):
        pieces.append(piece)
        steps.append(len(told))
    assert torch.equal(torch.cat(pieces, dim=1), pipe("a red car"))
    assert (len(set(steps)) > 1) == (chunk_frames is not None)  # a causal model's frames come as they are made
    with pytest.raises(ValueError, match="take 5 or 9"):
        pipe.stream("a red car", frames=7)  # before the first piece is asked for


def test_batches_take_less_memory_than_all_at_once() -> None:
    sizes: list[int] = []
    pipe = pipeline()
    pipe.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    told: list[tuple[int, int]] = []
    pipe("a red car", videos_per_prompt=5, batch=2, guidance=1.0, on_step=lambda done, of: told.append((done, of)))
    assert sizes == [2] * 6 + [1] * 3
    assert told == [(i + 1, 9) for i in range(9)]


def test_adaptive_projected_guidance_is_chosen_by_name() -> None:
    pipe = pipeline()
    assert torch.equal(pipe("a car", guidance_rule="apg", guidance=1.0), pipe("a car", guidance=1.0))
    plain, projected = pipe("a car", guidance=9.0), pipe("a car", guidance=9.0, guidance_rule="apg")
    assert not torch.equal(plain, projected)
    assert torch.equal(projected, pipeline(guidance_rule="apg")("a car", guidance=9.0))
    assert pipe("a car", image=np.zeros((32, 48, 3), np.uint8), guidance_rule="apg").shape == (1, 9, 32, 48, 3)


@pytest.mark.parametrize(
    ("native", "options", "size"),
    [
        ((480, 832), {}, (480, 832)),
        ((480, 832), {"height": 512}, (512, 832)),
        ((480, 832), {"image": (100, 100)}, (624, 624)),
        ((480, 832), {"image": (1920, 1080)}, (832, 480)),
        ((480, 832), {"image": (100, 100), "aspect": "16:9"}, (480, 832)),
        ((480, 832), {"image": (100, 100), "height": 480, "width": 832}, (480, 832)),
        ((480, 832), {"aspect": "1:2"}, (896, 448)),
        ((480, 832), {"size": "720p"}, (704, 1280)),
        ((704, 1280), {"image": (10, 10)}, (960, 960)),
        ((704, 1280), {"size": "480p", "aspect": "9:16"}, (832, 480)),
        ((96, 160), {"image": (96, 160)}, (96, 160)),
        ((96, 160), {"image": (64, 64)}, (128, 128)),
    ],
)
def test_sizes_follow_the_image_the_aspect_or_the_model(
    native: tuple[int, int], options: dict[str, object], size: tuple[int, int]
) -> None:
    if shape := options.get("image"):
        options = {**options, "image": np.zeros((*shape, 3), np.uint8)}
    assert pipeline(height=native[0], width=native[1]).size_for(options) == size


def test_more_frames_than_trained_on_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline(CONFIG.with_(chunk_frames=1)).check("a car", frames=13)
        pipeline().check("a car", frames=9)
    with pytest.warns(UserWarning, match="13 frames are more than the 9 this model was trained on"):
        pipeline().check("a car", frames=13)


def test_an_autoencoder_without_single_images_makes_videos_from_text_alone() -> None:
    config = PRESETS["small"].model_copy(update={"first_frame_alone": False})
    pipe = SanaVideoPipeline(network(), DcaeV(config).eval(), HashEncoder(), DEFAULTS)
    assert pipe("a car", frames=8).shape == (1, 8, 32, 48, 3)
    for options in ({"frames": 1}, {"frames": 8, "image": np.zeros((32, 48, 3), np.uint8)}):
        with pytest.raises(ValueError, match="videos from text alone"):
            pipe("a car", **options)


def test_an_option_that_is_none_of_ours_is_not_swallowed() -> None:
    with pytest.raises(TypeError, match=r"unknown options \['num_frames'\]; there are image, motion_score"):
        pipeline()("a car", num_frames=5)


def test_a_bf16_network_is_sampled_in_float32() -> None:
    pipe = pipeline()
    exact = pipe("a red car", guidance=1.0)
    rough = replace(pipe, model=network().bfloat16())("a red car", guidance=1.0)
    assert rough.dtype == torch.uint8
    # bf16 keeps 8 bits; three steps of a two-block network stay within a few of 255 levels on average
    assert (rough.int() - exact.int()).abs().float().mean() < 4


@BOTH
def test_image_to_video_starts_with_the_image(chunk_frames: int | None) -> None:
    pipe = pipeline(CONFIG.with_(chunk_frames=chunk_frames))
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    video = pipe("a red car", image=image)
    first = pipe.autoencoder.encode(cover(image, 32, 48)[None, :, None])
    assert torch.equal(video[0, 0], to_uint8(pipe.autoencoder.decode(first))[0, 0])
    other = pipe("a red car", image=255 - image)
    assert not torch.equal(video[:, 1:], other[:, 1:])
    assert pipe(["a", "b"], image=image).shape[0] == 2


def test_words_and_guidance_matter() -> None:
    pipe = pipeline()
    plain = pipe("a red car", guidance=1.0)
    assert not torch.equal(plain, pipe("two blue birds", guidance=1.0))
    assert not torch.equal(plain, pipe("a red car", guidance=4.0))
    assert not torch.equal(pipe("a red car"), pipe("a red car", negative_prompt="blurry"))


def test_the_motion_score_is_told_after_the_prompt() -> None:
    pipe = pipeline(motion_score=30)
    pipe("a red car")
    pipe("a red car", motion_score=4.9)
    assert pipe.text_encoder.seen == [
        ("a red car motion score: 30.", True),
        ("", False),  # guided away from nothing, which is told without an instruction
        ("a red car motion score: 4.", True),
        ("", False),
    ]


def test_a_stored_null_embedding_replaces_the_empty_string() -> None:
    null = Condition(torch.full((1, TEXT_TOKENS, TEXT_WIDTH), 0.5), torch.ones(1, TEXT_TOKENS, dtype=torch.bool))
    pipe = pipeline()
    other = replace(pipe, null=null)
    assert not torch.equal(pipe("a red car"), other("a red car"))
    assert torch.equal(pipe("a red car", negative_prompt="dark"), other("a red car", negative_prompt="dark"))


def test_the_negative_prompt_is_the_callers_then_the_defaults_then_the_null_embedding() -> None:
    null = Condition(torch.full((1, TEXT_TOKENS, TEXT_WIDTH), 0.5), torch.ones(1, TEXT_TOKENS, dtype=torch.bool))
    plain, stored = pipeline(), replace(pipeline(), null=null)
    dark = replace(stored, defaults=stored.defaults.model_copy(update={"negative_prompt": "dark"}))
    assert torch.equal(dark("a red car"), plain("a red car", negative_prompt="dark"))
    assert dark.text_encoder.seen[-1] == ("dark", False)  # without an instruction, with its own mask
    assert torch.equal(dark("a red car", negative_prompt="red"), plain("a red car", negative_prompt="red"))
    assert torch.equal(dark("a red car", negative_prompt=""), stored("a red car"))
    assert torch.equal(dark("a red car", negative_prompt=None), dark("a red car"))
    long = replace(
        plain, defaults=plain.defaults.model_copy(update={"negative_prompt": "one two three four five six 7"})
    )
    with pytest.raises(ValueError, match="the negative prompt is 1 tokens longer"):
        long.check("a red car")


@pytest.mark.parametrize(("chunk_frames", "total"), [(None, 3), (1, 9)])
def test_progress_counts_every_step(chunk_frames: int | None, total: int) -> None:
    told: list[tuple[int, int]] = []
    pipeline(CONFIG.with_(chunk_frames=chunk_frames))("a car", on_step=lambda done, of: told.append((done, of)))
    assert told == [(i + 1, total) for i in range(total)]


def test_a_step_list_takes_the_place_of_steps_and_guidance() -> None:
    told: list[int] = []
    causal = CONFIG.with_(chunk_frames=1)
    pipe = pipeline(causal, step_list=(1000, 889))
    assert pipe("a car", on_step=lambda done, of: told.append(of)).shape == (1, 9, 32, 48, 3)
    assert told == [6] * 6
    with pytest.raises(ValueError, match="step_list is for a chunk-causal model"):
        pipeline(step_list=(1000, 889))


def test_long_video_follows_algorithm_1() -> None:
    """Chunks of 10, the first with the remainder; 4 steps each, then one pass at time 0 that writes the state."""
    causal = CONFIG.with_(chunk_frames=10)
    pipe = pipeline(causal, step_list=(1000, 960, 889, 727), frames=4 * 32 + 1)  # 33 latent frames: 13 + 10 + 10
    seen: list[tuple[int, int, float]] = []
    run = pipe.model._run

    def watched(*inputs: Any, **options: Any) -> Any:
        latents, timestep, _, _, chunks, state = inputs
        assert tuple(chunks) == (0,)
        seen.append((state.frames if state else 0, latents.shape[2], float(timestep)))
        return run(*inputs, **options)

    pipe.model._run = watched  # type: ignore[method-assign]
    assert pipe("a car").shape[1] == 129
    steps = (1000.0, 960.0, 889.0, 727.0, 0.0)
    expected = [(start, frames, t) for start, frames in ((0, 13), (13, 10), (23, 10)) for t in steps]
    assert seen == expected[:-1]  # after the last chunk there is nothing to remember for
    with pytest.raises(ValueError, match="without guidance; leave both options out"):
        pipe("a car", guidance=3.0)


def test_values_that_are_not_finite_are_no_video() -> None:
    pipe = pipeline()
    with torch.no_grad():
        pipe.model.final.linear.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        pipe("a car")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"height": 20}, "height 20 is not a multiple of 16; the nearest is 16"),
        ({"width": 0}, "width 0 is not a multiple of 16; the nearest is 16"),
        ({"frames": 7}, "7 frames .* take 5 or 9"),
        ({"frames": 0}, "0 frames .* take 1 or 5"),
        ({"frames": -30}, "-30 frames .* take 1 or 5"),
        ({"frames": 4097}, "4097 frames .* knows 1024 positions: at most 4093 frames, 256 s"),
        ({"prompt": "one two three four five six seven"}, "the prompt is 1 tokens too long"),
        ({"negative_prompt": "one two three four five six seven"}, "negative prompt is 1 tokens longer than the 6"),
        ({"videos_per_prompt": 0}, "videos_per_prompt 0"),
        ({"batch": 0}, "batch 0: at least 1"),
        ({"guidance_rule": "dynamic"}, "'dynamic'; choose one of cfg, apg"),
        ({"size": "1080p"}, "'1080p': choose one of 480p, 720p"),
        ({"aspect": "wide"}, "aspect 'wide': expected WIDTH:HEIGHT"),
        ({"size": "480p", "height": 32}, "height and width are given: 480p would be a second size"),
        ({"steps": 0}, "at least 1 step"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": []}, "no prompt given"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"an image is uint8 .* not torch.uint8 \[4, 4\]"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, "not torch.float32"),
        ({"image": np.zeros((4, 4, 3), np.uint8), "frames": 1}, "more frames than the image itself"),
    ],
)
def test_what_cannot_be_made_is_said(request_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        pipeline()(**{"prompt": "a car", **request_})
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="4 channels, the autoencoder 16"):
        pipeline(CONFIG.with_(in_channels=4))
    with pytest.raises(ValueError, match="text of width 9; hash gives 8"):
        pipeline(CONFIG.with_(text_width=9))


def test_cover_scales_crops_and_keeps_the_middle() -> None:
    image = torch.zeros(10, 40, 3, dtype=torch.uint8)
    image[:, 15:25] = 255
    shown = cover(image, 20, 20)
    assert shown.shape == (3, 20, 20)
    assert shown.min() >= -1
    assert shown[:, :, 2:-2].min() > 0.999  # the white middle fills the crop
    assert torch.equal(cover(image[:, 15:25], 10, 10), torch.ones(3, 10, 10))


def test_frames_are_rounded_and_bounded() -> None:
    video = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 5, 1, 1).expand(1, 3, 5, 1, 1)
    assert to_uint8(video)[0, :, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


def save_release(folder: Path, config: SanaVideoConfig) -> None:
    """The layout of release/."""
    network(config).save_pretrained(folder)
    autoencoder().save_pretrained(folder / "autoencoder")
    (folder / "text.json").write_text(json.dumps({"encoder": "minilm", "tokens": 48}))
    (folder / "sampling.json").write_text(DEFAULTS.model_dump_json())


def test_a_folder_is_the_whole_pipeline(tmp_path: Path) -> None:
    config = CONFIG.with_(text_width=384, text_tokens=48, chunk_frames=1)
    save_release(tmp_path, config)
    pipe = SanaVideoPipeline.from_pretrained(tmp_path)
    video = pipe("a red car", seed=1, motion_score=3)
    assert video.shape == (1, 9, 32, 48, 3)
    whole = SanaVideoPipeline(network(config), autoencoder(), pipe.text_encoder, DEFAULTS)
    assert torch.equal(video, whole("a red car motion score: 3.", seed=1))

    text, mask = pipe.text_encoder.encode(["nothing at all"])
    weights.save(tmp_path / weights.NULL_FILE, {"text": text[0], "mask": mask[0]})
    with_null = SanaVideoPipeline.from_pretrained(tmp_path)
    assert torch.equal(with_null("a car", guidance=2), pipe("a car", guidance=2, negative_prompt="nothing at all"))

    (tmp_path / "sampling.json").write_text('{"step": 3}')
    with pytest.raises(ValueError, match=r"sampling\.json: step: Extra inputs"):
        SanaVideoPipeline.from_pretrained(tmp_path)
    (tmp_path / "text.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"text\.json is missing"):
        SanaVideoPipeline.from_pretrained(tmp_path)
