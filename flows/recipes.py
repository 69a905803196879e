"""Recipes: the schema of params.yaml in other sizes, under recipes/. Using one keeps the old file."""

from __future__ import annotations

from pathlib import Path

from flows import params as parameters
from infra.storage import atomic_text

BACKUP = "params.yaml.before"


def names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "recipes").glob("*.yaml"))


def text(root: Path, name: str) -> str:
    """The recipe as it stands in its file. ValueError with the known names for one that is not there."""
    path = root / "recipes" / f"{name}.yaml"
    if name not in names(root):
        raise ValueError(f"no recipe called {name!r}; there are {', '.join(names(root)) or 'none'} in {path.parent}")
    return path.read_text()


def summary(root: Path, name: str) -> str:
    """The first comment line of a recipe: what it is for."""
    first = text(root, name).partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def use(root: Path, name: str) -> Path:
    """Put the recipe in the place of params.yaml and return where the old one is kept.

    ValueError when the recipe is not valid: then nothing is touched.
    """
    chosen = text(root, name)
    parameters.load(root / "recipes" / f"{name}.yaml")
    target, backup = root / "params.yaml", root / BACKUP
    if target.is_file():
        atomic_text(backup, target.read_text())
    atomic_text(target, chosen)
    return backup
