"""VidEoMT against the reference implementation's recorded numbers, and what its memory promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from goldens import FOLDER, Golden, error, whole
from test_tasks_goldens import check_tubes, our_tubes, recorded_tubes

from dvis_cli.checkpoints.detectron2 import config_from_detectron2
from dvis_cli.config import VideoMTConfig, load_yaml
from dvis_cli.errors import UsageError
from dvis_cli.run.loading import load_model
from dvis_cli.run.settings import RunSettings
from dvis_cli.segmenter.videomt import VideoMT

TOLERANCE = 2e-6  # of the stage's largest value; the issue asks for 1e-5
ALLOWED_PIXELS = 5


@pytest.fixture(scope="module", params=["videomt", *whole("videomt")])
def videomt(request: pytest.FixtureRequest) -> Golden:
    return Golden.load(request.param)


def stages(network: VideoMT, frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every stage under the recorded names, (T, ...) but for the last three."""
    count, blocks = len(network.queries), network.encoder.blocks[-network.query_blocks :]
    memory, output = None, network(frames)
    ours = {"tokens_embedded": network.encoder.tokens(frames), "tokens_trunk": network.trunk(frames)}
    steps: dict[str, list[torch.Tensor]] = {}
    for tokens in ours["tokens_trunk"].split(1):
        x = torch.cat((network.queries[None] if memory is None else memory, tokens), 1)
        steps.setdefault("queries_in", []).append(x[:, :count])
        for i, block in enumerate(blocks):
            x = block(x)
            steps.setdefault(f"joint.{i}", []).append(x)
        joint, memory = network.with_queries(tokens, memory)
        assert torch.equal(joint, x)
        steps.setdefault("queries_out", []).append(x[:, :count])
        steps.setdefault("queries_next", []).append(memory)
    ours |= {name: torch.cat(parts) for name, parts in steps.items()}
    ours["joint_normed"] = network.norm(ours[f"joint.{len(blocks) - 1}"])
    ours["mask_embed"], ours["mask_features"] = network.mask_head(output.queries), output.mask_features
    ours["pred_masks"] = torch.einsum("tqc,tchw->qthw", ours["mask_embed"], output.mask_features)[None]
    ours["pred_logits"] = output.class_logits[None]
    ours["logits_mean"] = output.class_logits.mean(0)[None]
    return ours


def test_every_recorded_stage(videomt: Golden) -> None:
    with torch.inference_mode():
        ours = stages(videomt.model.segmenter, videomt.tensors())
    some = videomt.stages.get("frames", np.arange(len(videomt.frames)))
    for name, recorded in videomt.stages.items():
        if name == "frames":
            continue
        stage = ours[name][:, :, some] if name == "pred_masks" else ours[name]
        stage = stage if name.startswith(("pred", "logits")) else stage[some]
        assert error(stage, recorded) < TOLERANCE, name


def test_position_grid_at_other_sizes(videomt: Golden) -> None:
    recorded = dict(np.load(FOLDER / "videomt" / "pos_embed_first8.npz"))
    recorded.pop("source")
    assert len(recorded) == 8
    for size, values in recorded.items():
        height, width = map(int, size.split("x"))
        with torch.inference_mode():
            assert (
                error(videomt.model.segmenter.encoder.positions(height, width)[..., :8], values) < TOLERANCE
            )


def run(golden: Golden, **settings):
    video = golden.video(RunSettings(mode="online", **settings))
    return list(video), video.segments


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_recorded_panoptic_maps(videomt: Golden, batch: int) -> None:
    frames, segments = run(videomt, batch=batch)
    assert (np.stack([frame.ids for frame in frames]) != videomt.final["vps.pan"]).sum() <= ALLOWED_PIXELS
    index = videomt.model.categories.index
    ours = [{"id": s.id, "isthing": s.category.isthing, "category_id": index(s.category)} for s in segments]
    assert ours == videomt.facts["vps"]["segments_infos"]


def test_recorded_instances(videomt: Golden) -> None:
    frames, segments = run(videomt, task="instance", score_threshold=0.0)
    check_tubes(our_tubes(videomt, frames, segments), recorded_tubes(videomt, "vis"))


def test_recorded_semantic_maps(videomt: Golden) -> None:
    frames, _ = run(videomt, task="semantic")
    assert (np.stack([frame.ids - 1 for frame in frames]) != videomt.final["vss.sem"]).sum() <= ALLOWED_PIXELS


def test_official_configuration(videomt: Golden) -> None:
    path = videomt.folder / "config.yaml"
    written = config_from_detectron2(load_yaml(path), path)
    assert (written.family, written.mode, written.queries) == ("videomt", "online", 30)
    loaded = load_model(videomt.folder / "weights.safetensors", config=path).config
    assert loaded.backbone == videomt.model.config.backbone
    assert loaded.input.short_side == 720 and loaded.num_classes == 124


# --- its memory ---------------------------------------------------------------------------------------------


def test_the_numbers_do_not_depend_on_the_windows(videomt: Golden) -> None:
    """One frame, three or all at once, and going on with a memory: the same bits on a CPU."""
    network, frames = videomt.model.segmenter, videomt.tensors()
    with torch.inference_mode():
        at_once = network(frames)
        for size in (1, 3):
            memory, outputs = None, []
            for part in frames.split(size):
                outputs.append(network(part, memory))
                memory = outputs[-1].memory
            for name in ("queries", "mask_features", "class_logits"):
                assert torch.equal(torch.cat([getattr(o, name) for o in outputs]), getattr(at_once, name))
            assert torch.equal(memory, at_once.memory)
        forgetful = network(frames[1:2])
    assert not torch.allclose(forgetful.queries, at_once.queries[1:2], atol=0.1), "the memory must matter"


def test_a_batched_trunk_gives_the_same_up_to_rounding(videomt: Golden) -> None:
    """What a GPU does, which has the trunk in one batch."""
    network, frames = videomt.model.segmenter, videomt.tensors()
    with torch.inference_mode():
        joint, memory = network.with_queries(network.trunk(frames), None)
        whole_video = network(frames)
    assert torch.allclose(memory, whole_video.memory, atol=1e-4)
    assert torch.allclose(network.norm(joint)[:, : len(network.queries)], whole_video.queries, atol=1e-4)


def test_each_video_begins_anew(videomt: Golden) -> None:
    first, again = (run(videomt)[0] for _ in range(2))
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "mode, message", [("offline", "VidEoMT is published without one"), ("minvis", "matched already")]
)
def test_other_modes_say_why_not(videomt: Golden, mode: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model(videomt.folder / "weights.safetensors", mode=mode)
    with pytest.raises(UsageError, match=message):
        videomt.model.check_mode(mode)


def test_bf16_keeps_the_memory_in_fp32(videomt: Golden) -> None:
    network, frames = videomt.model.segmenter, videomt.tensors()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = network(frames)
    assert output.memory is not None and output.memory.dtype == torch.float32
    with torch.inference_mode():
        exact = network(frames)
    assert (output.class_logits.float() - exact.class_logits).abs().mean() < 0.1


def test_sizes_of_patches() -> None:
    """Mask features are at stride 4 whatever the patch."""
    for patch in (8, 16, 32):
        network = VideoMT(
            VideoMTConfig(channels=64, blocks=2, query_blocks=1, queries=4, grid=4, patch=patch), 3
        )
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, 64, 96)).mask_features.shape == (1, 64, 16, 24)
