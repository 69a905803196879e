"""The whole network as one graph of torch.compile, with the operations as their definitions."""

import pytest
import torch
from oracle import SMALL, inputs, relative, shaken

from sana_video.padding import trimmed


@pytest.mark.parametrize(
    "cut", [pytest.param(True, id="cut text"), pytest.param(False, id="padded text", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "starts", [pytest.param((0,), id="both ways"), pytest.param((0, 2), id="chunk-causal", marks=pytest.mark.slow)]
)
def test_one_graph_forward_and_backward(starts: tuple[int, ...], cut: bool) -> None:
    """`fullgraph` refuses any break; the backend keeps the operators as they are, so float32 differs by order only."""
    model, given = shaken(SMALL.with_(depth=1)), inputs(SMALL, frames=3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    cut_text = trimmed(given.text[:, :4], given.text_mask[:, :1].expand(-1, 4))
    text, found = cut_text if cut else (given.text, given.text_mask), []
    for network in (model, compiled):
        out = network(given.latents, given.timestep, *text, chunk_index=starts)
        found.append([out, *torch.autograd.grad(out.square().mean(), list(model.parameters()))])
    for ours, expected in zip(found[1], found[0], strict=True):
        assert relative(ours.detach(), expected.detach()) < 1e-5


@torch.no_grad()
def test_one_graph_about_a_text_that_was_read() -> None:
    model, given = shaken(SMALL.with_(depth=1)).eval(), inputs(SMALL, frames=2)
    reading = model.read(given.text, given.text_mask)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    expected = model(given.latents, given.timestep, reading)
    assert relative(compiled(given.latents, given.timestep, reading), expected) < 1e-5
