"""Grows a SANA-1.5 image checkpoint into a video network, which then computes on each frame what the image one did.

The patch embedding and the last linear layer are of another autoencoder and are drawn afresh. The Mix-FFN is wider
here: each half of its gate is filled up with zeros by itself, so the new channels add nothing yet. The convolution over
time starts at zero; where there is one of fewer taps, those stay in the middle. Heads of 32 become heads of 112 without
a change, for they are cut from the same rows.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sana_video.config import SanaVideoConfig
from sana_video.weights import files, official, stream
from sana_video.weights.conversion import write_null
from sana_video.weights.names import Row, expected, part_null, rows

FRESH = ("patch_embed.", "final.linear.")


def grow(state: Mapping[str, Tensor], config: SanaVideoConfig, *, seed: int = 0) -> dict[str, Tensor]:
    """Our state dict for the network of `config`, grown from the image model `state` in official names.

    What is not taken over is drawn from `seed`. ValueError names, in one line, what is missing, unexpected or cannot
    be grown to its new shape.
    """
    network, _ = part_null(state, "official")
    _check(network, config, "the image model")
    return dict(_grown(network, config, seed))


def convert_image_model(
    source: Path | str, target: Path | str, config: SanaVideoConfig, *, seed: int = 0, ema: bool = False
) -> dict[str, int | str]:
    """`grow` from a .pth into a folder of ours, tensor by tensor; raises as `official.read` and `grow`."""
    source, target = Path(source), Path(target)
    network, _ = part_null(official.read(source, ema=ema), "official")
    _check(network, config, str(source))
    target.mkdir(parents=True, exist_ok=True)
    shapes = {name: tensor.to(next(iter(network.values())).dtype) for name, tensor in expected(config, "ours").items()}
    size = stream.write(target / files.FILE_NAME, shapes, _grown(network, config, seed))
    write_null(target, None)  # training brings its own
    files.write_atomically(target / "config.json", config.dump().encode())
    parameters = sum(tensor.numel() for tensor in shapes.values())
    return {"weights": str(target / files.FILE_NAME), "tensors": len(shapes), "parameters": parameters, "bytes": size}


def _grown(network: Mapping[str, Tensor], config: SanaVideoConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    shapes, fresh = expected(config, "ours"), _fresh(config, seed)
    dtype = next(iter(network.values())).dtype
    for row in rows(config.depth):
        shape = shapes[row.ours].shape
        if row.ours.startswith(FRESH):
            tensor = fresh[row.ours]
        elif row.official in network:
            tensor = _fitted(row.ours, network[row.official], shape)
        else:
            tensor = torch.zeros(shape)  # of all that may be missing, the convolution over time
        if not files.finite(tensor):
            raise ValueError(f"{row.official} of the image model holds NaN or infinity")
        yield row.ours, tensor.to(dtype)


def _fresh(config: SanaVideoConfig, seed: int) -> dict[str, Tensor]:
    """First and last layer as a new network draws them; one block is enough, and cheap, to have them drawn."""
    from sana_video.model import SanaVideo  # it reads its own weights through this package

    return SanaVideo(config.with_(depth=1), seed=seed).state_dict()


def _fitted(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """`tensor` in its place of a wider network: unchanged, or with zeros where it is new."""
    if tensor.shape == shape:
        return tensor
    if ".ffn.project." in name:
        return _filled(tensor, shape[1], axis=1)
    if ".ffn.temporal." in name:
        before = (shape[2] - tensor.shape[2]) // 2
        return F.pad(tensor, (0, 0, before, shape[2] - tensor.shape[2] - before))
    return torch.cat([_filled(half, shape[0] // 2, axis=0) for half in tensor.chunk(2)])


def _filled(tensor: Tensor, size: int, axis: int) -> Tensor:
    new = list(tensor.shape)
    new[axis] = size - tensor.shape[axis]
    return torch.cat([tensor, tensor.new_zeros(new)], dim=axis)


def _check(network: Mapping[str, Tensor], config: SanaVideoConfig, source: str) -> None:
    shapes, table = expected(config, "ours"), [row for row in rows(config.depth) if not row.ours.startswith(FRESH)]
    known = {row.official for row in rows(config.depth)}
    faults = {
        "missing": [r.official for r in table if r.official not in network and not r.ours.endswith("temporal.weight")],
        "unexpected": [name for name in network if name not in known],
        "cannot be grown": [
            f"{r.official} {list(network[r.official].shape)} to {list(shapes[r.ours].shape)}"
            for r in table
            if r.official in network and not _growable(r, network[r.official].shape, shapes[r.ours].shape)
        ],
    }
    if len(faults["missing"]) == len(table) - config.depth:
        raise ValueError(f"{source} is no SANA image model: none of its {len(network)} tensors has a name of one")
    files.refuse(source, "SANA image model", faults)


def _growable(row: Row, old: torch.Size, new: torch.Size) -> bool:
    """Only the Mix-FFN grows: by hidden channels, or by taps over time on both sides alike."""
    if old == new:
        return True
    axis = {"project": 1, "temporal": 2, "expand": 0, "depth": 0}.get(row.ours.split(".ffn.")[-1].split(".")[0])
    if axis is None or len(old) != len(new) or any(old[i] != new[i] for i in range(len(old)) if i != axis):
        return False
    return old[axis] < new[axis] and (axis == 1 or old[axis] % 2 == new[axis] % 2)
