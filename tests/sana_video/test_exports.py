"""The public names are the listed ones, and each is there."""

import sana_video


def test_public_names() -> None:
    assert sana_video.__all__ == sorted(sana_video.__all__) == ["SanaVideo", "SanaVideoConfig", "SanaVideoPipeline"]
    assert dir(sana_video) == sana_video.__all__
    for name in sana_video.__all__:
        assert getattr(sana_video, name).__name__ == name


def test_other_names_are_no_attributes() -> None:
    assert not hasattr(sana_video, "Sana")
