"""Image sizes: limits, multiples, the three released steps, and agreement with transformers' rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as reference_resize

from videoseg.dialogue.budget import ImageGeometry, ResizeStep, fit_size, resize_plan, smart_resize
from videoseg.dialogue.pixels import patchify, resize
from videoseg.dialogue.preset import DEFAULT, RELEASED, preset
from videoseg.errors import CheckpointError, UsageError
from videoseg.types import O3_ROLES, Role

STOCK = ImageGeometry()
RL_SAVED = ImageGeometry(min_pixels=3_136, max_pixels=200_704)
CONFIG = {
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
}
sides = st.integers(1, 5000)
sizes = st.tuples(sides, sides)


def final(frame: tuple[int, int], role: Role, chosen=DEFAULT, geometry=STOCK) -> tuple[int, int]:
    plan = resize_plan(frame, role, chosen, geometry)
    return (plan[-1].height, plan[-1].width) if plan else frame


@given(sizes, st.sampled_from([16, 28, 32]), st.integers(1, 100), st.integers(4, 100))
def test_smart_resize_is_transformers_rule(size, factor, low, spread) -> None:
    assume(max(size) / min(size) <= 200)
    limits = (low * 100, low * 100 * spread)
    assert smart_resize(size, factor, *limits) == reference_resize(*size, factor, *limits)


@given(sizes, st.sampled_from([16, 32]), st.integers(1, 50), st.integers(4, 100))
def test_fitted_sizes_stay_inside_the_budget(size, factor, low_tokens, spread) -> None:
    low, high = low_tokens * factor**2, low_tokens * factor**2 * spread
    height, width = fit_size(size, factor, low, high)
    assert height % factor == width % factor == 0
    assert low <= height * width <= high


@given(sizes, st.sampled_from(O3_ROLES))
def test_default_sizes_obey_the_published_budget(size, role) -> None:
    height, width = final(size, role)
    assert height % 32 == width % 32 == 0
    assert 3_136 <= height * width <= DEFAULT.budget.max_pixels(role)


def test_ordinary_shapes_are_those_of_the_reference_rule() -> None:
    for size in [(480, 854), (720, 1280), (180, 320), (640, 360)]:
        for role in O3_ROLES:
            expected = reference_resize(*size, 32, 3_136, DEFAULT.budget.max_pixels(role))
            assert final(size, role) == expected


def test_the_default_is_one_bicubic_resize_and_nothing_when_it_fits() -> None:
    assert resize_plan((480, 854), Role.LOW, DEFAULT, STOCK) == (ResizeStep(96, 192, "tensor_bicubic"),)
    assert resize_plan((96, 192), Role.LOW, DEFAULT, STOCK) == ()


def test_no_room_for_one_token() -> None:
    with pytest.raises(UsageError, match="32x32"):
        fit_size((100, 100), 32, 10, 1000)


def test_released_chain() -> None:
    plan = resize_plan((480, 854), Role.LOW, RELEASED, RL_SAVED)
    assert plan == (
        ResizeStep(118, 211, "bilinear"),
        ResizeStep(112, 224, "bicubic"),
        ResizeStep(128, 224, "tensor_bicubic"),
    )
    tokens = {role: np.prod(final((720, 1280), role, RELEASED, RL_SAVED)) // 1024 for role in O3_ROLES}
    assert tokens[Role.LOW] in range(24, 29)
    assert tokens[Role.HIGH] in range(170, 191)
    assert tokens[Role.KEYFRAME] in range(170, 191)
    stock = {role: np.prod(final((720, 1280), role, RELEASED, STOCK)) // 1024 for role in O3_ROLES}
    assert stock[Role.LOW] in range(66, 73)
    assert stock[Role.KEYFRAME] in range(370, 393)


def test_released_chain_keeps_sides_of_at_least_28_and_refuses_extreme_shapes() -> None:
    assert resize_plan((3, 300), Role.LOW, RELEASED, RL_SAVED)[0] == ResizeStep(28, 560, "bilinear")
    with pytest.raises(UsageError, match="single"):
        resize_plan((1, 10_000), Role.LOW, RELEASED, RL_SAVED)
    assert final((1, 10_000), Role.LOW) == (32, 768)


def test_released_chain_gives_thin_frames_one_row_before_it_looks_at_the_area() -> None:
    """12 x 300 pixels lie inside the first limits; qwen-vl-utils makes them 28 x 308, not 28 x 280."""
    plan = resize_plan((12, 300), Role.HIGH, RELEASED, RL_SAVED)
    assert plan == (ResizeStep(28, 308, "bicubic"), ResizeStep(32, 320, "tensor_bicubic"))


@pytest.mark.parametrize(("frame", "side"), [((40, 40), 56), ((700, 700), 448), ((5000, 5000), 448)])
def test_squares_meet_the_limit_exactly(frame: tuple[int, int], side: int) -> None:
    assert resize_plan(frame, Role.HIGH, RELEASED, RL_SAVED)[0] == ResizeStep(side, side, "bilinear")


def test_processor_limits_can_be_obeyed_or_ignored() -> None:
    obeying = preset("default", obey_processor_limits=True)
    assert np.prod(final((720, 1280), Role.LOW, obeying, STOCK)) >= 65_536
    assert np.prod(final((720, 1280), Role.KEYFRAME, obeying, RL_SAVED)) <= 200_704
    assert final((720, 1280), Role.LOW, obeying, RL_SAVED) == final((720, 1280), Role.LOW)
    free = preset("released", obey_processor_limits=False)
    assert np.prod(final((720, 1280), Role.LOW, free, STOCK)) <= 25_088


def test_geometry_from_processor_config() -> None:
    assert ImageGeometry.from_processor_config(CONFIG) == STOCK
    winning = {**CONFIG, "min_pixels": 3_136, "max_pixels": 200_704}
    assert ImageGeometry.from_processor_config(winning) == RL_SAVED
    assert ImageGeometry.from_processor_config({**winning, "size": None}) == RL_SAVED
    assert ImageGeometry.from_processor_config({**CONFIG, "min_pixels": None}) == STOCK


@pytest.mark.parametrize(
    "change", [{"patch_size": None}, {"size": {}}, {"image_mean": [0.5]}, {"merge_size": "two"}]
)
def test_bad_processor_configs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        ImageGeometry.from_processor_config({**CONFIG, **change})


@pytest.mark.parametrize("name", ["patch_size", "merge_size", "image_mean", "image_std"])
def test_missing_processor_fields_are_named(name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        ImageGeometry.from_processor_config({key: value for key, value in CONFIG.items() if key != name})


@pytest.mark.parametrize(("patch", "merge"), [(16, 2), (8, 2), (4, 3)])
def test_pixels_equal_the_image_processor(patch: int, merge: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    frame = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    geometry = ImageGeometry(patch, merge, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    processor = Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=merge,
        image_mean=list(geometry.mean),
        image_std=list(geometry.std),
        size={"shortest_edge": 3_136, "longest_edge": 200_704},
    )
    expected = processor(frame, return_tensors="np")
    height, width = final(frame.shape[:2], Role.HIGH, geometry=geometry)
    assert expected["image_grid_thw"].tolist() == [[1, height // patch, width // patch]]
    ours = patchify(resize(frame, (ResizeStep(height, width, "bicubic"),)), geometry)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected["pixel_values"], atol=1e-5)


def test_the_tensor_filter_is_pillows_up_to_rounding() -> None:
    rows, columns = np.mgrid[0:90, 0:131]
    frame = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    for size in [(32, 64), (90, 131), (160, 224)]:
        images = [resize(frame, (ResizeStep(*size, kind),)) for kind in ("bicubic", "tensor_bicubic")]
        assert images[0].shape == images[1].shape == (*size, 3)
        assert images[1].dtype == np.uint8
        assert np.abs(images[0].astype(int) - images[1]).max() <= 1
