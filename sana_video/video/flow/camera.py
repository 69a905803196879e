"""What of a flow field is the camera's and what the objects': an affine model of the whole picture, robustly fitted.

A camera that pans, tilts, zooms or rolls moves the picture (nearly) as p -> p + A p + t; what does not follow moves by
itself. The model is found by consensus of three points (RANSAC, Fischler and Bolles 1981, with the bounded cost of Torr
and Zisserman 2000), then by least squares with Tukey's weights, on every eighth pixel. It is the motion of the largest
part that moves as one: an object that fills most of the picture is taken for the camera, parallax for objects, and
where nothing moves as one the camera counts as still.

The draws are fixed, so the same field gives the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]
Floats = NDArray[np.float64]

STRIDE = 8  # every eighth pixel in both directions is looked at; hypotheses are judged on every fourth of those
DRAWS = 96  # with two fifths of the picture on the camera's model, one draw in 16 is of it alone: missed 1 in 500 times
FLAT = 0.05  # share of the picture's area below which three points are too nearly in line to draw a model from
NOISE, NOISE_SHARE = 1.0, 0.05  # px, and share of its length: what an estimator of flow is off by
SCALES = (1.0, 2.0, 4.0, 8.0)  # multiples of the noise: with parallax few places follow a plane's motion closely
SUPPORT = 0.3  # share of the picture that must follow a model, else nothing moves as one and the camera counts as still
ROUNDS = 4  # of reweighting


@dataclass(frozen=True)
class CameraSplit:
    """Motion of a clip by its cause, each >= 0 in pixels of the flow field per pair of pictures."""

    camera_motion: float
    camera_jitter: float
    object_motion: float
    models: tuple[Floats, ...] = field(default=(), compare=False)  # of each pair: that of `fit_camera`


def split_motion(flows: Field | Sequence[Field], seconds: float | Sequence[float] = 0.5, every: int = 1) -> CameraSplit:
    """The split of the flow (2, h, w) of one pair, or of consecutive pairs, `seconds` long (one for all, or of each).

    A field may hold `every` second or fourth pixel of its picture in both directions, each for the square it stands in;
    flow is in pixels of the picture all the same.

    camera_motion: mean over picture and pairs of the length of the model's flow.
    object_motion: mean of the length of what the model leaves, where up to 1 px + 5 % of the flow's length counts as
      the estimator's noise, thus 0. Places that the model moves out of the picture are left out: their flow is a guess.
    camera_jitter: root mean square over picture and consecutive pairs of the change of the model's flow. Uneven pairs
      are first brought to their mean duration. 0 for a single pair, which shows no change.

    ValueError for no pairs, another shape, fields of several sizes, or values that are not finite.
    """
    fields = [flows] if isinstance(flows, np.ndarray) and flows.ndim == 3 else list(flows)
    if not fields or any(one.shape != fields[0].shape for one in fields):
        raise ValueError(f"flow must be one or more (2, h, w) of one size, not {[one.shape for one in fields]}")
    fitted = [fit_camera(one, every) for one in fields]
    models = [
        model.T @ _places(*fields[0].shape[1:], every) for model in fitted
    ]  # (2, n): flow at the looked-at places
    durations = np.broadcast_to(np.asarray(seconds, np.float64), len(fields))
    return CameraSplit(
        camera_motion=float(np.mean([_length(model).mean() for model in models])),
        camera_jitter=jitter(fitted, durations, fields[0].shape[1:], every),
        object_motion=float(np.mean([_left_over(*pair, every) for pair in zip(fields, models, strict=True)])),
        models=tuple(fitted),
    )


def jitter(fitted: Sequence[Floats], seconds: Floats, shape: tuple[int, ...], every: int = 1) -> float:
    """`camera_jitter` of the models of consecutive pairs, `seconds` long each, of fields of `shape` (h, w)."""
    if len(fitted) < 2:
        return 0.0
    models = np.stack([model.T @ _places(shape[0], shape[1], every) for model in fitted])
    even = models * (seconds.mean() / seconds)[:, None, None]
    return float(np.sqrt((np.diff(even, axis=0) ** 2).sum(1).mean()))


def fit_camera(flow: Field, every: int = 1) -> Floats:
    """The camera's model M (3, 2) of a flow field (2, h, w): its flow at (x, y) from the centre is [x, y, 1] M.

    `every` as in `split_motion`. ValueError for another shape, a field of less than 24x24 pixels of its picture, or one
    that is not finite.
    """
    if every not in (1, 2, 4):
        raise ValueError(f"a field may hold every pixel, every second or every fourth, not every {every}")
    least = 3 * STRIDE // every
    if flow.ndim != 3 or len(flow) != 2 or min(flow.shape[1:]) < least:
        raise ValueError(f"flow must be (2, h, w) of at least {least}x{least}, not {flow.shape}")
    seen, places = _looked_at(flow, every), _places(*flow.shape[1:], every)
    noise = _noise(seen)
    model, scale = _consensus(seen, places, noise, *_draws(*flow.shape[1:], every))
    for _ in range(ROUNDS if scale else 0):
        model = _reweighted(model, seen, places, noise * scale)
    return model


def _consensus(
    seen: Floats, places: Floats, noise: Floats, triples: NDArray[np.int64], inverses: Floats
) -> tuple[Floats, float]:
    """Of the models through three points the one of least bounded cost, and the multiple of the noise it was found at.

    That is the least of SCALES at which enough of the picture follows; no motion, and 0, where none does.
    """
    models = inverses @ seen.T[triples]
    off = _square_off(models.astype(np.float32), *(of[..., ::4].astype(np.float32) for of in (seen, places, noise)))
    for scale in SCALES:
        best = int(np.minimum(off, scale**2).sum(1).argmin())
        if (off[best] <= scale**2).mean() >= SUPPORT:
            return np.asarray(models[best], np.float64), scale
    return np.zeros((3, 2)), 0.0


def _square_off(
    models: NDArray[np.float32], seen: NDArray[np.float32], places: NDArray[np.float32], noise: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(DRAWS, n): by how many times the noise each model misses the flow at each place, squared."""
    x, y = (models[:, :, axis] @ places for axis in range(2))  # single precision will do to choose
    for along, flow in zip((x, y), seen, strict=True):  # in place: fresh memory costs more than the arithmetic
        along -= flow
        along *= along
    x += y
    x /= noise**2
    return x


def _reweighted(model: Floats, seen: Floats, places: Floats, noise: Floats) -> Floats:
    """One step of least squares with Tukey's weights: at twice the noise and beyond a place has no say."""
    off = _length(seen - model.T @ places) / (2.0 * noise)
    weighted = places * np.maximum(1.0 - off**2, 0.0) ** 2
    return np.asarray(np.linalg.lstsq(weighted @ places.T, weighted @ seen.T, rcond=None)[0], np.float64)


def _left_over(flow: Field, model: Floats, every: int) -> float:
    """Mean length of what `model`, flow at the looked-at places, leaves of `flow`: see `split_motion`."""
    seen, (height, width) = _looked_at(flow, every), flow.shape[1:]
    length = _length(seen - model)
    x, y = np.abs(_places(height, width, every)[:2] + model)
    visible = (x <= (width * every - 1) / 2) & (y <= (height * every - 1) / 2)
    moving = np.where(length > _noise(seen), length, 0.0)[visible]
    return float(moving.mean()) if moving.size else 0.0


def _length(flow: Floats) -> Floats:
    length: Floats = np.sqrt(flow[0] ** 2 + flow[1] ** 2)  # np.hypot, which fears overflow, costs thrice this
    return length


def _noise(seen: Floats) -> Floats:
    """What flow may be off by at each place and still be the estimator's own error, px."""
    return NOISE + NOISE_SHARE * _length(seen)


def _looked_at(flow: Field, every: int) -> Floats:
    """(2, n): flow at the looked-at places."""
    step = STRIDE // every
    seen = flow[:, step // 2 :: step, step // 2 :: step].reshape(2, -1).astype(np.float64)
    if not np.isfinite(seen).all():
        raise ValueError("flow is not finite: its estimator is broken")
    return seen


@functools.lru_cache(maxsize=8)
def _places(height: int, width: int, every: int) -> Floats:
    """(3, n): x and y from the centre, and 1, of each looked-at place, row by row, in pixels of the picture."""
    step = STRIDE // every
    y, x = every * np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    return np.stack((x - every * (width - 1) / 2, y - every * (height - 1) / 2, np.ones(len(x))))


@functools.lru_cache(maxsize=8)
def _draws(height: int, width: int, every: int) -> tuple[NDArray[np.int64], Floats]:
    """(DRAWS, 3): indices of places, drawn with a fixed seed, three that span a good triangle each; and (DRAWS, 3, 3):
    what makes a model of the flow at them."""
    places = _places(height, width, every).T
    drawn = np.random.RandomState(0).randint(0, len(places), (20 * DRAWS, 3))  # a stream that NumPy keeps for ever
    area = np.abs(np.linalg.det(places[drawn])) / 2
    triples = np.asarray(drawn[area >= FLAT * height * width * every**2][:DRAWS], np.int64)
    return triples, np.asarray(np.linalg.inv(places[triples]), np.float64)
