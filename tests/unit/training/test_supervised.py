"""The supervised loop: losses by hand, the same update however it is divided, resumable to the last bit."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_builders import (
    LINE,
    ground,
    make_chat,
    make_grandf,
    make_mevis,
    make_refcoco,
    make_timelens,
    make_vts_cot,
    square,
)
from videoseg.errors import DatasetError, InterruptedRunError, UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.o3 import O3Model
from videoseg.training.batches import stage_batch
from videoseg.training.config import SupervisedConfig
from videoseg.training.curves import read_records
from videoseg.training.losses import mask_loss, per_dialogue, token_loss
from videoseg.training.sources import MixSource, grouped_order, open_source
from videoseg.training.supervised import Trainee, run

Recipe = Callable[..., SupervisedConfig]
VTS = [{"dataset": "vts-cot", "repeats": 1, "draws": 1}]
MEVIS = [{"dataset": "mevis", "folder": "mevis", "repeats": 2, "draws": 2, "frames": 2}]


def records(folder: str | Path) -> list[dict[str, Any]]:
    """What a run logged, without the time that it took."""
    found = read_records(Path(folder) / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name != "seconds"} for record in found]


def test_losses_by_hand(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    """Every dialogue counts the same, in it every [SEG], of that every frame (specification §10, §11)."""
    make_vts_cot(tmp_path)
    config = recipe(data=VTS, points=0)
    source, _ = open_source(small_model, config, 1)
    trainee = Trainee(small_model, config).eval()
    batch = stage_batch([source.item(0), source.item(1)], 0, small_model)
    with torch.no_grad():
        output = trainee.teacher(batch.dialogue)
        terms = trainee(batch)
    texts, masks = [], []
    for row in range(2):
        mine = output.rows == row
        logits = small_model.vlm.logits(output.hidden[mine])
        texts.append(token_loss(logits, batch.dialogue.ids[row, output.columns[mine]]).mean())
        per_seg: dict[int, list[torch.Tensor]] = {}
        for query, logits in zip(batch.dialogue.masks, output.mask_logits, strict=True):
            if query.row == row and query.truth is not None:
                loss = mask_loss(logits[None], query.truth.float()[None], bce=2.0, dice=0.5)[0]
                per_seg.setdefault(query.seg, []).append(loss)
        masks.append(torch.stack([torch.stack(values).mean() for values in per_seg.values()]).mean())
    assert sorted(len(output.rows[output.rows == row]) for row in range(2))[0] > 10
    torch.testing.assert_close(terms["text"], torch.stack(texts).mean())
    torch.testing.assert_close(terms["mask"], torch.stack(masks).mean())
    torch.testing.assert_close(terms["loss"], terms["text"] + terms["mask"])


def test_masks_are_averaged_over_segs_and_dialogues() -> None:
    values = torch.tensor([1.0, 3.0, 10.0, 5.0])
    segs, seg_rows = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1])
    assert per_dialogue(values, segs, seg_rows, 2).item() == pytest.approx(((2 + 10) / 2 + 5) / 2)
    assert per_dialogue(values, segs, seg_rows, 3).item() == pytest.approx((6 + 5 + 0) / 3)
    assert per_dialogue(values[:2], segs[:2], seg_rows, 2).item() == pytest.approx(1.0)


def test_a_mixture_of_real_layouts_learns(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    make_refcoco(tmp_path / "refcoco")
    make_grandf(tmp_path / "gcg", {"A man": ground(0, 5, square())})
    make_timelens(tmp_path / "t", LINE)
    make_chat(tmp_path / "chat")
    names = {
        "mevis": "mevis",
        "refcoco": "refcoco",
        "gcg-grandf": "gcg",
        "timelens": "t",
        "chat-univi": "chat",
    }
    data = [{"dataset": name, "folder": folder, "repeats": 1} for name, folder in names.items()]
    config = recipe(
        data=data, steps=8, batch=2, lr=2e-3, lora={"r": 4, "alpha": 8, "dropout": 0.0}, train=TRAINED
    )
    folder = run(config)
    logged = records(config.out)
    assert logged[-1]["text"] < 0.8 * logged[0]["text"]
    assert all(math.isfinite(record["loss"]) for record in logged)
    load_folder(folder)


TRAINED = [
    "vlm.model.model.language_model.embed_tokens",
    "vlm.model.lm_head",
    "projector",
    "sam2.model.mask_decoder",
]


def test_cold_start_learns_masks_and_text(recipe: Recipe, tmp_path: Path) -> None:
    make_vts_cot(tmp_path)
    config = recipe(data=VTS, steps=10, batch=2, lr=3e-3)
    run(config)
    logged = records(config.out)
    assert logged[-1]["text"] < logged[0]["text"]
    assert logged[-1]["mask"] < logged[0]["mask"]


def test_what_is_frozen_stays(recipe: Recipe, small_folder: Path, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    config = recipe(data=MEVIS, steps=2, lora={"r": 4, "alpha": 8, "dropout": 0.1}, train=TRAINED)
    before, after = (load_folder(folder).state_dict() for folder in (small_folder, run(config)))
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name].bfloat16(), after[name].bfloat16())}
    home = "vlm.model.model.language_model.layers."
    assert {f"{home}{n}.{part}.weight" for n in range(4) for part in LINEAR} <= changed
    assert all(name.startswith((home, *TRAINED)) for name in changed)
    assert {name for name in changed if "norm" in name and name.startswith("vlm")} == set()
    assert {"vlm.model.lm_head.weight", f"{TRAINED[0]}.weight"} <= changed
    assert any(name.startswith("sam2.model.mask_decoder.transformer") for name in changed)
    assert not any("iou_prediction_head" in name for name in changed)


LINEAR = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def test_resuming_in_process_repeats_the_curve(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    settings = {"data": MEVIS, "lora": {"r": 4, "alpha": 8, "dropout": 0.2}, "optimizer": "muon", "steps": 4}
    whole = recipe(**settings, out=str(tmp_path / "whole"))
    run(whole)
    stopped = replace(whole, out=str(tmp_path / "stopped"))

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match="after step 2"):
        run(stopped, report=stop)
    run(stopped)
    assert records(stopped.out) == records(whole.out)
    weights = [load_folder(Path(out) / "model").state_dict() for out in (whole.out, stopped.out)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


START = """
import sys, json
from videoseg.training.config import build_config
from videoseg.training.supervised import run
run(build_config(json.loads(sys.argv[1])))
"""


def start(config: SupervisedConfig, *before: str) -> subprocess.Popen[str]:
    """The same run in a process of its own."""
    command = [*before, sys.executable, "-c", START, json.dumps(asdict(config))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_process_goes_on_with_the_same_curve(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    whole = recipe(data=MEVIS, steps=8, out=str(tmp_path / "whole"), threads=1, save_minutes=0)
    run(whole)
    killed = replace(whole, out=str(tmp_path / "killed"))
    process = start(killed)
    metrics = Path(killed.out) / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 3):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it must not have come to its end"
    with metrics.open("a") as file:
        file.write('{"text": 1.2, "st')  # a record that was being written
    run(killed)
    assert records(killed.out) == records(whole.out)


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    one = recipe(data=MEVIS, steps=2, accumulation=2, out=str(tmp_path / "one"))
    run(one)
    two = replace(one, accumulation=1, out=str(tmp_path / "two"))
    script = tmp_path / "go.py"
    script.write_text(START)
    # Without a GPU too: it is torch's launcher that is chosen by this flag, `--cpu` knows mpirun only.
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    command = [sys.executable, "-m", *launch.split(), "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*command, str(script), json.dumps(asdict(two))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for ours, theirs in zip(records(one.out), records(two.out), strict=True):
        assert theirs == pytest.approx(ours, rel=2e-4, abs=2e-5)
    before, after = (load_folder(Path(out) / "model").state_dict() for out in (one.out, two.out))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-2, atol=1e-4, msg=name)


def test_a_bad_sample_stops_the_run_or_is_counted(recipe: Recipe, tmp_path: Path) -> None:
    root = make_mevis(tmp_path / "mevis")
    (root / "train/JPEGImages/v1/00001.jpg").write_bytes(b"no picture")
    data = [{**MEVIS[0], "frames": 3}]
    with pytest.raises(DatasetError, match=r"meta_expressions.json: sample v1.*00001\.jpg"):
        run(recipe(data=data, steps=4))
    config = recipe(data=data, steps=4, skip_bad=2, out=str(tmp_path / "counted"))
    run(config)
    assert records(config.out)[-1]["skipped"] == 2
    with pytest.raises(DatasetError, match=r"skip_bad allows 1; one of them: .*00001\.jpg"):
        run(replace(config, skip_bad=1, out=str(tmp_path / "few")))


def test_workers_read_the_same_rows(recipe: Recipe, tmp_path: Path) -> None:
    root = make_mevis(tmp_path / "mevis")
    alone = recipe(data=MEVIS, steps=2, out=str(tmp_path / "alone"))
    helped = replace(alone, workers=1, out=str(tmp_path / "helped"))
    run(alone)
    run(helped)
    assert records(helped.out) == records(alone.out)
    for picture in root.rglob("*.jpg"):
        picture.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"^\S*meta_expressions.json: sample"):
        run(replace(helped, out=str(tmp_path / "bad")))


def test_a_run_is_not_mixed_up_with_another(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    config = recipe(data=MEVIS, steps=1)
    run(config)
    with pytest.raises(UsageError, match="the run there cannot go on: seed was 0, is 3"):
        run(replace(config, seed=3, steps=2))


def test_folders_that_are_missing_are_all_named(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    data = [*MEVIS, {"dataset": "revos", "folder": "revos"}, {"dataset": "timelens", "folder": "t"}]
    with pytest.raises(
        UsageError, match=r"(?s)2 of 3 data sets cannot be opened.*revos.*no such folder.*timelens"
    ):
        open_source(small_model, recipe(data=data), 1)


def test_held_out_rows_are_looked_at_with_pictures(recipe: Recipe, tmp_path: Path) -> None:
    make_vts_cot(tmp_path)
    make_mevis(tmp_path / "mevis")
    for number, (train, held_out) in enumerate(((MEVIS, VTS), (VTS, MEVIS))):
        watch = {"every": 2, "rows": 2, "dialogues": 1, "data": held_out}
        config = recipe(
            data=train, held_out=watch, out=str(tmp_path / str(number)), preset={"max_new_tokens": 8}
        )
        run(config)
        logged = records(config.out)
        assert {"held_text", "held_mask", "held_accuracy", "held_iou"} <= set(logged[1])
        assert "held_text" not in logged[0]
        home = Path(config.out) / "held_out"
        told = json.loads((home / "step-00000002.json").read_text())
        assert len(told) == 1
        assert told[0]["replies"]
        assert (home / "step-00000002.png").stat().st_size > 1000


def test_looking_does_not_change_the_run(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    watch = {"every": 1, "rows": 1, "dialogues": 0, "data": MEVIS}
    blind = recipe(data=MEVIS, out=str(tmp_path / "blind"))
    run(blind)
    watched = recipe(data=MEVIS, held_out=watch, out=str(tmp_path / "watched"))
    run(watched)
    names = set(records(blind.out)[0])
    assert [{name: record[name] for name in names} for record in records(watched.out)] == records(blind.out)


def test_cached_features_change_nothing(recipe: Recipe, tmp_path: Path) -> None:
    root = make_mevis(tmp_path / "mevis")
    settings = {"data": MEVIS, "steps": 3, "freeze": ["sam2.model.vision_encoder"]}
    plain = recipe(**settings, out=str(tmp_path / "plain"))
    run(plain)
    cache = str(tmp_path / "cache")
    first, again = (
        recipe(**settings, feature_cache=cache, out=str(tmp_path / name)) for name in ("first", "again")
    )
    run(first)
    kept = list((tmp_path / "cache").rglob("*.safetensors"))
    assert 0 < len(kept) <= len(list(root.rglob("*.jpg")))
    run(again)
    assert records(first.out) == records(again.out)
    for ours, theirs in zip(records(plain.out), records(again.out), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-4)
    with pytest.raises(UsageError, match=r"freeze sam2\.model\.vision_encoder"):
        run(recipe(data=MEVIS, feature_cache=cache, out=str(tmp_path / "learning")))


def test_gradient_checkpointing_and_bf16_run(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    lora = {"r": 4, "alpha": 8, "dropout": 0.1}
    settings = {"data": MEVIS, "lora": lora, "train": TRAINED, "optimizer": "adamw"}
    plain = recipe(**settings, out=str(tmp_path / "plain"))
    run(plain)
    saving = replace(plain, gradient_checkpointing=True, out=str(tmp_path / "saving"))
    run(saving)
    for ours, theirs in zip(records(plain.out), records(saving.out), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-4)
    half = recipe(**settings, bf16=True, dtype="bfloat16", out=str(tmp_path / "half"))
    run(half)
    assert records(half.out)[0]["text"] == pytest.approx(records(plain.out)[0]["text"], rel=0.05)


def test_rows_of_similar_length_come_together(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    lengths = torch.randint(1, 100, (400,)).numpy()
    order = grouped_order(lengths, 8, np.random.default_rng(0))
    assert sorted(order) == list(range(400))
    groups = lengths[order].reshape(-1, 8)
    assert (groups.max(1) - groups.min(1)).mean() < 6
    assert abs(np.corrcoef(groups.mean(1), np.arange(50))[0, 1]) < 0.4
    make_mevis(tmp_path / "mevis")
    source, _ = open_source(small_model, recipe(data=MEVIS), 1)
    assert isinstance(source, MixSource)
    epochs = [
        [source.item(n).row.name for n in range(e * source.size, (e + 1) * source.size)] for e in (0, 1)
    ]
    assert source.size == 4
    videos = [sorted(name.split("sample ")[1].split("/")[0] for name in epoch) for epoch in epochs]
    assert videos[0] == videos[1] == ["v1", "v1", "v2", "v2"]


def test_wrong_names_are_told(recipe: Recipe, tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    with pytest.raises(UsageError, match=r"name begins with .sam2\.model\.mask_encoder"):
        run(recipe(data=MEVIS, freeze=["sam2.model.mask_encoder"]))
    with pytest.raises(UsageError, match="no linear layer o_prj"):
        run(recipe(data=MEVIS, lora={"targets": ["o_prj"]}))
    with pytest.raises(UsageError, match="no parameter learns"):
        run(recipe(data=MEVIS, freeze=["vlm", "projector", "sam2"]))
