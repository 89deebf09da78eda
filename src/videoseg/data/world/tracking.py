"""Clips of the generated world to follow things through: every motion, entries, exits and full occlusions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from videoseg.data.world.sampler import WorldSpec, draw_sample
from videoseg.data.world.scene import MOTIONS, Scene

SPEC = WorldSpec(
    motions=MOTIONS, odd_presence_share=0.25, families={"appearance": 0.8, "detail": 0.2}, twin_share=0.5
)
GAP_SHARE = 0.3


def tracking_scene(seed: int, rng: np.random.Generator, gap_share: float = GAP_SHARE) -> Scene:
    """The scene of a seed; in a share of them one thing is out of view for 10 to 25 % of the clip."""
    scene = draw_sample(seed, SPEC).scene
    if rng.random() >= gap_share:
        return scene
    number, start = int(rng.integers(len(scene.things))), float(rng.uniform(0.2, 0.6))
    things = list(scene.things)
    things[number] = replace(things[number], gap=(start, start + float(rng.uniform(0.1, 0.25))))
    return replace(scene, things=tuple(things))
