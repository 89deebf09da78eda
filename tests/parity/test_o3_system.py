"""The whole system against the released inference: cached dialogue, [SEG] state, keyframe, final masks.

Prompt ids and decoder logits have their own, tighter tests; here everything runs together from the
frames on, with the recorded replies forced.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from golden import golden_root
from videoseg import Video
from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.preset import Preset, preset
from videoseg.masks import Rle, intersection, iou, union
from videoseg.models.checkpoints.folder import load_folder, official_state, read_weights, save_folder
from videoseg.models.o3 import O3Model
from videoseg.systems.o3 import O3System
from videoseg.types import MaskReason

pytestmark = pytest.mark.parity

CASES = sorted(path.parent.name for path in golden_root().glob("o3/cases/*/dialogue.json"))
needs_cases = pytest.mark.skipif(not CASES, reason="no golden numbers of o3")
MODES = {"once": "inject_once", "per_frame": "inject_every_frame"}


@pytest.fixture(scope="module")
def folder(golden: Callable[[str], Path]) -> Path:
    return golden("o3")


@pytest.fixture(scope="module")
def sam2_size(folder: Path) -> int:
    """Side of SAM2's input, from any recorded mask: the files of the export do not hold it."""
    recorded = [path for mode in MODES for path in sorted(folder.glob(f"cases/*/{mode}.safetensors"))]
    if not recorded:
        pytest.skip("no masks were recorded")
    return 4 * load_file(recorded[0])["low_res_logits"].shape[-1]


@pytest.fixture(scope="module")
def model(folder: Path, sam2_size: int) -> O3Model:
    return load_folder(folder / "checkpoint", dtype="float32", sam2_image_size=sam2_size)


class Recorded:
    """A case's record and the system's run of the same replies."""

    def __init__(self, folder: Path, model: O3Model, name: str) -> None:
        self.folder = folder / "cases" / name
        self.record: dict[str, Any] = json.loads((self.folder / "dialogue.json").read_text())
        self.tensors = load_file(self.folder / "dialogue.safetensors")
        self.frames = load_file(folder / "frames.safetensors")[self.record["video"]].numpy()
        self.model = self._with_processor(folder, model)

    def _with_processor(self, folder: Path, model: O3Model) -> O3Model:
        config = json.loads((folder / self.record["processor"] / "preprocessor_config.json").read_text())
        geometry = ImageGeometry.from_processor_config(config)
        text = replace(model.text, geometry=geometry)
        return O3Model(model.vlm, model.projector, model.sam2, text).eval()

    def preset(self, propagation: str) -> Preset:
        record = self.record
        return preset(
            "released",
            index_style=record["index_style"],
            max_turns=record["max_turns"],
            low_frames=record["low_res_frames_turn0"],
            high_frames=record["hi_res_frames_turn0"],
            later_frames=record["max_temporal_frames_per_round"],
            propagation=propagation,
        )

    def generated(self, turn: int) -> list[int]:
        return self.tensors[f"turn{turn}.generated_ids"].tolist()

    def system(self, propagation: str = "inject_every_frame") -> O3System:
        turns = iter(range(self.record["num_turns"]))
        current: list[int] = []

        def forced(_logits: torch.Tensor, step: int) -> torch.Tensor:
            if step == 0:
                current[:] = self.generated(next(turns))
            return torch.tensor([current[step]])

        return O3System(self.model, self.preset(propagation), sampler=forced)


@pytest.fixture(scope="module", params=CASES or [pytest.param("", marks=needs_cases)])
def case(request: pytest.FixtureRequest, folder: Path, model: O3Model) -> Recorded:
    if not request.param:
        pytest.skip("no golden numbers of o3")
    return Recorded(folder, model, request.param)


def test_every_key_is_used_and_saved_back_identical(folder: Path, model: O3Model, tmp_path: Path) -> None:
    original = read_weights(folder / "checkpoint")
    listed = json.loads((folder / "official_keys.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in official_state(model).items()} == listed
    saved = read_weights(save_folder(model, tmp_path / "again"))
    assert saved.keys() == original.keys()
    for key, tensor in original.items():
        assert torch.equal(saved[key], tensor), key
        assert saved[key].dtype == tensor.dtype, key
    for file in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        assert json.loads((tmp_path / "again" / file).read_text()) == json.loads(
            (folder / "checkpoint" / file).read_text()
        )


def test_the_cached_dialogue_has_the_recorded_states(case: Recorded) -> None:
    system = case.system()
    with Video(case.frames) as video:
        (dialogue,) = system.talk(video, [_query(case)])
    assert len(dialogue.turns) == case.record["num_turns"]
    assert dialogue.episode.keyframe() == case.record["keyframe_index"]
    for turn, reply in enumerate(dialogue.replies):
        assert reply.ids == case.generated(turn)
        expected = case.tensors[f"turn{turn}.generated_hidden"]
        assert len(reply.states) >= len(expected) == len(reply.ids) - 1
        for got, state in zip(reply.states, expected, strict=False):
            assert (got - state).abs().max() < 1e-4
    found = dialogue.seg_state(system.model.seg_id, system.preset.seg_rule)
    assert (found is None) == (not case.record["seg_positions_in_last_sequence"])
    if found is not None:
        assert (found[1] - case.tensors["seg_hidden"]).abs().max() < 1e-4


def test_the_projector_gives_the_recorded_embedding(case: Recorded) -> None:
    if "seg_embedding" not in case.tensors:
        pytest.skip("this case has no [SEG]")
    with torch.no_grad():
        embedding = case.model.embed(case.tensors["seg_hidden"])
    assert (embedding - case.tensors["seg_embedding"]).abs().max() < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_final_masks_equal_the_recorded_ones(case: Recorded, mode: str) -> None:
    result = case.system(MODES[mode]).segment(case.frames, case.record["query"])
    recorded = case.folder / f"{mode}_masks.json"
    if not case.record["has_masks"]:
        assert len(result.masklets) == 0
        assert result.trace.mask_reason is MaskReason.NO_SEG
        return
    if not recorded.exists():
        pytest.skip(f"{case.record['scenario']} was not recorded with mode {mode}")
    expected = [Rle.from_coco(code) for code in json.loads(recorded.read_text())["masks"]]
    (masklet,) = result.masklets
    pairs = list(zip(masklet.rles, expected, strict=True))
    different = [int(np.count_nonzero(ours.decode() != theirs.decode())) for ours, theirs in pairs]
    for frame, (ours, theirs) in enumerate(pairs):
        # In a mask of a few dozen pixels a single one is more than a thousandth.
        assert iou(ours, theirs) >= 0.999 or different[frame] <= 2, f"frame {frame}"
    common = sum(intersection(pair).area for pair in pairs)
    either = sum(union(pair).area for pair in pairs)
    assert common >= 0.999 * either or sum(different) <= 2
    assert sum(different) <= max(2, 5e-4 * np.prod(case.frames.shape[:3]))
    scores = load_file(case.folder / f"{mode}.safetensors")["object_score"].sigmoid()
    assert np.allclose(masklet.presence, scores.numpy(), atol=1e-2)


def _query(case: Recorded) -> Any:
    from videoseg import Query

    return Query(case.record["query"])
