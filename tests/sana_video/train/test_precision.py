"""What bf16 means in training: weights and gradients in float32, products and the stream between blocks in bf16."""

import pytest
import torch
from oracle import SMALL, inputs, relative, shaken

from sana_video import SanaVideo
from sana_video.data.loader import Batch
from sana_video.train.config import Precision, StageParams
from sana_video.train.loop import forward_backward
from sana_video.train.objectives import Draw, FlowMatching

NAMES = {"init": "scratch", "autoencoder": "a", "view": "v", "after": "none"}
STAGE = StageParams(objective="bidirectional", **NAMES, steps=1, batch=2, lr=1e-3, warmup=0, caption_dropout=0.0)


def trained(model: SanaVideo, precision: Precision) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch, as the loop takes them."""
    given = inputs(SMALL)
    objective = FlowMatching(STAGE, SMALL, (given.text[0], given.text_mask[0]))
    batch = Batch({"latents": given.latents, "text": given.text, "mask": given.text_mask}, (0, 1))
    model.zero_grad()
    loss = forward_backward(model, objective, batch, Draw(0, 1, batch.positions), 1, precision)
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_stream_between_blocks_and_its_gradient_follow_the_precision(
    precision: Precision, dtype: torch.dtype
) -> None:
    model = shaken(SMALL)
    seen, back, modulations = [], [], []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: seen.extend([args[0].dtype, out[0].dtype]))
        block.register_full_backward_hook(lambda module, given, out: back.append(out[0].dtype))
        block.register_forward_pre_hook(
            lambda module, args, kwargs: modulations.extend(
                part.dtype for branch in module._modulations(kwargs["modulation"]) for part in branch
            ),
            with_kwargs=True,
        )
    _, gradients = trained(model, precision)
    assert seen == [dtype] * 4 and back == [dtype] * 2
    assert modulations == [dtype] * 12  # what shift is in, `modulate` hands to the next product
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


def test_bf16_has_the_gradients_of_float32_but_for_its_rounding() -> None:
    """Eight bits, some dozen roundings deep: a few percent at most; a branch that is lost is off by its size."""
    model = shaken(SMALL)
    exact_loss, exact = trained(model, "fp32")
    exact = {name: gradient.clone() for name, gradient in exact.items()}
    loss, found = trained(model, "bf16")
    assert float(loss) == pytest.approx(float(exact_loss), rel=1e-2) and not torch.equal(loss, exact_loss)
    assert found.keys() == exact.keys()
    worst = max((relative(found[name], exact[name]), name) for name in exact)
    assert worst[0] < 4e-2, worst
