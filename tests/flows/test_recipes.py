"""Every recipe is valid as it stands, and its graph reads only what some stage writes or someone fetches."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from flows import params

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_says_what_it_is_for(recipe: Path, tmp_path: Path) -> None:
    loaded = params.load(recipe)
    again = tmp_path / "params.yaml"
    again.write_text(params.render(loaded))
    assert params.load(again) == loaded
    assert recipe.read_text().startswith("# ")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_makes_a_graph(recipe: Path, tmp_path: Path) -> None:
    from dvc.repo import Repo

    for name in ("dvc.yaml", "versions.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(recipe, tmp_path / "params.yaml")
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with Repo(str(tmp_path)) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
        made = {str(out.def_path) for stage in stages.values() for out in stage.outs}
    loaded = params.load(recipe)
    assert {f"encode@{view}" for view in loaded.data.views} | {f"train@{s}" for s in loaded.train.stages} <= set(stages)
    for name in loaded.train.stages:
        read = {str(dep.def_path) for dep in stages[f"train@{name}"].deps} - made - {"params.yaml", "versions.yaml"}
        assert all(path.startswith(("weights/", "recipes/scratch")) for path in read), read


PUBLISHED_480P = ROOT / "recipes" / "2b-480p.yaml"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.caption.captioner=template", "view sft holds the SFT set, which is empty"),
        ("data.curate.ranges.default.vmaf_motion=[0.2,50.0]", "clips between would have no caption"),
        ("model.preset=2b-720p", "wan2.1 latents have 16 channels, 2b-720p takes 128"),
        ("data.views.low.height=200", "200x336 is not a multiple of 16, the stride of wan2.1 times the patch"),
        ("data.views.high.after=train-autoencoder", "after train-autoencoder is a verdict that no gate writes"),
        ("data.views.low.autoencoder=weights/wan2.2-vae", "is not that of view low, weights/wan2.2-vae"),
        ("train.stages.t2i.autoencoder=weights/wan2.2-vae", "is not that of view high, weights/wan2.1-vae"),
    ],
)
def test_what_does_not_belong_together_in_a_recipe_is_one_line(override: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        params.load(PUBLISHED_480P, [override])
    assert said in str(caught.value) and "\n" not in str(caught.value)
