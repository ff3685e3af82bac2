"""Class lists against what is known of them, and the selection of classes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from dvis_cli.checkpoints.label_sets import (
    LABEL_SETS,
    SIZES,
    Facts,
    facts_of,
    label_set,
    label_sets_of,
    match_names,
)
from dvis_cli.checkpoints.published import all_published
from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.errors import UsageError
from dvis_cli.tasks.instance import choose_tubes
from dvis_cli.tasks.selection import select_classes

# List: classes, things, and some logits with their dataset ids.
KNOWN = {
    "coco_panoptic": (133, 80, {0: (1, "person"), 11: (13, "stop sign"), 79: (90, "toothbrush"), 80: (92, "banner"),
                                100: (149, "road"), 119: (187, "sky-other-merged"), 132: (200, "rug-merged")}),
    "coco": (80, 80, {2: (3, "car"), 56: (62, "chair"), 79: (90, "toothbrush")}),
    "ade20k": (150, 100, {0: (0, "wall"), 12: (12, "person"), 126: (126, "animal"), 149: (149, "flag")}),
    "cityscapes": (19, 8, {0: (7, "road"), 10: (23, "sky"), 11: (24, "person"), 18: (33, "bicycle")}),
    "cityscapes_things": (8, 8, {0: (24, "person"), 7: (33, "bicycle")}),
    "mapillary": (65, 37, {0: (1, "Bird"), 13: (14, "Road"), 19: (20, "Person"), 64: (65, "Ego Vehicle")}),
    "youtube_vis_2019": (40, 40, {0: (1, "person"), 20: (21, "motorbike"), 39: (40, "tennis_racket")}),
    "youtube_vis_2021": (40, 40, {0: (1, "airplane"), 25: (26, "person"), 39: (40, "zebra")}),
    "ovis": (25, 25, {0: (1, "Person"), 14: (15, "Parrot"), 24: (25, "Vehical")}),
    "vspw": (124, 58, {0: (2, "door"), 58: (0, "wall")}),  # VIPSeg's order
    "vipseg": (124, 58, {0: (2, "door"), 58: (0, "wall")}),
}  # fmt: skip


def test_all_lists_are_known() -> None:
    assert set(KNOWN) == set(LABEL_SETS)


@pytest.mark.parametrize("name", LABEL_SETS)
def test_list(name: str) -> None:
    categories = label_set(name)
    classes, things, some = KNOWN[name]
    assert len(categories) == classes and sum(category.isthing for category in categories) == things
    for index, (number, title) in some.items():
        assert (categories[index].id, categories[index].name) == (number, title)
    assert len({category.id for category in categories}) == len({c.name for c in categories}) == classes
    assert all(0 <= part <= 255 for category in categories for part in category.color)
    assert name in ("vipseg", "vspw") or [c.id for c in categories] == sorted(c.id for c in categories)
    assert match_names([category.name.upper().replace(" ", "_") for category in categories]) in (
        name,
        {"vipseg": "vspw", "vspw": "vipseg"}.get(name),  # the same names
    )


def test_vipseg_is_the_data_sets_own() -> None:
    assert label_set("vipseg") == vipseg_categories()


def test_what_many_classes_mean() -> None:
    assert {n: label_sets_of(n, "model.pth")[0][:1] for n in (133, 80, 150, 19, 65, 25, 124, 3)} == {
        133: ["coco_panoptic"], 80: ["coco"], 150: ["ade20k"], 19: ["cityscapes"], 65: ["mapillary"], 25: ["ovis"],
        124: ["vipseg"], 3: [],
    }  # fmt: skip
    assert label_sets_of(40, "yt_2021.pth") == (["youtube_vis_2021", "youtube_vis_2019"], True)
    assert not label_sets_of(40, "model.pth")[1]
    assert match_names(["a"] * 133) is None


def test_facts() -> None:
    facts = facts_of("cityscapes", semantic=True, short_side=512)
    assert facts.categories is not None and not any(category.isthing for category in facts.categories)
    assert facts.input is not None and (facts.input.short_side, facts.input.long_side) == (512, 2048)
    assert Facts(name="a").over(facts) == Facts(facts.categories, facts.input, "a")
    with pytest.raises(UsageError, match="class list 'coca' is not known; known: coco_panoptic"):
        label_set("coca")


def test_registry_of_the_package() -> None:
    """The entries that were named, each with a list of its own; only one cannot be pulled."""
    entries = all_published()
    assert len(entries) == 64
    kinds = Counter("hub" if entry.hub else "url" for entry in entries.values())
    assert kinds == {"hub": 56, "url": 8}
    for entry in entries.values():
        assert (
            entry.classes in SIZES and entry.licence and entry.source and entry.source.startswith("https://")
        )
        assert entry.url is None or (entry.md5 and f"_{entry.md5}.pkl" in entry.url)
        assert entry.facts().categories
    assert [name for name, entry in entries.items() if entry.unsupported] == ["dvis-daq"]
    assert "CC BY-NC 4.0" in entries["dvis-plus-online-r50-vipseg"].licence
    assert entries["mask2former-d2-swin-large-in21k-coco-panoptic"].score == "PQ 57.8 (COCO val)"


# --- --classes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted, names",
    [
        (["person", "CAR"], {"person", "car"}),
        (["traffic_light", "hot-dog"], {"traffic light", "hot dog"}),
        (["1", "149"], {"person", "road"}),
        (["road", "person", "1"], {"road", "person"}),
    ],
)
def test_selection(wanted: list[str], names: set[str]) -> None:
    categories = label_set("coco_panoptic")
    assert {categories[i].name for i in select_classes(categories, wanted)} == names


def test_selection_of_kinds() -> None:
    categories = label_set("coco_panoptic")
    assert select_classes(categories, ["things"]) == frozenset(range(80))
    assert select_classes(categories, ["stuff", "person"]) == {0, *range(80, 133)}
    with pytest.raises(UsageError, match="has none of them"):
        select_classes(label_set("coco"), ["stuff"])


def test_unknown_classes_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'perzon' is none of the model's 133; the nearest: person"):
        select_classes(label_set("coco_panoptic"), ["car", "perzon"])
    with pytest.raises(UsageError, match="'12'"):  # COCO has no class 12
        select_classes(label_set("coco_panoptic"), ["12"])


def test_instances_are_the_likeliest_of_the_classes_shown() -> None:
    probs = torch.rand(9, 6, generator=torch.Generator().manual_seed(0))
    chosen = choose_tubes(probs, 5, 0.0, {1, 3})
    expected = probs[:, [1, 3]].flatten().topk(5).values
    assert set(chosen.classes.tolist()) <= {1, 3} and torch.equal(chosen.scores, expected)
    assert len(choose_tubes(probs, 50, 0.0, {2}).queries) == 9
