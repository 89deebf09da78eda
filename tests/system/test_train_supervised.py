"""Both supervised stages from files to a model that answers: the world in the layouts of real sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from videoseg.cli.main import main
from videoseg.data.world.layouts import write_layouts
from videoseg.data.world.plan import Plan
from videoseg.data.world.sampler import WorldSpec
from videoseg.models.checkpoints.folder import save_folder
from videoseg.models.tiny import build_o3, world_corpus
from videoseg.systems import load
from videoseg.training.curves import read_records

SMALL = {"trunk": "micro", "image_size": 64, "decoder_mlp": 64, "memory_layers": 1, "memory_mlp": 64}
PIXELS = {"image": [1024, 16384], "frames": [1024, 16384], "grounding": [1024, 4096]}


@pytest.mark.slow
def test_sft_then_cold_start_from_files(tmp_path: Path) -> None:
    write_layouts(tmp_path / "data", Plan(range(4), WorldSpec(lengths=(8,))))
    model = build_o3(corpus=world_corpus(20), sam2=SMALL)
    save_folder(model, tmp_path / "init", torch.float32)
    common = {"pixels": PIXELS, "points": 128, "lr": 2e-3, "warmup": 1, "log_every": 1}
    common |= {"bf16": False, "device": "cpu"}
    mevis = {"dataset": "mevis", "folder": "video_datas/mevis", "repeats": 1, "draws": 2, "frames": 2}
    recipes = {
        "sft": {"init": str(tmp_path / "init"), "data": [mevis], "steps": 6},
        "coldstart": {
            "init": str(tmp_path / "sft" / "model"),
            "data": [{"dataset": "vts-cot", "folder": ".", "repeats": 1}],
            "steps": 10,
            "lora": {"r": 8, "alpha": 16},
            "train": ["vlm.model.model.language_model.embed_tokens", "vlm.model.lm_head", "projector"],
            "held_out": {"every": 10, "rows": 1, "dialogues": 1, "data": [mevis]},
        },
    }
    for stage, fields in recipes.items():
        out = tmp_path / stage
        file = tmp_path / f"{stage}.yaml"
        file.write_text(yaml.safe_dump({"out": str(out), **common, **fields}))
        command = ["train", stage, str(file), "--data-root", str(tmp_path / "data")]
        assert main([*command, "--plan"]) == 0
        assert main(command) == 0
        logged = read_records(out / "metrics.jsonl")
        assert logged[-1]["text"] < 0.8 * logged[0]["text"]
        about = json.loads((out / "about.json").read_text())
        assert about["seed"] == 0
        assert set(about["model"]) >= {"name", "sha256"}
    assert main(["train", "export", str(tmp_path / "coldstart"), "--out", str(tmp_path / "again")]) == 0
    ours, again = (load(str(tmp_path / name)).model.state_dict() for name in ("coldstart/model", "again"))
    assert all(torch.equal(ours[name], again[name]) for name in ours)
    system = load(str(tmp_path / "again"), max_new_tokens=4)
    result = system.segment(np.zeros((4, 64, 96, 3), dtype=np.uint8), "the red disc")
    assert result.trace.turns
