"""What a run has learned as a checkpoint folder that inference and the official code read."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from videoseg.errors import CheckpointError
from videoseg.models.checkpoints.folder import official_names, save_folder
from videoseg.models.o3 import O3Model
from videoseg.training.config import SupervisedConfig, build_config
from videoseg.training.loop import Run, last_state, load_trained
from videoseg.training.lora import merged_state
from videoseg.training.settings import LoraSettings, build_settings, read_yaml

MODEL = "teacher.model."


def export(running: Run, model: O3Model, lora: LoraSettings | None, folder: Path) -> Path:
    """Write the model of a run, adapters merged; all processes call, the main one writes."""
    state = running.accelerator.get_state_dict(running.module)
    if running.is_main:
        _write(model, state, lora, folder)
    running.accelerator.wait_for_everyone()
    return folder


def export_state(out: Path, folder: Path) -> Path:
    """Write the model of the last saved state of the run in `out`, finished or not.

    Raises CheckpointError if there is no state, or one that was saved in shards.
    """
    from videoseg.training.grpo_config import GrpoConfig
    from videoseg.training.grpo_parts import load_o3
    from videoseg.training.policy import Policy
    from videoseg.training.preparation import prepare_model
    from videoseg.training.supervised import Trainee

    state = last_state(out)
    if state is None:
        raise CheckpointError(f"{out}: no state of a run; give the folder that `out` named")
    values, where = read_yaml(out / "config.json"), str(out / "config.json")
    config: SupervisedConfig | GrpoConfig
    if "rewards" in values:
        config = build_settings(GrpoConfig, values, where)
        model = load_o3(config, "cpu")
        trained: nn.Module = Policy(model)
    else:
        config = build_config(values, where)
        model = prepare_model(config)
        trained = Trainee(model, config)
    load_trained(trained, state)
    _write(model, trained.state_dict(), config.lora, folder)
    return folder


def _write(model: O3Model, state: dict[str, Tensor], lora: LoraSettings | None, folder: Path) -> None:
    own = {n.removeprefix(MODEL): tensor for n, tensor in state.items() if n.startswith(MODEL)}
    save_folder(model, folder, weights=official_names(merged_state(own, lora)))
