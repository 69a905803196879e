"""The linear-attention core of one layer on one GPU, norms and rotation included, against plain and compiled torch.

    python benchmarks/linear_attention.py [--out FILE] [--sweep]

Shapes of 2b-480p, bf16, random inputs. Correctness first: outputs, states and gradients of all three forms against
float64, in memory filled with NaN; a wrong one ends the run. The floor is the fewest bytes at the copy bandwidth of the
same run: q, k, v once and the output once. `--sweep` also times each kernel alone, cut in other ways.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from graphs import graphed, table
from timing import copy_bandwidth, default_out, interleaved, refuse_slower, relative_error, write
from torch import Tensor

from sana_video.ops.linear_attention import LinearState, naive, triton
from sana_video.ops.linear_attention.triton import Launch, tuned
from sana_video.rope import Rotary, rotary_tables

HEADS, HEAD, HEIGHT, WIDTH = 20, 112, 30, 52
D = HEADS * HEAD
NUMBERS: dict[str, Any] = {"heads": HEADS, "norm_eps": 1e-5, "eps": 1e-8}
WRONG = {"out": 4e-3, "gradient": 8e-3}

# columns of the stream (B·N·D bf16) that each kernel must move, and other ways to cut it: tile, warps, stages, programs
SWEEP: dict[str, tuple[float, list[tuple[int, int, int, int]]]] = {
    "key_norm": (1, [(8, 4, 1, 0), (4, 4, 1, 0), (16, 4, 1, 0), (8, 8, 1, 0), (2, 4, 1, 0)]),
    "state": (
        2,
        [(32, 4, 3, 2), (32, 4, 2, 2), (32, 4, 4, 2), (32, 4, 3, 4), (64, 8, 2, 1), (64, 8, 3, 1), (64, 4, 3, 1)],
    ),
    "reduce": (0, [(8, 4, 1, 0), (4, 4, 1, 0), (16, 4, 1, 0), (32, 4, 1, 0)]),
    "apply": (
        2,
        [(64, 8, 3, 2), (64, 8, 2, 2), (64, 8, 2, 3), (64, 8, 3, 4), (32, 4, 2, 4), (32, 4, 3, 3), (64, 4, 2, 2)],
    ),
    "query_backward": (4, [(32, 8, 2, 1), (32, 8, 3, 1), (64, 8, 2, 1), (32, 8, 2, 2)]),
    "value_backward": (3, [(32, 4, 2, 3), (32, 4, 3, 3), (64, 8, 2, 1), (64, 4, 2, 2)]),
    "key_backward": (3, [(32, 8, 2, 2), (32, 8, 3, 2), (64, 8, 2, 1), (64, 8, 3, 1), (32, 4, 2, 3), (64, 4, 2, 2)]),
}

Attend = Callable[..., tuple[Tensor, LinearState]]


class Inputs:
    """Random qkv (B, N, 3D) of `frames` latent frames, norm weights, tables, an optional state, and a cotangent."""

    def __init__(self, batch: int, frames: int, *, seed: int, starts: tuple[int, ...] = (0,), state: bool = False):
        generator = torch.Generator("cuda").manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, device="cuda", generator=generator)

        self.starts, N = [start * HEIGHT * WIDTH for start in starts], frames * HEIGHT * WIDTH
        self.qkv = normal(batch, N, 3 * D).bfloat16()
        self.weights = [(1 + 0.2 * normal(D)).bfloat16() for _ in range(2)]
        self.cotangent = normal(batch, N, D).bfloat16()
        self.rotary = rotary_tables((40, 36, 36), (frames, HEIGHT, WIDTH), 7 if state else 0, self.qkv.device)
        self.state = None
        if state:
            sums = normal(batch, HEADS, HEAD, HEAD) * 50, normal(batch, HEADS, HEAD).abs() * 5000
            self.state = LinearState(*sums)

    def outputs(self, attend: Attend) -> tuple[Tensor, LinearState]:
        return attend(self.qkv, *self.weights, self.rotary, starts=self.starts, state=self.state, **NUMBERS)

    def backward(self, attend: Callable[..., Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of the leaves through the output alone; `attend` gives it without the sums."""
        out = attend(*leaves, self.rotary, starts=self.starts, state=self.state, **NUMBERS)
        return torch.autograd.grad(out, leaves, self.cotangent.to(out.dtype))

    def leaves(self, dtype: torch.dtype | None = None) -> list[Tensor]:
        return [x.to(dtype or x.dtype, copy=True).requires_grad_() for x in (self.qkv, *self.weights)]

    def with_gradients(self, attend: Attend, leaves: list[Tensor], rotary: Rotary) -> dict[str, Tensor]:
        """Output, sums, and the gradients of qkv and of the weights."""
        wide = leaves[0].dtype == torch.float64
        state = LinearState(*(x.double() for x in self.state)) if self.state and wide else self.state
        out, after = attend(*leaves, rotary, starts=self.starts, state=state, **NUMBERS)
        grads = torch.autograd.grad(out, leaves, self.cotangent.to(out.dtype))
        q, k, v = grads[0].chunk(3, dim=-1)
        named = {"out": out.detach(), "sum_kv": after.sum_kv.detach(), "sum_k": after.sum_k.detach()}
        return named | {"dq": q, "dk": k, "dv": v, "dq_weight": grads[1], "dk_weight": grads[2]}


def errors(inputs: Inputs) -> dict[str, dict[str, float]]:
    """Relative errors to float64 of ours and of the definition in bf16; SystemExit for a wrong one."""
    table64 = inputs.rotary._replace(cos=inputs.rotary.cos.double(), sin=inputs.rotary.sin.double())
    expected = inputs.with_gradients(naive.normed_linear_attention, inputs.leaves(torch.float64), table64)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    ours = inputs.with_gradients(triton.normed_linear_attention, inputs.leaves(), inputs.rotary)
    torch.use_deterministic_algorithms(False)
    plain = inputs.with_gradients(naive.normed_linear_attention, inputs.leaves(), inputs.rotary)
    found = {
        name: {"ours": relative_error(ours[name], x), "definition in bf16": relative_error(plain[name], x)}
        for name, x in expected.items()
    }
    for name, pair in found.items():
        print(f"  {name:10s} ours {pair['ours']:.1e}   definition in bf16 {pair['definition in bf16']:.1e}", flush=True)
        limit = max(WRONG["gradient" if name.startswith("d") else "out"], 1.5 * pair["definition in bf16"])
        if not pair["ours"] < limit:
            raise SystemExit(f"{name}: relative error {pair['ours']:.2e} to float64 is too large")
    return found


def correctness() -> dict[str, Any]:
    forms = {
        "both ways, 21 frames": Inputs(1, 21, seed=0),
        "chunk-causal, 11 + 10 frames": Inputs(1, 21, seed=1, starts=(0, 11)),
        "continued, 3 frames, batch 2": Inputs(2, 3, seed=2, state=True),
    }
    found = {}
    for name, inputs in forms.items():
        print(name)
        found[name] = errors(inputs)
        torch.cuda.empty_cache()
    return found


def fla_causal(inputs: Inputs) -> Callable[[], object] | None:
    """flash-linear-attention's causal kernel: no norm, ReLU, rotation or denominator. None where not installed."""
    try:
        from fla.ops.linear_attn import chunk_linear_attn
    except ImportError:
        return None
    q, k, v = (x.contiguous() for x in inputs.qkv.unflatten(-1, (3 * HEADS, HEAD)).chunk(3, dim=2))
    return lambda: chunk_linear_attn(q, k, v, normalize=False)


def output_only(attend: Attend) -> Callable[..., Tensor]:
    """Compiled with sums that nobody differentiates, a backward fails in AOTAutograd: they must not leave the graph."""

    def only(*tensors: Any, **options: Any) -> Tensor:
        return attend(*tensors, **options)[0]

    return only


def contenders(inputs: Inputs) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], object]]]:
    """Forward alone, and forward with backward."""
    compiled = torch.compile(naive.normed_linear_attention, dynamic=False)
    wide = Inputs(inputs.qkv.shape[0], inputs.qkv.shape[1] // (HEIGHT * WIDTH), seed=0)
    wide.qkv, wide.weights = inputs.qkv.float(), [w.float() for w in inputs.weights]
    forward: dict[str, Callable[[], object]] = {
        "eager float32": lambda: wide.outputs(naive.normed_linear_attention),
        "eager bf16": lambda: inputs.outputs(naive.normed_linear_attention),
        "compiled bf16": lambda: inputs.outputs(compiled),
        "ours": lambda: inputs.outputs(triton.normed_linear_attention),
    }
    if (fla := fla_causal(inputs)) is not None:
        forward["fla causal, core only"] = fla
    leaves = inputs.leaves()
    trained = torch.compile(output_only(naive.normed_linear_attention), dynamic=False)
    ours = output_only(triton.normed_linear_attention)
    both: dict[str, Callable[[], object]] = {
        "compiled bf16": lambda: inputs.backward(trained, leaves),
        "ours": lambda: inputs.backward(ours, leaves),
    }
    return forward, both


def milliseconds(runs: dict[str, Callable[[], object]], *, calls: int, rounds: int) -> dict[str, float]:
    """Of one run of each, in turns, from CUDA graphs; rounds x 2 x calls runs of each."""
    graphs = {name: graphed(run, calls) for name, run in runs.items()}
    return {name: took / calls for name, took in interleaved(graphs, rounds=rounds, calls=2).items()}


def alone(name: str, launch: Launch, inputs: Inputs) -> Callable[[], object]:
    """One kernel as `launch` cuts it, on the operands that a whole forward and backward hands it."""
    method = name if name in {"key_norm", "reduce"} else "launch"
    original, calls = getattr(triton.Case, method), []

    def spy(case: triton.Case, *operands: Any, **options: Any) -> Any:
        if method == name or operands[1] == name:
            calls.append((case, operands, options))
        return original(case, *operands, **options)

    changes = {"tile": launch.tile, "warps": launch.warps, "stages": launch.stages, "programs": launch.programs}
    setattr(triton.Case, method, spy)
    try:
        with tuned(name, **changes):
            inputs.with_gradients(triton.normed_linear_attention, inputs.leaves(), inputs.rotary)
    finally:
        setattr(triton.Case, method, original)
    case, operands, options = calls[0]

    def run() -> None:
        with tuned(name, **changes):
            original(case, *operands, **options)

    return run


def sweep(inputs: Inputs, unit: float) -> dict[str, dict[str, float]]:
    found = {}
    for name, (columns, cuts) in SWEEP.items():
        runs = {}
        for cut in dict.fromkeys([_cut(triton.TUNED[name]), *cuts]):
            label = "tile {:3d}  warps {}  stages {}  programs {}".format(*cut)
            try:
                runs[label] = graphed(alone(name, Launch(*cut), inputs), 5)
            except Exception as error:  # a cut that does not fit must not cost the others their figures
                print(f"  {name} {label}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        times = {label: took / 5 for label, took in interleaved(runs, rounds=4, calls=2).items()}
        table(f"{name} (now: {_cut(triton.TUNED[name])})", times, columns * unit, {})
        found[name] = times
    return found


def _cut(launch: Launch) -> tuple[int, int, int, int]:
    return launch.tile, launch.warps, launch.stages, launch.programs


def times(batch: int, unit: float) -> dict[str, Any]:
    """Of the forms at their full size: all peers for both ways, the definition in bf16 for the rest."""
    inputs = Inputs(batch, 21, seed=0)
    forward, both = contenders(inputs)
    with torch.no_grad():
        figures = {"forward_ms": milliseconds(forward, calls=3, rounds=5)}
    table("forward", figures["forward_ms"], 4 * unit, {})
    figures["forward_backward_ms"] = milliseconds(both, calls=2, rounds=8)
    table("forward and backward", figures["forward_backward_ms"], 12 * unit, {})
    del forward, both
    torch.cuda.empty_cache()
    others = {
        "chunk-causal, 11 + 10 frames": Inputs(batch, 21, seed=1, starts=(0, 11)),
        "continued, 3 frames": Inputs(batch, 3, seed=2, state=True),
        "17 frames (5 latent)": Inputs(batch, 5, seed=3),
    }
    ways = {"ours": triton.normed_linear_attention, "eager bf16": naive.normed_linear_attention}
    figures["other_forms_ms"] = {}
    for name, x in others.items():
        with torch.no_grad():
            runs = {way: (lambda x=x, attend=attend: x.outputs(attend)) for way, attend in ways.items()}
            figures["other_forms_ms"][name] = milliseconds(runs, calls=5, rounds=4)
        table(name, figures["other_forms_ms"][name], 4 * unit * x.qkv.shape[1] / inputs.qkv.shape[1], {})
    return figures


def against_plain(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Ours beside the plain forms of the same work; fla's core leaves out most of it."""
    forward = {name: took for name, took in figures["forward_ms"].items() if not name.startswith("fla")}
    return {"both ways": forward, "with backward": figures["forward_backward_ms"], **figures["other_forms_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("linear-attention"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sweep", action="store_true", help="time each kernel alone, cut in other ways, as well")
    given = parser.parse_args()
    bandwidth = copy_bandwidth()
    unit = 1000 * given.batch * 21 * HEIGHT * WIDTH * D * 2 / bandwidth  # ms that one pass over the stream takes
    print(f"copy {bandwidth / 1e12:.3f} TB/s, one pass {unit:.4f} ms", flush=True)
    figures: dict[str, Any] = {"copy_bytes_per_second": bandwidth, "batch": given.batch, "pass_ms": unit}
    figures["relative_errors"] = correctness()
    figures |= times(given.batch, unit)
    if given.sweep:
        figures["sweep_ms"] = sweep(Inputs(given.batch, 21, seed=0), unit)
    write(given.out, figures)
    refuse_slower(against_plain(figures))


if __name__ == "__main__":
    main()
