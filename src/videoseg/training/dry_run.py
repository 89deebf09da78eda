"""What a supervised run would do, found out without loading a model: data, sizes, updates."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from videoseg.data.mix import Mix
from videoseg.data.sample import GcgSample, RefImageSample
from videoseg.errors import CheckpointError, DatasetError
from videoseg.models.checkpoints.hub import KNOWN
from videoseg.training.config import SupervisedConfig
from videoseg.training.prompts import open_mix


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows of an epoch by data set, rows of one update, updates of the run, where the model comes from."""

    rows: dict[str, int]
    rows_per_update: int
    updates: int
    init: str


def dry_run(config: SupervisedConfig) -> Plan:
    """Open everything that a run needs and read the first sample of every set.

    Raises UsageError naming all folders that do not serve, DatasetError for a first sample that cannot be
    read, CheckpointError for an `init` or `words` that is not there. Known and remote names are not fetched.
    """
    group = config.batch * config.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
    rows: dict[str, int] = {}
    if config.data:
        mix = open_mix(config.data, config.data_root)
        read_first(mix)
        rows = dict(mix.sizes())
    if config.held_out.data:
        read_first(open_mix(config.held_out.data, config.data_root))
    for path in (config.init, config.words):
        if path and path not in KNOWN and ":" not in path and not Path(path).exists():
            raise CheckpointError(f"{path}: not there, and no known name ({', '.join(KNOWN)})")
    updates = config.steps or math.ceil(config.epochs * sum(rows.values()) / group)
    return Plan(rows, group, updates, config.init or "fresh tiny weights")


def read_first(mix: Mix) -> None:
    """Make the first sample of every set and see that its files are there."""
    for reader, share in mix.parts:
        sample = reader[0]
        if isinstance(sample, RefImageSample | GcgSample):
            missing = [] if sample.image.is_file() else [sample.image]
        else:
            missing = sample.frames.missing()
        if missing:
            raise DatasetError(
                f"{share.dataset}: {len(missing)} files of its first sample are missing, such as "
                f"{missing[0]}; is the set unpacked as docs/data.md says?"
            )
