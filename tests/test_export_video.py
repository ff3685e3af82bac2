"""Masks, mattes and cut-outs, read back with PyAV."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from small_results import FPS, frames, segments, write_film, write_result

from dvis_cli.errors import OutputError, UsageError, VideoError
from dvis_cli.export.edges import SURE, alpha_of
from dvis_cli.export.formats import parse_formats
from dvis_cli.export.result import open_result
from dvis_cli.export.run import ExportOptions, export_result
from dvis_cli.export.video import blurred
from dvis_cli.structures import PanopticFrame, Segment, SoftEdges
from dvis_cli.writers.soft_edges import read_soft, write_soft

FRAMES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(tmp_path_factory.mktemp("video"), FRAMES, 96, 128)


def export(folder: Path, out: Path, *formats: str, **options: object) -> list[Path]:
    return export_result(open_result(folder), ExportOptions(formats, **options), out)  # type: ignore[arg-type]


def persons() -> list[np.ndarray]:
    return [
        np.isin(frame.ids, (2, 3)) for frame in frames(FRAMES, 96, 128) if isinstance(frame, PanopticFrame)
    ]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def decoded(path: Path, codec: str | None = None) -> tuple[list[np.ndarray], list[float]]:
    """RGBA of every frame, and the times."""
    pictures, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = av.CodecContext.create(codec, "r") if codec else stream.codec_context
        for packet in container.demux(stream):
            for frame in decoder.decode(packet if packet.size else None):
                pictures.append(frame.to_ndarray(format="rgba"))
                times.append(float(frame.pts * stream.time_base))
    return pictures, times


def test_masks_as_pngs_are_exact(folder: Path, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "masks:png", only=("person",))
    for n, want in enumerate(persons()):
        got = cv2.imread(str(made / f"{n:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert got.ndim == 2 and set(np.unique(got)) <= {0, 255} and np.array_equal(got > 0, want)


def test_masks_as_a_video(folder: Path, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "masks", only=("person",))
    pictures, times = decoded(made)
    assert times == pytest.approx([n / FPS for n in range(FRAMES)], abs=1e-3)
    for picture, want in zip(pictures, persons(), strict=True):
        assert iou(picture[..., 0] > 127, want) > 0.99


@pytest.mark.parametrize(
    ("variant", "name", "pixels", "codec"),
    [("mov", "prores", "yuva444p", None), ("webm", "vp9", "yuva420p", "libvpx-vp9")],
)
def test_mattes_have_alpha(
    folder: Path, tmp_path: Path, variant: str, name: str, pixels: str, codec: str | None
) -> None:
    (made,) = export(folder, tmp_path, f"matte:{variant}", only=("person",))
    with av.open(str(made)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.codec.canonical_name == name
        assert variant == "webm" or stream.codec_context.pix_fmt.startswith(pixels)
        assert variant == "mov" or stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1"
    pictures, times = decoded(made, codec)
    assert times == pytest.approx([n / FPS for n in range(FRAMES)], abs=2e-3)
    for frame, picture, want in zip(frames(FRAMES, 96, 128), pictures, persons(), strict=True):
        alpha, inside = picture[..., 3], cv2.erode(want.astype(np.uint8), np.ones((5, 5))) > 0
        assert iou(alpha > 127, want) > 0.97
        assert ((alpha > 16) & (alpha < 240)).any(), "edges are soft"
        assert alpha[inside].min() > 240
        error = np.abs(picture[inside][:, :3].astype(int) - frame.rgb[inside].astype(int))
        assert np.median(error) <= 6  # the film was encoded, too


def test_mattes_as_pngs_hold_nothing_of_the_rest(folder: Path, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "matte:png", only=("3",))
    for n, frame in enumerate(frames(FRAMES, 96, 128)):
        picture = cv2.imread(str(made / f"{n:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert picture.shape == (96, 128, 4) and not picture[picture[..., 3] == 0].any()
        assert (picture[..., 3] > 127).any() == (3 in frame.segments)


def test_cutouts(folder: Path, tmp_path: Path) -> None:
    white, blur, clear = (
        export(folder, tmp_path / name.replace(":", "-"), name, only=("person",))[0]
        for name in ("cutout:white", "cutout", "cutout:transparent")
    )
    assert (blur.name, clear.name) == ("cutout.mp4", "cutout.webm")
    for n, want in enumerate(persons()):
        near = cv2.dilate(want.astype(np.uint8), np.ones((9, 9))) > 0
        assert decoded(white)[0][n][~near][:, :3].min() > 225
        assert (decoded(clear, "libvpx-vp9")[0][n][~near][:, 3] < 16).all()
        seen = decoded(blur)[0][n][..., :3].astype(int)
        sharp = list(frames(FRAMES, 96, 128))[n].rgb.astype(int)
        inside = cv2.erode(want.astype(np.uint8), np.ones((5, 5))) > 0
        assert np.median(np.abs(seen[inside] - sharp[inside])) <= 8


def test_alpha_follows_the_probabilities() -> None:
    """128 or more exactly where the map is, and a ramp as wide as the network's."""
    ramp = np.clip((70 - np.arange(128)) / 12 + 0.5, 0, 1)  # likelihood of id 2: 0.5 at column 70
    share = np.tile(np.rint(ramp * 255), (96, 1)).astype(np.uint8)
    ids = np.where(share >= 128, 2, 1).astype(np.int32)
    first = ids.copy()
    soft = SoftEdges(
        np.stack([first, 3 - first]),
        np.stack([np.maximum(share, 255 - share), np.minimum(share, 255 - share)]),
    )
    known = segments()
    frame = PanopticFrame(
        0, 0.0, np.zeros((96, 128, 3), np.uint8), ids, {1: known[1], 2: known[2]}, None, soft
    )

    def chosen(one: Segment) -> bool:
        return one.id == 2

    alpha = alpha_of(frame, chosen)
    assert np.array_equal(alpha >= 128, ids == 2)
    scaled = np.clip((share[0] / 255 - SURE[0]) / (SURE[1] - SURE[0]), 0, 1) * 255
    near = slice(69, 72)  # of the edge
    assert alpha[0, near] == pytest.approx(scaled[near], abs=1) and (np.diff(alpha[0].astype(int)) <= 0).all()
    hard = alpha_of(replace(frame, soft=None), chosen)
    assert np.array_equal(hard >= 128, ids == 2) and hard[0, near] != pytest.approx(scaled[near], abs=5)
    assert alpha[0, 10] == 255 and alpha[0, 120] == 0


def test_what_is_in_front_does_not_run_into_the_blur() -> None:
    random = np.random.default_rng(0)
    rgb = random.integers(80, 120, (96, 128, 3)).astype(np.uint8)
    alpha = np.zeros((96, 128, 1), np.float32)
    alpha[30:60, 40:80] = 1
    rgb[30:60, 40:80] = 255
    behind = blurred(rgb, alpha)
    assert behind.shape == rgb.shape and behind[alpha[..., 0] == 0].max() < 130
    assert behind[:20].std() < 0.3 * rgb[:20].std()


def test_a_file_can_be_named(folder: Path, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path / "person.webm", "matte", only=("person",))
    assert made == tmp_path / "person.webm" and decoded(made, "libvpx-vp9")[0]
    with pytest.raises(UsageError, match=r"an \.mp4 holds no alpha"):
        export(folder, tmp_path / "person.mp4", "matte")
    with pytest.raises(UsageError, match=r"csv writes \.csv, not \.xlsx"):
        export(folder, tmp_path / "table.xlsx", "csv")


def test_a_file_for_each_object(folder: Path, tmp_path: Path) -> None:
    made = export(folder, tmp_path, "masks:png", "csv", per_object=True)
    names = [str(path.relative_to(tmp_path)) for path in made]
    assert names[:3] == ["masks/person-2", "masks/person-3", "masks/car-300"]
    assert names[3:] == [f"objects/{one}.csv" for one in ("road-1", "person-2", "person-3", "car-300")]
    assert "road" not in (tmp_path / "objects" / "car-300.csv").read_text()
    for n, frame in enumerate(frames(FRAMES, 96, 128)):
        got = cv2.imread(str(tmp_path / "masks" / "car-300" / f"{n:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert isinstance(frame, PanopticFrame) and np.array_equal(got > 0, frame.ids == 300)


def test_more_outputs_than_writers_take_more_passes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvis_cli.export.run.WRITERS_AT_ONCE", 2)
    counted: list[int] = []
    options = ExportOptions(("masks:png", "csv"), per_object=True)
    made = export_result(open_result(folder), options, tmp_path, counted.append)
    assert len(made) == 7 and sum(counted) == 4 * FRAMES


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (("matte:mp4",), r"an \.mp4 holds no alpha"),
        (("masks:webm",), "there is masks:mp4, masks:png"),
        (("cutout:pinkish",), "a colour such as white"),
        (("cocoo",), "did you mean coco"),
        (("cutout:white", "cutout:blur"), "two of them make cutout.mp4"),
        (("coco:big",), "coco:big not known"),
    ],
)
def test_wrong_formats_are_named(formats: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_formats(formats)


def test_wrong_choices_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no segment has this id; ids: 1, 2, 3, 300"):
        export(folder, tmp_path, "csv", only=("12",))
    with pytest.raises(UsageError, match="person"):
        export(folder, tmp_path, "csv", only=("persn",))
    assert not list(tmp_path.iterdir())


def test_the_film_must_be_the_results(folder: Path, tmp_path: Path) -> None:
    other = write_film(tmp_path / "other.mp4", FRAMES, 64, 64)
    with pytest.raises(VideoError, match="is 64x64, the result 128x96"):
        export(folder, tmp_path / "a", "matte:png", source=other)
    short = write_film(tmp_path / "short.mp4", 2, 96, 128)
    with pytest.raises(VideoError, match="has no frame 2"):
        export(folder, tmp_path / "a", "matte:png", source=short)
    moved = write_result(tmp_path / "moved", 2)
    (tmp_path / "moved" / "film.mp4").rename(tmp_path / "film.mp4")
    with pytest.raises(VideoError, match="name it with --source"):
        export(moved, tmp_path / "a", "cutout")
    assert export(moved, tmp_path / "a", "cutout", source=tmp_path / "film.mp4")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["cutout.mp4"]  # nothing half-written


def test_existing_files_are_kept(folder: Path, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "coco")
    with pytest.raises(OutputError, match="add --overwrite"):
        export(folder, tmp_path, "coco")
    export(folder, tmp_path, "coco", overwrite=True)
    (made / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        export(folder, tmp_path, "coco", overwrite=True)
    assert (made / "mine.txt").read_text() == "keep" and (made / "panoptic.json").exists()


def test_rivals_agree_with_the_winner_map() -> None:
    """The likeliest of the two is the map's winner wherever that is sure, and its probability says whether it is."""
    torch = pytest.importorskip("torch")
    from dvis_cli.layers.masks import FrameMasks, ViewMasks
    from dvis_cli.structures import Geometry
    from dvis_cli.tasks.chosen import Chosen
    from dvis_cli.tasks.panoptic import WinnerMaps

    generator = torch.Generator().manual_seed(3)
    features = torch.nn.functional.avg_pool2d(torch.randn(1, 8, 18, 22, generator=generator), 3, 1)[0] * 4
    masks = FrameMasks(
        [ViewMasks(torch.randn(4, 8, generator=generator), features, Geometry((60, 78), (60, 78), (64, 80)))]
    )
    scores = torch.rand(4, generator=generator) * 0.5 + 0.5
    kept = Chosen(torch.arange(4), torch.zeros(4, dtype=torch.long), scores)
    maps, plain = WinnerMaps(kept), WinnerMaps(kept)
    winners, *found = maps.soft_frame(masks).astype(int)
    found = np.stack(found)
    assert np.array_equal(winners, plain.frame(masks))
    for name in ("won", "own", "assigned"):
        assert np.array_equal(getattr(maps.counts, name), getattr(plain.counts, name))
    assert found.shape == (4, 60, 78)
    sure = winners > 0
    assert sure.any() and not sure.all()
    assert (found[0][sure] == winners[sure]).mean() > 0.999 and (found[2][sure] >= 127).all()
    assert (found[2][~sure] <= 128).all() and (found[0] != found[1]).all()
    every = masks.probabilities(slice(None)).numpy()
    rows, columns = np.indices(winners.shape)
    for who, share in ((0, 2), (1, 3)):
        assert np.abs(every[found[who] - 1, rows, columns] * 255 - found[share]).max() <= 0.51
    ranked = np.sort(every * scores.numpy()[:, None, None], axis=0)
    second = every[found[1] - 1, rows, columns] * scores.numpy()[found[1] - 1]
    assert np.allclose(ranked[-2], second, atol=1e-6)
    masks.cells = lambda: None  # type: ignore[method-assign, return-value]
    pixels, alone = WinnerMaps(kept), WinnerMaps(kept)
    assert np.array_equal(pixels.soft_frame(masks)[0], alone.frame(masks))
    assert np.array_equal(pixels.counts.own, alone.counts.own)


def test_soft_edges_wait_beside_the_maps(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    soft = SoftEdges(
        random.integers(0, 70000, (2, 12, 20)).astype(np.int32),
        random.integers(0, 256, (2, 12, 20)).astype(np.uint8),
    )
    write_soft(tmp_path / ".soft", 7, soft)
    read = read_soft(tmp_path / ".soft", 7, (12, 20))
    assert (
        read is not None and np.array_equal(read.ids, soft.ids) and np.array_equal(read.shares, soft.shares)
    )
    assert (
        read_soft(tmp_path / ".soft", 7, (12, 21)) is None
        and read_soft(tmp_path / ".soft", 8, (12, 20)) is None
    )
    (tmp_path / ".soft" / "000007").write_bytes(b"none")
    assert read_soft(tmp_path / ".soft", 7, (12, 20)) is None
