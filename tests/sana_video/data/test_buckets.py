"""Buckets: the published tables, the rule behind them, the nearest aspect."""

import pytest

from sana_video.data.buckets import BUCKETS_480, BUCKETS_720, around, cover, named, nearest, parse_aspect, rule


def test_the_rule_gives_the_published_480_table() -> None:
    assert rule(480 * 832, 16) == BUCKETS_480


def test_the_rule_gives_the_published_720_table_but_for_its_two_16_9_sizes() -> None:
    # the published table has the broadcast size 704x1280 where the ratio 0.57 would give 736x1280
    different = {ours: theirs for ours, theirs in zip(rule(960 * 960, 32), BUCKETS_720, strict=True) if ours != theirs}
    assert different == {(736, 1280): (704, 1280), (1280, 736): (1280, 704)}


@pytest.mark.parametrize(
    ("height", "width", "bucket"),
    [
        (720, 1280, (480, 832)),
        (1280, 720, (832, 480)),
        (1, 1, (624, 624)),
        (480, 640, (560, 720)),
        (100, 1000, (448, 896)),
    ],
)
def test_nearest_aspect(height: int, width: int, bucket: tuple[int, int]) -> None:
    assert nearest(height, width, BUCKETS_480) == bucket


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1280, 720), (333, 777), (96, 160)])
def test_cover_covers_and_is_tight(height: int, width: int) -> None:
    size = nearest(height, width, BUCKETS_480)
    covered = cover(height, width, size)
    assert covered[0] >= size[0] and covered[1] >= size[1]
    assert covered[0] == size[0] or covered[1] == size[1]


def test_no_aspect_and_no_area_are_refused() -> None:
    with pytest.raises(ValueError, match="0x16"):
        nearest(0, 16, BUCKETS_480)
    with pytest.raises(ValueError, match="100 pixels"):
        rule(100, 32)


def test_sizes_by_name_and_around_a_resolution() -> None:
    assert named("480p", 16) == around((832, 480), 16) == BUCKETS_480
    assert named("720p", 32) == around((704, 1280), 32) == BUCKETS_720
    wide = named("480p", 32)  # the published table is in multiples of 16
    assert len(wide) == 11 and all(side % 32 == 0 for size in wide for side in size)
    assert around((480, 832), 32) == wide and (480, 832) in wide
    small = around((96, 160), 16)
    assert small[0] == (96, 160) and all(0.7 < h * w / (96 * 160) < 1.4 for h, w in small)
    with pytest.raises(ValueError, match="'4k': choose one of 480p, 720p"):
        named("4k", 16)


@pytest.mark.parametrize("text", ["16x9", "16:", ":9", "0:9", "a:b", "", "-16:9", "1.5:1"])
def test_an_aspect_is_width_to_height(text: str) -> None:
    assert parse_aspect("16:9") == (9, 16)
    with pytest.raises(ValueError, match="expected WIDTH:HEIGHT"):
        parse_aspect(text)
