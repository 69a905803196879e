"""The project's own lint catches what it is for, and lets ordinary code pass."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("lint_project", Path(__file__).parent / "lint_project.py")
assert _spec and _spec.loader
lint = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lint)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("flows/x.py", "import eval.suite"),
        ("tests/e2e/test_x.py", "monkeypatch.setattr('dvc.repo.Repo', None)"),
        ("tests/e2e/test_x.py", "import prefect\nmonkeypatch.setattr(prefect.flow, 'x', None)"),
        ("tests/e2e/test_x.py", "mock.patch('mlflow.log_metric')"),
        ("sana_video/x.py", "torch.load('a.pth')"),
        ("sana_video/x.py", "torch.load('a.pth', weights_only=True)"),
        ("infra/official.py", "torch.load('a.pth', weights_only=True)"),
        ("sana_video/weights/official.py", "torch.load('a.pth')"),
        ("sana_video/weights/official.py", "torch.load('a.pth', weights_only=False)"),
        ("sana_video/weights/official.py", "torch.load('a.pth', weights_only=safe)"),
        ("sana_video/weights/official.py", "torch.load('a.pth', **{'weights_only': True})"),
        ("sana_video/weights/official.py", "pickle.load(file)"),
        ("eval/x.py", "os.environ['HOME']"),
        ("data_pipeline/x.py", "open(path, 'w')"),
        ("data_pipeline/x.py", "open(path, mode='wb')"),
    ],
)
def test_breach_is_found(path: str, source: str) -> None:
    assert list(lint.breaches(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("flows/x.py", "from eval.suite import run"),
        ("tests/e2e/test_x.py", "monkeypatch.setattr(ours, 'x', 1)"),
        ("infra/settings.py", "os.environ['HOME']"),
        ("sana_video/weights/official.py", "torch.load('a.pth', mmap=True, weights_only=True)"),
        ("data_pipeline/x.py", "open(path, 'rb')"),
    ],
)
def test_ordinary_code_passes(path: str, source: str) -> None:
    assert not list(lint.breaches(path, source))
