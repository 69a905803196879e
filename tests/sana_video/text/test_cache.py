"""Embeddings kept by content: the same bits, one run of the encoder, whatever happens to the files."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sana_video.text import IMAGE_INSTRUCTION, VIDEO_INSTRUCTION, GemmaTextEncoder, TextEncoder, cached

PROMPTS = ["a cat", "the sun", "a cat"]


class Counting:
    """An encoder that remembers what it was asked."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder, self.asked = encoder, []  # type: ignore[var-annotated]
        self.name, self.width, self.tokens, self.identity = (
            encoder.name,
            encoder.width,
            encoder.tokens,
            encoder.identity,
        )

    def encode(self, prompts: list[str], *, instruct: bool = True) -> tuple[Tensor, Tensor]:
        self.asked.extend(prompts)
        return self.encoder.encode(prompts, instruct=instruct)

    def overflow(self, prompt: str, *, instruct: bool = True) -> int:
        return self.encoder.overflow(prompt, instruct=instruct)


@pytest.fixture(scope="module")
def gemma(gemma_folder: Path) -> GemmaTextEncoder:
    return GemmaTextEncoder(gemma_folder, 20, IMAGE_INSTRUCTION)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_a_prompt_goes_through_the_encoder_once(gemma: GemmaTextEncoder, tmp_path: Path) -> None:
    counting = Counting(gemma)
    first = cached(counting, tmp_path).encode(PROMPTS)
    again = cached(counting, tmp_path).encode(PROMPTS)
    assert counting.asked == ["a cat", "the sun"]
    for mine, theirs, plain in zip(first, again, gemma.encode(["a cat", "the sun"]), strict=True):
        assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype
        assert torch.equal(mine, plain[[0, 1, 0]])
    cached(counting, tmp_path).encode(["the sea", "the sun"])
    assert counting.asked == ["a cat", "the sun", "the sea"]


def test_it_is_an_encoder_like_the_one_behind_it(gemma: GemmaTextEncoder, tmp_path: Path) -> None:
    both = cached(gemma, tmp_path)
    assert (both.name, both.width, both.tokens, both.identity) == (gemma.name, 16, 20, gemma.identity)
    assert both.overflow("z" * 30) == gemma.overflow("z" * 30) > 0
    with pytest.raises(ValueError, match="no prompts"):
        both.encode([])


def test_instruction_and_its_absence_are_kept_apart(
    gemma_folder: Path, gemma: GemmaTextEncoder, tmp_path: Path
) -> None:
    video = GemmaTextEncoder(gemma_folder, 20, VIDEO_INSTRUCTION)
    for encoder in (gemma, video):
        for instruct in (True, False):
            text, _ = cached(encoder, tmp_path).encode(["a cat"], instruct=instruct)
            assert torch.equal(text, encoder.encode(["a cat"], instruct=instruct)[0])
    assert len(kept(tmp_path)) == 4


def test_bf16_states_take_half_the_room_and_lose_nothing(gemma_folder: Path, tmp_path: Path) -> None:
    encoder = GemmaTextEncoder(gemma_folder, 20, IMAGE_INSTRUCTION, dtype=torch.bfloat16)
    cached(encoder, tmp_path).encode(["a cat"])
    text, mask = cached(encoder, tmp_path).encode(["a cat"])
    assert torch.equal(text, encoder.encode(["a cat"])[0]) and text.dtype == torch.float32 and mask.dtype == torch.bool
    assert kept(tmp_path)[0].stat().st_size < 20 * 16 * 2 + 600


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    ],
    ids=["truncated", "empty", "one bit"],
)
def test_a_damaged_file_is_computed_again(gemma: GemmaTextEncoder, tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    counting = Counting(gemma)
    sound = cached(counting, tmp_path).encode(["a cat"])[0]
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(cached(counting, tmp_path).encode(["a cat"])[0], sound)
    assert counting.asked == ["a cat", "a cat"] and path.read_bytes() == whole


def test_writers_at_once_do_no_harm(gemma: GemmaTextEncoder, tmp_path: Path) -> None:
    prompts = [f"cat {i}" for i in range(5)]
    plain = gemma.encode(prompts)[0]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cached(gemma, tmp_path).encode(prompts)[0], range(4)))
    assert all(torch.equal(result, plain) for result in results)
    assert len(kept(tmp_path)) == 5 and not list(tmp_path.rglob(".*"))
