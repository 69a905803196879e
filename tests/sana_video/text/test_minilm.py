"""MiniLM: shapes, masks, meaning, and its label."""

import torch

from sana_video.text import MiniLmTextEncoder


def test_pads_and_cuts_to_its_tokens(minilm: MiniLmTextEncoder) -> None:
    text, mask = minilm.encode(["a bunny", "word " * 50])
    assert text.shape == (2, 12, 384) and text.dtype == torch.float32
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == [4, 12]  # [CLS] a bunny [SEP]


def test_overflow_is_what_is_cut(minilm: MiniLmTextEncoder) -> None:
    assert minilm.overflow("a bunny") == 0
    assert minilm.overflow("word " * 50) == 40


def test_state_does_not_depend_on_its_neighbours_in_the_batch(minilm: MiniLmTextEncoder) -> None:
    alone, mask = minilm.encode(["a grey rabbit walks"])
    together, _ = minilm.encode(["a much longer sentence about the weather", "a grey rabbit walks"])
    torch.testing.assert_close(alone[mask], together[1:][mask], atol=1e-5, rtol=0)


def test_tells_meanings_apart(minilm: MiniLmTextEncoder) -> None:
    text, mask = minilm.encode(["a rabbit on the grass", "a bunny in a meadow", "the tax law of 1974"])
    means = torch.nn.functional.normalize((text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
    assert means[0] @ means[1] > means[0] @ means[2] + 0.2


def test_is_labelled_a_stand_in(minilm: MiniLmTextEncoder) -> None:
    assert minilm.name == "MiniLM all-MiniLM-L6-v2 (stand-in for Gemma-2-2b-it)"


def test_has_no_instruction(minilm: MiniLmTextEncoder) -> None:
    assert minilm.encode(["a bunny"], instruct=False)[0].equal(minilm.encode(["a bunny"])[0])
