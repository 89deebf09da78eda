"""The generated world (design §5): clips with exact masks, true answers and true traces."""

from videoseg.data.world.clip import generate, write_clip
from videoseg.data.world.draw import Stage
from videoseg.data.world.queries import FAMILIES, Question
from videoseg.data.world.sampler import (
    TEST_SEEDS,
    TRAIN_SEEDS,
    VALID_SEEDS,
    Sample,
    WorldSpec,
    draw_sample,
    draw_samples,
)
from videoseg.data.world.scene import Scene, Thing
from videoseg.data.world.trace import WorldTrace, true_trace

__all__ = [
    "FAMILIES",
    "TEST_SEEDS",
    "TRAIN_SEEDS",
    "VALID_SEEDS",
    "Question",
    "Sample",
    "Scene",
    "Stage",
    "Thing",
    "WorldSpec",
    "WorldTrace",
    "draw_sample",
    "draw_samples",
    "generate",
    "true_trace",
    "write_clip",
]
