"""Rollouts of stage III: whole dialogues sampled by the policy, text only (O3 spec §12; R1, R7, R40).

What was sampled stays as ids and is never tokenised again; masks come later, from the one teacher-forced
pass (design contract 4). Who makes the text is exchangeable: our own model with its cache, or an engine
outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from videoseg.dialogue.episode import Episode, Observation
from videoseg.dialogue.pixels import resize
from videoseg.dialogue.preset import Preset
from videoseg.dialogue.render import Chunk
from videoseg.errors import RenderError
from videoseg.models.o3 import O3Model
from videoseg.models.session import RandomSampler, Sampler, greedy
from videoseg.systems.images import ImageStore
from videoseg.systems.player import Player, View
from videoseg.training.prompts import Prompt
from videoseg.types import StopReason


@dataclass(frozen=True, slots=True)
class RolloutTurn:
    """One turn: what was shown, the sampled ids (stop token included if sampled), and their text.

    `truncated`: the token limit cut it; `keyframe` is the frame on which the turn's mask is judged (§8.1).
    """

    observation: Observation
    ids: tuple[int, ...]
    text: str
    truncated: bool
    keyframe: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """A finished dialogue about the prompt `prompt` (its key); rollouts of one `group` answer one prompt.

    `high_frames` are the high-resolution frames of turn 0. Plain data: it can be pickled and sent around.
    """

    prompt: str
    group: int
    turns: tuple[RolloutTurn, ...]
    stop: StopReason
    high_frames: tuple[int, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The replies."""
        return tuple(turn.text for turn in self.turns)

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of all turns: those the loss is about."""
        return sum(len(turn.ids) for turn in self.turns)

    def exchanges(self) -> list[tuple[Observation, tuple[int, ...]]]:
        """What `Renderer.dialogue` takes."""
        return [(turn.observation, turn.ids) for turn in self.turns]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn (§12.2); temperature 0 is greedy, `top_k` 0 and `top_p` 1 cut nothing."""

    temperature: float = 0.9
    top_p: float = 0.9
    top_k: int = 50

    def sampler(self, seed: int) -> Sampler:
        """A sampler with its own random numbers."""
        if self.temperature == 0:
            return greedy
        return RandomSampler(self.temperature, self.top_p, self.top_k, seed)


@dataclass(frozen=True, slots=True)
class Said:
    """The replies of one dialogue: ids as sampled, and whether each ended by itself."""

    ids: list[list[int]]
    stopped: list[bool]


class Generator(Protocol):
    """Plays episodes to their end."""

    def play(self, episodes: Sequence[Episode], views: Sequence[View], seed: int) -> list[Said]:
        """Step every episode until it stops; the replies in the order of the episodes."""
        ...


class CachedGenerator:
    """Our own model: one cache over all turns, first observations encoded once per group.

    At most `max_rows` dialogues run at a time; equal ones should be neighbours.
    """

    def __init__(self, model: O3Model, preset: Preset, sampling: Sampling, max_rows: int = 64) -> None:
        self._model = model
        self._preset = preset
        self._sampling = sampling
        self._max_rows = max_rows

    def play(self, episodes: Sequence[Episode], views: Sequence[View], seed: int) -> list[Said]:
        """Sample with random numbers that depend on `seed` alone."""
        done: list[Said] = []
        for start in range(0, len(episodes), self._max_rows):
            some = slice(start, start + self._max_rows)
            sampler = self._sampling.sampler(seed + start)
            player = Player(self._model, self._preset, sampler, read_again=False)
            for dialogue in player.play(episodes[some], views[some]):
                replies = dialogue.replies
                done.append(Said([reply.ids for reply in replies], [reply.stopped for reply in replies]))
        return done


@dataclass(frozen=True, eq=False, slots=True)
class EngineRequest:
    """A prompt for an engine: ids with one `<|image_pad|>` per image, and the images as shown, `uint8`."""

    ids: list[int]
    images: list[NDArray[np.uint8]]


class Engine(Protocol):
    """An external text engine (vLLM, SGLang) in a process of its own: tokens in, tokens out."""

    def generate(
        self, requests: Sequence[EngineRequest], sampling: Sampling, max_tokens: int, seed: int
    ) -> Sequence[tuple[Sequence[int], bool]]:
        """Per request the sampled ids (stop token included) and whether a stop token ended them."""
        ...

    def update(self, model: O3Model) -> None:
        """Take over the policy's weights; called before the rollouts of every step."""
        ...


class EngineGenerator:
    """Plays with an engine outside; its own prefix cache may save what ours does."""

    def __init__(self, engine: Engine, model: O3Model, preset: Preset, sampling: Sampling) -> None:
        self._engine = engine
        self._model = model
        self._preset = preset
        self._sampling = sampling

    def play(self, episodes: Sequence[Episode], views: Sequence[View], seed: int) -> list[Said]:
        """Turn by turn; the whole dialogue so far is sent, as sampled."""
        self._engine.update(self._model)
        history: list[list[tuple[Observation, Sequence[int]]]] = [[] for _ in episodes]
        said = [Said([], []) for _ in episodes]
        turn = 0
        while active := [row for row, episode in enumerate(episodes) if episode.observation is not None]:
            requests = [_request(history[row], episodes[row], views[row]) for row in active]
            limit = self._preset.budget.max_new_tokens
            replies = self._engine.generate(requests, self._sampling, limit, seed + turn)
            for row, (ids, stopped) in zip(active, replies, strict=True):
                episode, renderer = episodes[row], views[row].renderer
                if bad := set(ids) & set(renderer.forbidden_ids):
                    raise RenderError(f"the engine sampled the reserved tokens {sorted(bad)}; suppress them")
                if episode.observation is not None:
                    history[row].append((episode.observation, ids))
                said[row].ids.append(list(ids))
                said[row].stopped.append(stopped)
                episode.step(renderer.history_text(ids), truncated=not stopped)
            turn += 1
        return said


def _request(
    history: Sequence[tuple[Observation, Sequence[int]]], episode: Episode, view: View
) -> EngineRequest:
    if episode.observation is None:
        raise RuntimeError("a stopped episode asks for nothing")
    chunk: Chunk = view.renderer.dialogue([*history, (episode.observation, ())])
    image = chunk.ids == view.renderer.image_id
    first = image & ~np.concatenate([[False], image[:-1]])
    images = [resize(view.images.frames[ref.frame], ref.plan) for ref in chunk.images]
    return EngineRequest(chunk.ids[~image | first].tolist(), images)


def view_of(prompt: Prompt, model: O3Model, preset: Preset) -> View:
    """The prompt's video as dialogues see it; image features are kept for as long as the view."""
    renderer = model.text.renderer(prompt.frame_size, preset)
    return View(renderer, ImageStore(model.vlm, renderer, prompt.frames))


def roll_out(
    generator: Generator,
    prompts: Sequence[Prompt],
    views: Sequence[View],
    preset: Preset,
    copies: int,
    seed: int,
    first_group: int = 0,
) -> list[Rollout]:
    """`copies` dialogues per prompt, those of a prompt in a row; prompt i is group `first_group` + i."""
    episodes = [Episode(p.num_frames, p.query, preset) for p in prompts for _ in range(copies)]
    said = generator.play(episodes, [view for view in views for _ in range(copies)], seed)
    return [
        replay(said[i], prompts[i // copies], views[i // copies], preset, first_group + i // copies)
        for i in range(len(said))
    ]


def replay(said: Said, prompt: Prompt, view: View, preset: Preset, group: int) -> Rollout:
    """The rollout that replies make on a prompt, observations included; RenderError if they do not fit."""
    episode = Episode(prompt.num_frames, prompt.query, preset)
    turns: list[tuple[Observation, tuple[int, ...], str, bool]] = []
    for ids, stopped in zip(said.ids, said.stopped, strict=True):
        if episode.observation is None:
            raise RenderError(
                f"{prompt.key}: {len(said.ids)} replies, but the dialogue ends after {len(turns)}"
            )
        observation, text = episode.observation, view.renderer.history_text(ids)
        turns.append((observation, tuple(ids), text, not stopped))
        episode.step(text, truncated=not stopped)
    if episode.stop is None:
        raise RenderError(f"{prompt.key}: the dialogue goes on after its {len(turns)} replies")
    keyframes = episode.pending_keyframes()
    made = tuple(RolloutTurn(*turn, keyframe) for turn, keyframe in zip(turns, keyframes, strict=True))
    return Rollout(prompt.key, group, made, episode.stop, episode.high_frames)
