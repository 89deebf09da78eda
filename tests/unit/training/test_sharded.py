"""The one wrapped forward under FSDP2: ranks with and without [SEG] make the same update as one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from data_builders import make_chat, make_mevis
from videoseg.training.config import SupervisedConfig

Recipe = Callable[..., SupervisedConfig]

WORK = r"""
import faulthandler, json, os, sys
faulthandler.dump_traceback_later(100, exit=True)
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from videoseg.training.batches import stage_batch
from videoseg.training.config import build_config
from videoseg.training.loop import seed_for
from videoseg.training.preparation import prepare_model
from videoseg.training.sources import open_source
from videoseg.training.supervised import Trainee

config = build_config(json.loads(sys.argv[1]))
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
model = prepare_model(config)
trainee = Trainee(model, config).train()
source, _ = open_source(model, config, 2)
if world > 1:
    dist.init_process_group("gloo")
    for block in (*model.vlm.model.model.visual.blocks, *model.vlm.model.model.language_model.layers):
        fully_shard(block)
    fully_shard(trainee)
optimizer = torch.optim.SGD([p for p in trainee.parameters() if p.requires_grad], lr=0.1)
for row in range(rank, 2, world):
    seed_for(row)
    batch = stage_batch([source.item(row)], row, model)
    (trainee(batch)["loss"] * world / 2).backward()
    os.write(1, f"{row} {len(batch.dialogue.masks)}\n".encode())
optimizer.step()
named = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in trainee.named_parameters()}
if rank == 0:
    torch.save({n: p.detach().clone() for n, p in named.items()}, sys.argv[2])
if world > 1:
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_fsdp_ranks_may_differ_in_segs(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    make_chat(tmp_path / "chat")
    share = {"repeats": 1, "draws": 1, "frames": 3}
    data = [
        {"dataset": "mevis", "folder": "mevis", **share},
        {"dataset": "chat-univi", "folder": "chat", **share},
    ]
    pixels = {"image": [1024, 4096], "frames": [1024, 4096], "grounding": [1024, 1024]}
    config = recipe(data=data, group_by_length=False, seed=2, pixels=pixels)
    script = tmp_path / "work.py"
    script.write_text(WORK)
    outputs = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]):
        target = str(tmp_path / f"{len(outputs)}.pt")
        done = subprocess.run(
            [sys.executable, *launcher, str(script), json.dumps(asdict(config)), target],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        told = [line.split() for line in done.stdout.splitlines()]
        assert sorted(int(masks) > 0 for _, masks in told) == [False, True], "one row has no [SEG]"
        outputs.append(torch.load(target))
    for name, weight in outputs[0].items():
        torch.testing.assert_close(outputs[1][name], weight, rtol=1e-3, atol=1e-4, msg=name)
