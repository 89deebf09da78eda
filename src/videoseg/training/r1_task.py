"""R1 on the GRPO trainer: one turn about one target frame, judged by its text alone (R1 spec §4, §7).

Frames follow §7: the target frame is a random one with a target in it, the key segment a random window
around it; the sampler takes no part. SAM2 and XMem are frozen, so no mask is decoded.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from videoseg.dialogue.chatml import END, PAD
from videoseg.dialogue.cues import answer_items
from videoseg.dialogue.episode import Observation
from videoseg.dialogue.grammar import thought
from videoseg.dialogue.r1 import R1Preset, ask_target, context_frames
from videoseg.dialogue.render import Renderer
from videoseg.errors import ReplyError
from videoseg.models.checkpoints.hub import known_hashes, resolve
from videoseg.models.checkpoints.r1 import SAM2_FILE, load_reasoner, r1_preset, save_reasoner
from videoseg.models.o3 import TextSide
from videoseg.models.session import RowInput, Session
from videoseg.models.vlm import VLM, ImageFeatures, States
from videoseg.systems.images import ImageStore
from videoseg.systems.reasoner import r1_renderer
from videoseg.training.calibration import TurnMasks
from videoseg.training.collate import DialogueRow
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.difficulty import read_ratings
from videoseg.training.grpo import anchor, selected_log_probs, trained_positions
from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.grpo_parts import Parts, reference_of
from videoseg.training.length import MISSING, LengthControl
from videoseg.training.loop import Run
from videoseg.training.lora import merged_state
from videoseg.training.policy import PolicyOutput
from videoseg.training.preparation import choose_trained, make_fast
from videoseg.training.prompts import Prompt
from videoseg.training.reading import read_dialogues
from videoseg.training.rewards.base import Outcome
from videoseg.training.rewards.r1 import SceneTruth, scene_truth
from videoseg.training.rollout import Rollout, RolloutTurn, Said, Sampling
from videoseg.training.settings import build_settings
from videoseg.training.task import Judged
from videoseg.types import Interval, StopReason

LEAST_WINDOW = 0.2


class R1Policy(nn.Module):
    """The reasoner as what accelerate wraps: dialogues in, log-probabilities out, no masks."""

    def __init__(self, vlm: VLM, text: TextSide) -> None:
        super().__init__()
        self.vlm = vlm
        self.text = text
        self.seg_id = -1
        self.end_id = text.token_id(END)

    def forward(self, batch: DialogueBatch) -> PolicyOutput:
        """As `Policy.forward`; `mask_logits` is `[0, 1, 1]`."""
        states, _, rows, columns = self.read(batch)
        tokens = batch.ids[rows, columns]
        log_probs, entropy = selected_log_probs(states.norm[rows, columns - 1], self.vlm.logits, tokens)
        return PolicyOutput(log_probs, entropy, log_probs.new_zeros(0, 1, 1), anchor(states.norm))

    def read(self, batch: DialogueBatch) -> tuple[States, list[ImageFeatures], Tensor, Tensor]:
        """States of all tokens, the images' features, and rows and columns of the trained tokens."""
        states, images = read_dialogues(self.vlm, batch)
        return states, images, *trained_positions(batch.loss_mask)


@dataclass(eq=False, slots=True)
class _Scene:
    """A prompt as it is asked, made once: rows of a group hold the same tensors."""

    observation: Observation
    target: int
    renderer: Renderer
    images: ImageStore
    truth: SceneTruth
    patches: dict[object, Tensor] = field(default_factory=dict)


class R1Task:
    """`Task` of R1; `difficulty` by prompt key and `length` give the length term, None none."""

    def __init__(
        self,
        policy: R1Policy,
        preset: R1Preset,
        sampling: Sampling,
        *,
        max_rows: int = 64,
        length: LengthControl | None = None,
        difficulty: Mapping[str, float] | None = None,
    ) -> None:
        self._policy, self._preset, self._sampling = policy, preset, sampling
        self._max_rows, self._length, self._difficulty = max_rows, length, difficulty or {}
        self._stop = tuple(policy.text.token_id(token) for token in (END, PAD))
        self._scenes: dict[str, _Scene] = {}

    @torch.no_grad()
    def rollouts(
        self, prompts: Sequence[Prompt], copies: int, seed: int, first_group: int = 0
    ) -> list[Rollout]:
        """See `Task`; a prompt is encoded once for its copies."""
        count = max(1, self._max_rows // copies)
        said: list[Said] = []
        for start in range(0, len(prompts), count):
            said += self._play(prompts[start : start + count], copies, seed + start)
        return self.restored(said, prompts, first_group)

    def _play(self, prompts: Sequence[Prompt], copies: int, seed: int) -> list[Said]:
        scenes = [self._scene(prompt) for prompt in prompts]
        chunks = [scene.renderer.first(scene.observation) for scene in scenes]
        session = Session(self._policy.vlm, len(prompts))
        session.extend(
            [
                RowInput(chunk.ids.tolist(), scene.images.features(chunk.images))
                for chunk, scene in zip(chunks, scenes, strict=True)
            ]
        )
        session.fork(copies)
        sampler = self._sampling.sampler(seed)
        forbidden = scenes[0].renderer.forbidden_ids
        replies = session.generate(sampler, self._stop, self._preset.max_new_tokens, forbidden)
        return [Said([reply.ids], [reply.stopped]) for reply in replies]

    def restored(
        self, said: Sequence[Said], prompts: Sequence[Prompt], first_group: int = 0
    ) -> list[Rollout]:
        """See `Task`."""
        copies = len(said) // len(prompts)
        return [
            self._rollout(one, prompts[number // copies], first_group + number // copies)
            for number, one in enumerate(said)
        ]

    def _rollout(self, said: Said, prompt: Prompt, group: int) -> Rollout:
        scene, ids, stopped = self._scene(prompt), said.ids[0], said.stopped[0]
        text = scene.renderer.history_text(ids)
        turn = RolloutTurn(scene.observation, tuple(ids), text, not stopped, scene.target)
        return Rollout(prompt.key, group, (turn,), _stop_reason(text, stopped), ())

    def row(self, rollout: Rollout, prompt: Prompt) -> DialogueRow:
        """See `Task`; there is no mask to be judged."""
        scene = self._scene(prompt)
        chunk = scene.renderer.dialogue(rollout.exchanges())
        for image in chunk.images:
            if image.key not in scene.patches:
                pixels = scene.renderer.patches(image, prompt.frames[image.frame])
                scene.patches[image.key] = torch.from_numpy(pixels)
        patches = [scene.patches[image.key] for image in chunk.images]
        return DialogueRow(chunk, patches, name=prompt.key)

    def judge(self, rollout: Rollout, prompt: Prompt, row: DialogueRow, logits: Tensor) -> Judged:
        """See `Task`; what the rewards need is in the outcome's columns."""
        text = rollout.texts[0]
        inside = self._policy.text.tokenizer.encode(thought(text) or "", add_special_tokens=False)
        columns = {
            "query": prompt.query,
            "kind": prompt.kind,
            "key": prompt.key,
            "truth": self._scene(prompt).truth,
            "extent": self._preset.extent,
            "think_tokens": len(inside),
            "well_formed": rollout.stop is StopReason.ANSWER,
            "difficulty": self._difficulty.get(prompt.key, MISSING),
            "length": self._length,
        }
        outcome = Outcome(rollout.texts, prompt.presence, ((0.0,),), (0.0,), columns)
        return Judged(outcome, logits.new_zeros(()), (TurnMasks(0),))

    def release(self) -> None:
        """See `Task`."""
        self._scenes.clear()

    def _scene(self, prompt: Prompt) -> _Scene:
        if prompt.key not in self._scenes:
            self._scenes[prompt.key] = self._make_scene(prompt)
        return self._scenes[prompt.key]

    def _make_scene(self, prompt: Prompt) -> _Scene:
        """The frames of a prompt depend on its key alone."""
        rng = np.random.default_rng(zlib.crc32(prompt.key.encode()))
        seen = np.flatnonzero(prompt.presence)
        target = int(rng.choice(seen if len(seen) else prompt.num_frames))
        segment = random_window(rng, prompt.num_frames, target, LEAST_WINDOW, self._preset.shrink)
        context = context_frames(segment, target, prompt.num_frames, self._preset)
        masks = prompt.objects(target) if prompt.objects else [prompt.mask(target)]
        renderer = r1_renderer(self._policy.text, self._preset, prompt.frame_size)
        return _Scene(
            ask_target(prompt.query, context, target, self._preset),
            target,
            renderer,
            ImageStore(self._policy.vlm, renderer, prompt.frames),
            scene_truth(masks),
        )


def random_window(rng: np.random.Generator, length: int, inside: int, least: float, most: float) -> Interval:
    """A random window around a frame, a share `least`..`most` of the video long (§7)."""
    size = max(1, round(float(rng.uniform(least, most)) * length))
    first = int(rng.integers(max(0, inside - size + 1), min(inside, length - size) + 1))
    return Interval(first, first + size - 1)


def _stop_reason(text: str, stopped: bool) -> StopReason:
    try:
        answer_items(text)
    except ReplyError:
        return StopReason.INVALID_REPLY if stopped else StopReason.LENGTH
    return StopReason.ANSWER


def open_r1(config: GrpoConfig, run: Run) -> Parts:
    """What the trainer needs to train the reasoner `config.init`; nothing else learns (§1)."""
    folder = resolve(config.init)
    device = run.accelerator.device
    vlm, text = load_reasoner(
        folder, name=config.init, dtype=config.frozen_dtype, hashes=known_hashes(config.init)
    )
    policy = R1Policy(vlm, text)
    make_fast(cast(Any, policy), device.type == "cpu", config.gradient_checkpointing)
    choose_trained(cast(Any, policy), config)
    policy.to(device)
    preset = r1_preset(text.config).override(**config.preset)
    length, ratings = _length_of(config.length)
    sampled, greedy = (
        R1Task(policy, preset, sampling, max_rows=config.max_rows, length=length, difficulty=ratings)
        for sampling in (config.sampling, Sampling(0.0))
    )
    return Parts(
        policy,
        vlm,
        policy.seg_id,
        policy.end_id,
        sampled,
        greedy,
        reference_of(vlm, config),
        text.source,
        partial(_save, run, policy, config, folder),
    )


def _length_of(values: Mapping[str, Any]) -> tuple[LengthControl | None, dict[str, float]]:
    """Fields of `LengthControl`, and `ratings`, the file of `difficulty.rate`; nothing: no length term."""
    if not values:
        return None, {}
    own = {name: value for name, value in values.items() if name != "ratings"}
    ratings = read_ratings(values["ratings"]) if "ratings" in values else {}
    return build_settings(LengthControl, own, "length"), ratings


def _save(run: Run, policy: R1Policy, config: GrpoConfig, source: Path, folder: Path) -> Path:
    """Write the reasoner, adapters merged, and beside it the SAM2 that came with it."""
    state = run.accelerator.get_state_dict(run.module)
    if run.is_main:
        own = {n.removeprefix("vlm.model."): t for n, t in state.items() if n.startswith("vlm.model.")}
        save_reasoner(policy.vlm, policy.text, folder, merged_state(own, config.lora))
        if (source / SAM2_FILE).exists():
            shutil.copyfile(source / SAM2_FILE, folder / SAM2_FILE)
    run.accelerator.wait_for_everyone()
    return folder
