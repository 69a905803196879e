"""Layers with a rule of their own: what the temporal convolution sees, and how far modulation reaches."""

import torch

from sana_video.layers import MixFFN, RMSNorm, TimestepEmbedding


def ffn(seed: int = 0) -> MixFFN:
    torch.manual_seed(seed)
    return MixFFN(8, 12)


def tokens() -> torch.Tensor:
    return torch.randn(2, 5, 2 * 3, 8, generator=torch.Generator().manual_seed(1))


def branch(layer: MixFFN, x: torch.Tensor, starts: tuple[int, ...], last_u: torch.Tensor | None = None) -> torch.Tensor:
    u, along_time, _ = layer(x, 2, starts, last_u)
    return u + along_time


def test_mix_ffn_is_four_convolutions() -> None:
    layer, x = ffn().double(), tokens().double()
    torch.nn.init.normal_(layer.depth.bias)  # type: ignore[arg-type]
    conv2d, silu = torch.nn.functional.conv2d, torch.nn.functional.silu
    frames = x.view(10, 2, 3, 8).permute(0, 3, 1, 2)
    hidden = silu(conv2d(frames, layer.expand.weight, layer.expand.bias))
    value, gate = conv2d(hidden, layer.depth.weight, layer.depth.bias, padding=1, groups=24).chunk(2, dim=1)
    u = conv2d(value * silu(gate), layer.project.weight).permute(0, 2, 3, 1).reshape(x.shape)
    along = conv2d(u.permute(0, 3, 1, 2), layer.temporal.weight, padding=(1, 0)).permute(0, 2, 3, 1)
    got = layer(x, 2, (0,), None)
    torch.testing.assert_close(got, (u, along, u[:, -1:]))


def test_one_chunk_is_an_ordinary_padded_convolution() -> None:
    layer, x = ffn(), tokens()
    u = layer(x, 2, (0,), None)[0].permute(0, 3, 1, 2)
    expected = u + torch.nn.functional.conv2d(u, layer.temporal.weight, padding=(1, 0))
    torch.testing.assert_close(branch(layer, x, (0,)), expected.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-6)


def test_chunks_equal_calls_that_hand_on_the_last_frame() -> None:
    layer, x = ffn(), tokens()
    *_, last = layer(x, 2, (0, 3), None)
    *_, handed = layer(x[:, :3], 2, (0,), None)
    *_, again = layer(x[:, 3:], 2, (0,), handed)
    pieces = [branch(layer, x[:, :3], (0,)), branch(layer, x[:, 3:], (0,), handed)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), branch(layer, x, (0, 3)))
    torch.testing.assert_close(again, last)
    assert last.shape == (2, 1, 6, 8)


def test_a_chunk_ends_with_nothing_to_its_right() -> None:
    layer, x = ffn(), tokens()
    torch.testing.assert_close(branch(layer, x, (0, 3))[:, :3], branch(layer, x[:, :3], (0,)))


def test_rms_norm_is_over_the_whole_width_in_float32() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(2)) * 300
    norm = RMSNorm(64, 1e-5)
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(4))
    assert torch.isfinite(norm.half()(x.half())).all()  # 300² would overflow float16


def test_timestep_sinusoids_put_cosines_first() -> None:
    embed = TimestepEmbedding(256)
    with torch.no_grad():
        for layer in (embed.fc1, embed.fc2):
            layer.weight.copy_(torch.eye(256))
            layer.bias.zero_()
    silu = torch.nn.functional.silu
    out = embed(torch.zeros(1, 1))[0, 0]
    torch.testing.assert_close(out[:128], silu(torch.ones(128)))
    torch.testing.assert_close(out[128:], torch.zeros(128))
