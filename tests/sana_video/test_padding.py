"""Text without its padding, and text read once, against the definition: padded text under a mask, at every call."""

import pytest
import torch
from oracle import SMALL, Inputs, inputs, relative, shaken
from torch import Tensor

from sana_video.model import SanaVideo
from sana_video.padding import MULTIPLE, trimmed

SUMS = 1e-5  # relative: the same terms in another order, in float32
# a text of nothing but padding: float32 knows its logits, lowered by 10,000, to 2^-11 only; unlowered ones are exact
LOWERED = 2e-4
MASKS = {
    "of one length": torch.tensor([[1, 1, 1, 1, 0, 0]] * 2),
    "of one length, with holes": torch.tensor([[0, 1, 0, 1, 0, 1], [1, 1, 0, 0, 0, 1]]),
    "of two lengths": torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]),
    "full": torch.ones(2, 6),
    "one of padding only": torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]),
    "of padding only": torch.zeros(2, 6),
}
masks = pytest.mark.parametrize("mask", [mask.bool() for mask in MASKS.values()], ids=list(MASKS))


def padded(mask: Tensor) -> Inputs:
    """What stands in padding is large and of no meaning."""
    given = inputs(SMALL)._replace(text_mask=mask)
    return given._replace(text=torch.where(mask.unsqueeze(-1) | ~mask.any(1)[:, None, None], given.text, 1e3))


def bound(mask: Tensor) -> float:
    return SUMS if mask.any(1).all() else LOWERED


@pytest.fixture(scope="module")
def model() -> SanaVideo:
    return shaken(SMALL)


@masks
@torch.no_grad()
def test_trimmed_and_read_texts_give_the_velocity_of_the_padded_one(model: SanaVideo, mask: Tensor) -> None:
    given = padded(mask)
    expected = model(*given)
    shorter = trimmed(given.text, mask)
    assert relative(model(given.latents, given.timestep, *shorter), expected) < bound(mask)
    for texts in (shorter, (given.text, mask)):
        reading = model.read(*texts)
        assert relative(model(given.latents, given.timestep, reading), expected) < bound(mask)
        streamed, _ = model.stream(given.latents, given.timestep, reading, None, None)
        assert relative(streamed, expected) < bound(mask)


@masks
def test_gradients_are_those_of_the_padded_text(model: SanaVideo, mask: Tensor) -> None:
    """Of every parameter, and of the text, where padding gets none; ten times the bound of outputs."""
    given = padded(mask)
    found = []
    for trim in (False, True):
        text = given.text.clone().requires_grad_()
        texts = trimmed(text, mask) if trim else (text, mask)
        loss = model(given.latents, given.timestep, *texts).square().mean()
        found.append(torch.autograd.grad(loss, [text, *model.parameters()]))
    for ours, expected in zip(found[1], found[0], strict=True):
        assert float((ours - expected).norm()) <= 10 * bound(mask) * float(expected.norm()) + 1e-9


def test_what_is_cut_off() -> None:
    text = torch.arange(2 * 6).view(2, 6, 1).float()
    kept, mask = trimmed(text, MASKS["of one length, with holes"].bool())
    assert kept.squeeze(-1).tolist() == [[1, 3, 5], [6, 7, 11]]
    assert mask is None
    kept, mask = trimmed(text, MASKS["full"].bool())
    assert kept is text
    assert mask is None


def test_different_lengths_leave_few_shapes() -> None:
    text = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0))
    for longest, length in ((3, MULTIPLE), (MULTIPLE, MULTIPLE), (MULTIPLE + 1, 2 * MULTIPLE), (99, 100)):
        found = torch.arange(100) < torch.tensor([[2], [longest]])
        kept, mask = trimmed(text, found)
        assert kept.shape == (2, length, 3)
        assert mask is not None
        assert mask.sum(1).tolist() == [2, longest]
        assert torch.equal(kept[1, :longest], text[1, :longest])


def test_a_reading_that_does_not_fit_is_named(model: SanaVideo) -> None:
    given = inputs(SMALL)
    reading = model.read(given.text, given.text_mask)
    with pytest.raises(ValueError, match="reading of 2 texts"):
        model(given.latents, given.timestep, reading, given.text_mask)
    with pytest.raises(ValueError, match="for a batch of 1"):
        model(given.latents[:1], given.timestep[:1], reading)
