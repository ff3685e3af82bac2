"""What one overlay picture looks like, as far as numbers can tell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from writers_media import PERSON, ROAD, frame

from dvis_cli.structures import Category, Segment
from dvis_cli.writers.label_text import label_patch, text_height
from dvis_cli.writers.labels import draw_labels, label_of
from dvis_cli.writers.overlay import OVERLAY_STYLES, draw_overlay
from dvis_cli.writers.palette import segment_color, thing_color


def person(id: int) -> Segment:
    return Segment(id, PERSON, 0.9)


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    ys, xs = np.ogrid[:height, :width]
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


# --- colours


def test_colours_depend_on_id_and_category_only() -> None:
    assert segment_color(Segment(3, PERSON, 0.1)) == segment_color(Segment(3, PERSON, 0.9)) == thing_color(3)
    assert segment_color(Segment(3, ROAD, 0.1)) == segment_color(Segment(8, ROAD, 0.9)) == (124, 127, 136)
    gravel = Category(0, "gravel", False, (90, 140, 30))
    assert segment_color(Segment(1, gravel, 1.0)) == gravel.color
    assert max(segment_color(Segment(1, Category(0, "tar", False, (0, 0, 0)), 1.0))) >= 70


def test_thing_colours_are_saturated_and_neighbours_differ() -> None:
    colors = np.array([thing_color(id) for id in range(1, 200)], int)
    assert (colors.max(1) - colors.min(1) >= 50).all()
    for step in range(1, 9):
        assert np.abs(colors[step:] - colors[:-step]).sum(1).min() > 40
    assert len({thing_color(id) for id in range(1, 97)}) == 96


# --- pictures


@given(
    data=st.data(),
    shape=hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    style=st.sampled_from(OVERLAY_STYLES),
)
@settings(max_examples=60, deadline=None)
def test_any_size_and_any_ids_give_a_picture(data: st.DataObject, shape: tuple[int, int], style: str) -> None:
    known = data.draw(st.lists(st.sampled_from([1, 2, 5, 300, 70000]), unique=True))
    ids = data.draw(hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 9, 300, 70000])))
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = rgb.copy()
    picture = draw_overlay(rgb, ids, {id: person(id) for id in known}, style)
    assert picture.dtype == np.uint8
    assert picture.shape == (shape[0], shape[1] * (2 if style == "side-by-side" else 1), 3)
    assert np.array_equal(rgb, before)
    if style == "side-by-side":
        assert np.array_equal(picture[:, : shape[1]], rgb)
        assert np.array_equal(
            picture[:, shape[1] :], draw_overlay(rgb, ids, {id: person(id) for id in known}, "blend")
        )


def test_void_stays_as_it_is_and_objects_are_tinted() -> None:
    rgb = np.full((200, 200, 3), 128, np.uint8)
    ids = np.zeros((200, 200), np.int32)
    ids[50:150, 50:150] = 4
    picture = draw_overlay(rgb, ids, {4: person(4)})
    assert (picture[:40] == 128).all()
    expected = 128 * 0.48 + np.array(thing_color(4)) * 0.52
    assert np.abs(picture[60, 60] - expected).max() <= 2
    flat = draw_overlay(rgb, ids, {4: person(4)}, "masks")
    assert tuple(flat[60, 60]) == thing_color(4) and not flat[:40].any()


def test_borders_are_crisp_and_thin() -> None:
    rgb = np.zeros((360, 640, 3), np.uint8)
    ids = np.ones((360, 640), np.int32)
    ids[:, 320:] = 2
    picture = draw_overlay(rgb, ids, {1: person(1), 2: person(2)})
    row = picture[5].astype(int)
    bright = np.flatnonzero(row.min(1) > 120)
    assert 1 <= len(bright) <= 2 and abs(bright - 320).max() <= 1


def test_more_segments_than_a_byte_counts() -> None:
    ids = np.arange(1, 401, dtype=np.int32).reshape(20, 20).repeat(4, 0).repeat(4, 1)
    segments = {id: person(id) for id in range(1, 401)}
    flat = draw_overlay(np.zeros((80, 80, 3), np.uint8), ids, segments, "masks")
    middles = flat[2::4, 2::4].reshape(-1, 3).astype(int)
    assert np.abs(middles - [thing_color(id) for id in range(1, 401)]).max() <= 1


def test_wrong_arguments_are_named() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="blend, masks, side-by-side"):
        draw_overlay(rgb, np.zeros((4, 6), np.int32), {}, "fancy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="6x4"):
        draw_overlay(rgb, np.zeros((6, 4), np.int32), {})


def test_colours_stay_with_an_object_over_frames() -> None:
    seen = set()
    for index in range(6):
        one = frame(index, index / 10, 160, 120)
        ys, xs = np.nonzero(one.ids == 2)
        flat = draw_overlay(one.rgb, one.ids, one.segments, "masks")
        inside = flat[ys.max() - 3, int(xs.mean())]
        seen.add(tuple(int(channel) for channel in inside))
    assert seen == {thing_color(2)}


# --- labels


def test_things_carry_their_id_and_stuff_its_name() -> None:
    assert label_of(Segment(3, PERSON, 0.9)) == "person 3"
    assert (
        label_of(Segment(9, Category(7, "handrail_or_fence", False, (1, 2, 3)), 0.9)) == "handrail or fence"
    )


@pytest.mark.parametrize("lines", [120, 180, 360, 720, 2160])
def test_labels_are_readable_inside_the_frame_and_apart(lines: int) -> None:
    height, width = lines, lines * 16 // 9
    rng = np.random.default_rng(lines)
    index = np.ones((height, width), np.uint8)
    for place in range(2, 14):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        index[disc(height, width, x, y, lines / 8)] = place
    present = [Segment(1, ROAD, 0.9), *(person(id) for id in range(2, 14))]
    rgb = np.zeros((height, width, 3), np.uint8)
    boxes = draw_labels(rgb, index, present)
    assert len(boxes) >= 6
    for _, x, y, box_width, box_height in boxes:
        assert 0 <= x <= width - box_width and 0 <= y <= height - box_height
        assert box_height >= max(10, lines // 45)
    for (_, ax, ay, aw, ah), (_, bx, by, bw, bh) in itertools.combinations(boxes, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


def test_a_label_sits_in_a_large_region_and_on_top_of_a_small_one() -> None:
    index = np.ones((360, 640), np.uint8)
    index[disc(360, 640, 500, 180, 90)] = 2  # a ring: its centre is not in it
    index[disc(360, 640, 500, 180, 45)] = 1
    index[200:260, 100:112] = 3
    present = [Segment(1, ROAD, 0.9), person(2), person(3)]
    boxes = {id: box for id, *box in draw_labels(np.zeros((360, 640, 3), np.uint8), index, present)}
    for id in (1, 2):
        x, y, width, height = boxes[id]
        assert index[y + height // 2, x + width // 2] == id
    x, y, width, height = boxes[3]
    assert 190 <= y + height <= 200 and x <= 106 <= x + width


def test_tiny_segments_have_no_label() -> None:
    index = np.zeros((360, 640), np.uint8)
    index[100:104, 100:104] = 1
    assert draw_labels(np.zeros((360, 640, 3), np.uint8), index, [person(1)]) == []


def test_labels_near_the_limit_do_not_flicker() -> None:
    anchors: dict[int, tuple[int, int]] = {}
    drawn = []
    for side in (8, 30, 16, 15, 16, 15, 4, 15):
        index = np.zeros((360, 640), np.uint8)
        index[100 : 100 + side, 100 : 100 + side] = 1
        drawn.append(bool(draw_labels(np.zeros((360, 640, 3), np.uint8), index, [person(1)], anchors)))
    assert drawn == [False, True, True, True, True, True, False, False]


def test_labels_move_calmly_and_follow() -> None:
    rgb = np.zeros((360, 640, 3), np.uint8)
    anchors: dict[int, tuple[int, int]] = {}
    places = []
    for step in range(40):
        index = np.zeros((360, 640), np.uint8)
        # Two equal lobes, of which now one and now the other is a little larger.
        wobble = 2 * (step % 2)
        index[disc(360, 640, 200 + 4 * step, 180, 60 + wobble)] = 1
        index[disc(360, 640, 330 + 4 * step, 180, 62 - wobble)] = 1
        draw_labels(rgb, index, [person(1)], anchors)
        x, y = anchors[1]
        assert index[y, x] == 1
        places.append(x)
    assert max(abs(b - a) for a, b in itertools.pairwise(places)) <= 12
    assert places[-1] - places[0] >= 80
    draw_labels(rgb, np.zeros((360, 640), np.uint8), [person(1)], anchors)
    assert anchors == {}


@given(st.text(max_size=30), st.integers(10, 60))
@settings(max_examples=40, deadline=None)
def test_any_name_can_be_drawn(text: str, size: int) -> None:
    patch = label_patch(text.replace("\n", " "), (200, 30, 40), size)
    width, height = patch.size
    assert patch.paint.shape == (height, width, 3) and 0 <= patch.opacity.min() <= patch.opacity.max() <= 1
    assert patch.paint.min() >= 0 and patch.paint.max() <= 255.01


def test_text_grows_with_the_frame() -> None:
    sizes = [text_height(lines * 16 // 9, lines) for lines in (1, 180, 360, 720, 1080, 2160)]
    assert sizes == sorted(sizes) and sizes[0] >= 10 and 14 <= sizes[3] <= 20 and 40 <= sizes[-1] <= 60
