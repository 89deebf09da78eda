"""A three-turn dialogue with one cache, against encoding the whole dialogue again every turn.

The baseline is what the released inference does: each turn a fresh cache, all text and all images again;
within a turn both generate with a cache. Random weights, forced replies, the published frame budgets.
`--scale tiny` (float32, also checks that the logits agree) or `--scale 2b` (the shape of Qwen3-VL-2B in
bfloat16, about 5 GB). Vision features are kept by the cached side and encoded again by the baseline.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from common import record
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from videoseg.dialogue.episode import Episode, Observation
from videoseg.dialogue.preset import EVALUATION_BUDGET, Preset
from videoseg.dialogue.render import Chunk, Renderer
from videoseg.models.session import RowInput, Session
from videoseg.models.tiny import build_tokenizer, initialise_vlm, vlm_config
from videoseg.models.vlm import VLM
from videoseg.systems.images import ImageStore

SHAPES = {
    # width, layers, heads, key-value heads, head width, MLP; vision width, depth, heads, MLP, deepstack
    "tiny": ((192, 4, 4, 2, 48, 512), (128, 4, 4, 384, [1, 2])),
    "2b": ((2048, 28, 16, 8, 128, 6144), (1024, 24, 16, 4096, [5, 11, 17])),
}
VOCABULARY = {"tiny": None, "2b": 151_674}
TEXTS = ["the red disc that leaves first", "<think>Step 1: it moves.</think>", "frames 0 1 2 3 4 5 6 7 8 9"]
REPLY = (
    '<think>Step 1: it moves. Step 2: red. Step 3: the disc.</think><select><VTG>{{"start": {}, "end": {}, '
    '"keyframe": {}}}</VTG><RefSeg>[SEG]</RefSeg></select>'
)
STEPS = [(10, 40, 25), (15, 35, 20), (16, 30, 22)]


class Setting:
    """A model of one scale and a scripted dialogue on a random video."""

    def __init__(self, scale: str, new_tokens: int) -> None:
        self.tokenizer = build_tokenizer(TEXTS)
        self.vlm = _random_vlm(scale, self.tokenizer)
        self.frames = np.random.default_rng(0).integers(0, 255, (60, 480, 854, 3), dtype=np.uint8)
        self.preset = Preset(budget=EVALUATION_BUDGET)
        geometry = _geometry()
        self.renderer = Renderer(self.tokenizer, geometry, self.preset, self.frames.shape[1:3])
        end = self.renderer.end_id
        replies = [self.renderer.encode_reply(REPLY.format(*step)) for step in STEPS]
        self.observations = self._observations()
        filler = self.tokenizer.encode("disc", add_special_tokens=False)
        self.replies = [[*(ids[:-1] + filler * new_tokens)[: new_tokens - 1], end] for ids in replies]

    def _observations(self) -> list[Observation]:
        episode = Episode(len(self.frames), "the red disc", self.preset)
        observations = [episode.observation]
        for step in STEPS[:-1]:
            observations.append(episode.step(REPLY.format(*step)))
        return [o for o in observations if isinstance(o, Observation)]

    def store(self) -> ImageStore:
        return ImageStore(self.vlm, self.renderer, self.frames)

    def reply(self, session: Session, turn: int) -> torch.Tensor:
        """Generate the scripted reply; returns the logits of its first token."""
        first = session.vlm.logits(session._last)[0].float()
        ids = self.replies[turn]
        session.generate(lambda _l, step: torch.tensor([ids[step]]), [self.renderer.end_id], len(ids))
        return first


@dataclass
class Played:
    """First logits and seconds of every turn."""

    logits: list[torch.Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def cached(setting: Setting) -> Played:
    """One session; every turn appends."""
    store, session = setting.store(), Session(setting.vlm)
    played = Played()
    for turn, observation in enumerate(setting.observations):
        started = time.perf_counter()
        later = setting.renderer.later(observation, closed=True) if turn else None
        chunk = later or setting.renderer.first(observation)
        session.extend([RowInput(chunk.ids.tolist(), store.features(chunk.images))])
        played.logits.append(setting.reply(session, turn))
        played.seconds.append(time.perf_counter() - started)
    return played


def again(setting: Setting) -> Played:
    """A fresh session and fresh image features every turn."""
    played = Played()
    for turn in range(len(setting.observations)):
        started = time.perf_counter()
        chunk = _whole(setting, turn)
        session = Session(setting.vlm)
        session.extend([RowInput(chunk.ids.tolist(), setting.store().features(chunk.images))])
        played.logits.append(setting.reply(session, turn))
        played.seconds.append(time.perf_counter() - started)
    return played


def warm_up(setting: Setting) -> None:
    """Touch every weight once: the first pass of a fresh model is slower than all others."""
    chunk = setting.renderer.first(setting.observations[0])
    setting.store().features(chunk.images[:1])
    session = Session(setting.vlm)
    session.extend([RowInput(setting.tokenizer.encode("the red disc", add_special_tokens=False))])
    setting.reply(session, 0)


def _whole(setting: Setting, turn: int) -> Chunk:
    past = list(zip(setting.observations[:turn], setting.replies[:turn], strict=True))
    return setting.renderer.dialogue([*past, (setting.observations[turn], ())])


def _geometry() -> object:
    from videoseg.dialogue.budget import ImageGeometry

    return ImageGeometry(patch=16, merge=2)


def _random_vlm(scale: str, tokenizer: object) -> VLM:
    (width, layers, heads, kv, head, mlp), (vision, depth, vision_heads, vision_mlp, deep) = SHAPES[scale]
    config: Qwen3VLConfig = vlm_config(tokenizer)
    text, tower = config.text_config, config.vision_config
    text.hidden_size, text.num_hidden_layers, text.num_attention_heads = width, layers, heads
    text.num_key_value_heads, text.head_dim, text.intermediate_size = kv, head, mlp
    text.vocab_size = VOCABULARY[scale] or text.vocab_size
    third = head // 6
    text.rope_parameters["mrope_section"] = [head // 2 - 2 * third, third, third]
    tower.hidden_size, tower.depth, tower.num_heads, tower.intermediate_size = (
        vision,
        depth,
        vision_heads,
        vision_mlp,
    )
    tower.deepstack_visual_indexes, tower.out_hidden_size = deep, width
    torch.manual_seed(0)
    dtype = torch.float32 if scale == "tiny" else torch.bfloat16
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=dtype)
    if scale == "tiny":
        initialise_vlm(model)
    return VLM(model.eval())


def main() -> None:
    """Measure and store the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", choices=list(SHAPES), default="tiny")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=60)
    options = parser.parse_args()
    setting = Setting(options.scale, options.new_tokens)
    runs: dict[str, list[Played]] = {"ours": [], "baseline": []}
    with torch.no_grad():
        warm_up(setting)
        for _ in range(options.runs):
            for side, play in (("ours", cached), ("baseline", again)):
                runs[side].append(play(setting))
    total = {side: [sum(run.seconds) for run in played] for side, played in runs.items()}
    later = {side: [sum(run.seconds[1:]) for run in played] for side, played in runs.items()}
    pairs = list(zip(runs["ours"][-1].logits, runs["baseline"][-1].logits, strict=True))
    prompts = [len(_whole(setting, turn).ids) for turn in range(len(setting.observations))]
    record(
        f"cache_{options.scale}",
        total["ours"],
        total["baseline"],
        "seconds per three-turn dialogue",
        speedup=round(np.median(total["baseline"]) / np.median(total["ours"]), 3),
        speedup_of_later_turns=round(np.median(later["baseline"]) / np.median(later["ours"]), 3),
        seconds_per_turn={side: [round(s, 2) for s in played[-1].seconds] for side, played in runs.items()},
        largest_logit_difference=max(float((a - b).abs().max()) for a, b in pairs),
        largest_logit=max(float(b.abs().max()) for _, b in pairs),
        prompt_tokens_per_turn=prompts,
        new_tokens_per_turn=options.new_tokens,
        parameters=sum(p.numel() for p in setting.vlm.parameters()),
        dtype=str(setting.vlm.model.dtype).removeprefix("torch."),
        peak_memory_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    )


if __name__ == "__main__":
    main()
