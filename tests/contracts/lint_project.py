"""Rules of this project that no linter on the shelf knows. `make lint` runs it; it prints each breach and exits 1.

- `import eval` binds a package over the builtin: only `from eval.x import y`.
- tests/e2e shows the real DVC, great-expectations, Prefect and MLflow at work: none of them may be patched there.
- pickles run code: no torch.load, no pickle; but the published checkpoints are pickles, and one module reads them as
  plain data.
- the environment is read in infra/settings.py and where ranks are set up, nowhere else.
- stages write through atomic writers: no open(..., "w") in the packages that run as stages
  (appending to a lock file loses nothing).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sana_video", "data_pipeline", "eval", "infra", "flows")
PATCHED = ("dvc", "great_expectations", "prefect", "mlflow")
READS_ENVIRONMENT = {"infra/settings.py", "sana_video/train/parallelize.py"}
READS_PICKLES = "sana_video/weights/official.py"
WRITES_FILES = {"infra/storage.py"}


def breaches(path: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, sentence) of each rule that `source`, standing at repository path `path`, breaks."""
    in_package = path.split("/")[0] in PACKAGES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(n.name.split(".")[0] == "eval" for n in node.names):
            yield node.lineno, "`import eval` hides the builtin; write `from eval.x import y`"
        if path.startswith("tests/e2e/") and _patches(node):
            yield getattr(node, "lineno", 0), "an end-to-end test may not patch DVC, GX, Prefect or MLflow"
        if not in_package:
            continue
        called = _dotted(node.func) if isinstance(node, ast.Call) else ""
        if called in {"torch.load", "pickle.load", "pickle.loads"} and not (
            path == READS_PICKLES and called == "torch.load" and _weights_only(node)
        ):
            yield node.lineno, f"{called} runs code from the file; read safetensors"
        if _dotted(node) == "os.environ" and path not in READS_ENVIRONMENT:
            yield getattr(node, "lineno", 0), "the environment is read in infra/settings.py only"
        if called == "open" and path not in WRITES_FILES and _mode(node).startswith(("w", "x")):
            yield node.lineno, "write through infra.storage.atomic_write"


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _mode(call: ast.AST) -> str:
    assert isinstance(call, ast.Call)
    modes = [*call.args[1:2]] + [k.value for k in call.keywords if k.arg == "mode"]
    return next((m.value for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str)), "r")


def _weights_only(call: ast.AST) -> bool:
    """Whether the call says weights_only=True, in these words."""
    assert isinstance(call, ast.Call)
    given = [k.value for k in call.keywords if k.arg == "weights_only"]
    return len(given) == 1 and isinstance(given[0], ast.Constant) and given[0].value is True


def _patches(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not node.args:
        return False
    name = _dotted(node.func)
    if name.split(".")[-1] not in {"setattr", "patch", "object", "setitem", "delattr"}:
        return False
    target = node.args[0]
    text = target.value if isinstance(target, ast.Constant) else _dotted(target)
    return isinstance(text, str) and text.split(".")[0] in PATCHED


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = 0
    for path in filter(lambda p: (ROOT / p).exists(), listed.stdout.split()):
        for line, sentence in breaches(path, (ROOT / path).read_text()):
            print(f"{path}:{line}: {sentence}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
