"""What the user named -> videos and their places in the output."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_cli.batch.options import BatchOptions, in_shard, parse_shard
from dvis_cli.batch.output import Output
from dvis_cli.batch.places import place_videos, settled_places
from dvis_cli.batch.sources import Video, list_videos, means_batch
from dvis_cli.errors import UsageError, VideoError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def places(*sources: object, out: object = "", options: BatchOptions | None = None) -> dict[str, str]:
    """Key -> source."""
    found = list_videos([str(s) for s in sources], str(out), options).found
    return {item.key: item.source for item in place_videos(found, {})}


def test_folders_are_mirrored(tmp_path: Path) -> None:
    tree(tmp_path, "clip.mp4", "a/clip.MKV", "a/b c/ü -x.webm", "b/-clip.mov", "b/notes.txt", "b/.hidden.mp4")
    tree(tmp_path, ".git/x.mp4", "imgs/0.png", "imgs/1.png", "top.jpg")
    assert list(places(tmp_path)) == ["clip", "a/clip", "a/b c/ü -x", "b/-clip", "imgs"]
    assert places(tmp_path)["imgs"] == str(tmp_path / "imgs")


def test_names_that_meet_are_kept_apart(tmp_path: Path) -> None:
    tree(tmp_path, "x.mp4", "x.mov", "y.mp4", "y/1.mp4", "z.mp4")
    assert list(places(tmp_path)) == ["x.mov", "x.mp4", "y.mp4", "z", "y/1"]


def test_a_place_once_given_stays(tmp_path: Path) -> None:
    """As the results in the output tell."""
    out, v = tmp_path / "out", tree(tmp_path / "v", "x.mp4", "y.mp4", "w.mov")
    for name, key in (
        ("x.mp4", "x"),
        ("y.mp4", "y"),
        ("w.mov", "w.mov"),
    ):  # beside w.mov, there once was a w.mp4
        tree(out, f"{key}/batch.json")
        (out / key / "batch.json").write_text(json.dumps({"source": str(v / name)}))
    tree(v, "x.mov", "y/1.mp4")
    found = list_videos([v], out).found
    items = place_videos(found, settled_places(found, Output(out), {}))
    assert {i.key: Path(i.source).name for i in items} == {
        "x": "x.mp4", "x.mov": "x.mov", "y": "y.mp4", "y~/1": "1.mp4", "w.mov": "w.mov"
    }  # fmt: skip


def test_a_result_never_takes_the_place_of_our_own_files(tmp_path: Path) -> None:
    tree(tmp_path, "failures.jsonl.mp4")
    assert list(places(tmp_path)) == ["failures.jsonl.mp4"]


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a/clip.mp4", "b/clip.mp4")
    with pytest.raises(UsageError, match="both be written"):
        places(tmp_path / "a/clip.mp4", tmp_path / "b/clip.mp4")
    assert list(places(tmp_path / "a", tmp_path / "b")) == ["a/clip", "b/clip"]


def test_a_video_named_twice_is_done_once(tmp_path: Path) -> None:
    tree(tmp_path, "a/clip.mp4", "a/x.mp4")
    (tmp_path / "list.txt").write_text("a\na/clip.mp4\n")
    sources = [tmp_path / "a", tmp_path / "a/../a/clip.mp4", f"{tmp_path}/a/*.mp4"]
    assert list(places(*sources)) == ["a/clip", "a/x"] and list(places(tmp_path / "list.txt")) == [
        "a/clip",
        "a/x",
    ]
    assert list_videos(sources, "").notes == [f"{sources[1]} and 2 more are named twice; done once"]


def test_links_in_circles_end(tmp_path: Path) -> None:
    tree(tmp_path, "a/b/clip.mp4", "c/d.mp4")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "aaa").symlink_to(tmp_path / "c")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    (tmp_path / "linked.mp4").symlink_to("c/d.mp4")
    assert list(places(tmp_path)) == ["gone", "linked", "round", "a/b/clip", "c/d"]


def test_links_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    tree(tmp_path, "far/clip.mp4")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "far")
    assert list(places(tmp_path / "in")) == ["link/clip"]


def test_results_are_never_sources(tmp_path: Path) -> None:
    tree(tmp_path, "clip.mp4", "out/clip/batch.json", "out/clip/overlay.mp4", "new/half/overlay.mp4")
    tree(tmp_path, "busy/.dvis/1.0", "busy/half/overlay.mp4")
    tree(tmp_path, "earlier/clip/overlay.mp4", "earlier/clip/segments.json", "earlier/clip/panoptic/0.png")
    assert list(places(tmp_path, out=tmp_path / "new")) == ["clip"]
    found = places(f"{tmp_path}/**/*.mp4", out=tmp_path / "new")
    assert list(found) == ["clip", "busy/half/overlay"]


def test_filters(tmp_path: Path) -> None:
    tree(tmp_path, "a.mp4", "b.mkv", "day1/c.mp4", "day2/d.mp4", "raw.bin", "imgs/1.png")
    assert list(places(tmp_path, options=BatchOptions(include=("*.mp4",)))) == ["a", "day1/c", "day2/d"]
    assert list(places(tmp_path, options=BatchOptions(include=("*.bin", "imgs")))) == ["raw", "imgs"]
    assert list(places(tmp_path, options=BatchOptions(exclude=("day*", "*.mkv")))) == ["a", "imgs"]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "v/a.mp4", "v/x/b.mp4", "v/x/c.txt", "v/[1].mp4", "w/d.mp4")
    assert list(places(f"{tmp_path}/v/**/*.mp4")) == ["[1]", "a", "x/b"]
    assert list(places(f"{tmp_path}/?")) == ["v/[1]", "v/a", "v/x/b", "w/d"]
    monkeypatch.chdir(tmp_path)
    assert places("v/[1].mp4") == {"[1]": "v/[1].mp4"}  # an existing file is not a pattern
    with pytest.raises(UsageError, match="no file matches"):
        places("v/*.avi")
    with pytest.raises(VideoError, match="no such file"):
        places("v/no.avi")


def test_lists(tmp_path: Path) -> None:
    tree(tmp_path, "l/a.mp4", "l/s/b.mp4", "far/c.mp4", "l/dir/d.mp4")
    (tmp_path / "l" / "list.txt").write_text(
        f"# remark\n\na.mp4\ns/b.mp4\na.mp4\n ../far/c.mp4 \nmissing.mp4\ndir\n{tmp_path}/l/s/../s/e.mp4\n"
    )
    outside = str(tmp_path / "far")[1:]
    listing = list_videos([tmp_path / "l" / "list.txt"], "")
    assert [f.short_key for f in listing.found] == ["a", "s/b", f"{outside}/c", "missing", "dir/d", "s/e"]
    assert any("twice" in note for note in listing.notes)


def test_addresses(tmp_path: Path) -> None:
    tree(tmp_path, "v/a.mp4", "v/x/b.mp4", "v/x/segments.json", "v/c.txt", "v/y/c.mp4")
    base = f"local://{tmp_path}/v"
    assert list(places(base)) == ["a", "y/c"]
    assert list(places(f"{base}/*.mp4")) == ["a"]
    assert list(places(f"{base}/a.mp4")) == ["a"] == list(places(f"file://{tmp_path}/v/a.mp4"))
    assert list(places(f"{base}/none.mp4")) == ["none"]
    with pytest.raises(UsageError, match="fsspec"):
        places("nonsense://x/y.mp4")


def test_images_beside_videos_are_mentioned(tmp_path: Path) -> None:
    tree(tmp_path, "a/clip.mp4", "a/poster.jpg")
    assert "1 images beside videos" in list_videos([tmp_path], "").notes[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folders_are_reported(tmp_path: Path) -> None:
    tree(tmp_path, "a/clip.mp4", "b/clip.mp4")
    (tmp_path / "a").chmod(0)
    listing = list_videos([tmp_path], "")
    (tmp_path / "a").chmod(0o755)
    assert len(listing.found) == 1 and "cannot be searched" in listing.problems[0]


def test_what_means_a_batch(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "one.mp4",
        "list.txt",
        "imgs/1.png",
        "vids/sub/a.mp4",
        "both/1.png",
        "both/a.mp4",
        "void/x.doc",
    )
    tree(tmp_path, "imgs/sub/a.mp4")
    (tmp_path / "video.txt").write_bytes(b"\0\0\0\x18ftyp")
    one = {name: means_batch([tmp_path / name]) for name in
           ("one.mp4", "list.txt", "imgs", "vids", "both", "void", "video.txt", "none.mp4", "*.mp4")}  # fmt: skip
    assert one == {
        "one.mp4": False, "list.txt": True, "imgs": False, "vids": True, "both": True, "void": False,
        "video.txt": False, "none.mp4": False, "*.mp4": True,
    }  # fmt: skip
    assert means_batch([tmp_path / "one.mp4", tmp_path / "imgs"])
    assert means_batch(["s3://bucket/one.mp4"]) and not means_batch([f"file://{tmp_path}/one.mp4"])
    assert means_batch([tmp_path / "one.mp4"], "s3://bucket/out")


NAME = st.sampled_from(["a", "b", "a.mp4", "b.mov"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(NAME, max_size=2).map(tuple), NAME, st.sampled_from([".mp4", ".mov"])), unique=True
    )
)
def test_places_are_apart_and_do_not_depend_on_order(entries: list[tuple[tuple[str, ...], str, str]]) -> None:
    found = [
        Video("/".join(["/v", *folders, name + end]), "/".join(folders)) for folders, name, end in entries
    ]
    try:
        items = place_videos(found, {})
    except UsageError:
        return
    keys = [item.key for item in items]
    assert len(set(keys)) == len(keys)
    assert len(keys) == len(entries)
    assert not any(other.startswith(f"{key}/") for key in keys for other in keys)
    backwards = {item.source: item.key for item in place_videos(found[::-1], {})}
    assert backwards == {item.source: item.key for item in items}
    known = {item.source: item.key for item in items[: len(items) // 2]}
    try:
        again = place_videos(found, known)
    except UsageError:  # names that are made to meet, and could not be told apart beside what is settled
        return
    assert known.items() <= {item.source: item.key for item in again}.items()


@given(st.text(), st.integers(1, 20))
def test_every_video_is_in_one_part(key: str, parts: int) -> None:
    assert sum(in_shard(key, (part, parts)) for part in range(1, parts + 1)) == 1


def test_options_are_checked() -> None:
    assert parse_shard("3/16") == (3, 16)
    for text in ("0/4", "5/4", "1", "a/b", "1/"):
        with pytest.raises(UsageError, match="shard"):
            parse_shard(text)
    assert BatchOptions(fail_fast=True).max_failures == 1
    for wrong in ({"jobs": 0}, {"engine": "dask"}, {"shard": (0, 2)}, {"max_failures": 0}, {"stall": 0.0}):
        with pytest.raises(UsageError):
            BatchOptions(**wrong)
