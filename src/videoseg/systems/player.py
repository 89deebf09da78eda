"""Episodes played by a model: observations in, replies out, one cache for the whole dialogue.

Several dialogues are the rows of one session, whether they ask about one video or about several. Equal
first observations are encoded once and forked, as is the common beginning of different ones on one video
(`stack.md` §2.2, point 5). Masks are not made here: a dialogue never depends on them (design contract 4).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from videoseg.dialogue.episode import Episode, Observation
from videoseg.dialogue.grammar import SEG_TOKEN, think_steps
from videoseg.dialogue.preset import Preset, SegRule
from videoseg.dialogue.render import Chunk, Renderer
from videoseg.dialogue.seg import last_seg
from videoseg.models.o3 import O3Model
from videoseg.models.session import Generated, RowInput, Sampler, Session, greedy
from videoseg.systems.images import ImageStore
from videoseg.types import Turn

Notify = Callable[[int, Turn], None]


@dataclass(frozen=True, eq=False, slots=True)
class Reread:
    """Turns 0 to `turns` - 1 were encoded again from their text; `seg` is the last [SEG] found there."""

    turns: int
    seg: tuple[int, Tensor] | None


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """One video as dialogues see it: how it is rendered, and the features of its images."""

    renderer: Renderer
    images: ImageStore


@dataclass(eq=False, slots=True)
class Dialogue:
    """One query's episode while and after it is played; `replies` and `turns` run in step."""

    episode: Episode
    view: View
    observations: list[Observation] = field(default_factory=list)
    replies: list[Generated] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    reread: Reread | None = None

    def seg_state(self, seg_id: int, rule: SegRule) -> tuple[int, Tensor] | None:
        """Turn and pre-norm state `[D]` of the [SEG] that counts, or None (O3 specification §8.1).

        With the rule `anywhere` an earlier turn's [SEG] is that of the prompt as last encoded, as released;
        with `assistant` it is the sampled one.
        """
        position = last_seg([reply.ids for reply in self.replies], seg_id, rule)
        if rule == "anywhere" and self.reread and (position is None or position.turn < self.reread.turns):
            return self.reread.seg
        if position is None:
            return None
        return position.turn, self.replies[position.turn].states[position.offset]


class Player:
    """Plays dialogues with one model.

    With `read_again` a reply that would be tokenised otherwise when read as text makes the dialogues be
    encoded again from their text (specification §9); without it, as in rollouts, what was sampled stays.
    """

    def __init__(
        self,
        model: O3Model,
        preset: Preset,
        sampler: Sampler = greedy,
        notify: Notify | None = None,
        *,
        read_again: bool = True,
    ) -> None:
        self._model = model
        self._preset = preset
        self._sampler = sampler
        self._notify = notify
        self._read_again = read_again

    def play(self, episodes: Sequence[Episode], views: Sequence[View]) -> list[Dialogue]:
        """Play all episodes, each on its view, to their end; rows leave the session as dialogues stop."""
        dialogues = [Dialogue(episode, view) for episode, view in zip(episodes, views, strict=True)]
        active = list(range(len(dialogues)))
        session: Session | None = None
        while active:
            started = time.perf_counter()
            current = [dialogues[row] for row in active]
            session = self._observe(session, current)
            replies = session.generate(
                self._sampler,
                self._model.stop_ids,
                self._preset.budget.max_new_tokens,
                forbidden=current[0].view.renderer.forbidden_ids,
            )
            for row, dialogue, reply in zip(active, current, replies, strict=True):
                self._take(row, dialogue, reply, started)
            self._give_last_states(session, current)
            going = [i for i, dialogue in enumerate(current) if dialogue.episode.stop is None]
            active = [active[i] for i in going]
            if active and len(going) < len(current):
                session.keep(going)
        return dialogues

    def _observe(self, session: Session | None, dialogues: Sequence[Dialogue]) -> Session:
        observations = [_pending(dialogue.episode) for dialogue in dialogues]
        for dialogue, observation in zip(dialogues, observations, strict=True):
            dialogue.observations.append(observation)
        if session is None:
            return self._start([_first(dialogue) for dialogue in dialogues], dialogues)[0]
        if not self._read_again or all(d.view.renderer.retokenises(d.replies[-1].ids) for d in dialogues):
            session.extend([_input(self._later(dialogue), dialogue) for dialogue in dialogues])
            return session
        chunks = [_encode_again(dialogue) for dialogue in dialogues]
        session, states = self._start(chunks, dialogues)
        for dialogue, chunk, read in zip(dialogues, chunks, states, strict=True):
            dialogue.reread = Reread(len(dialogue.replies), self._seg_in(dialogue, chunk, read))
        return session

    def _later(self, dialogue: Dialogue) -> Chunk:
        closed = dialogue.replies[-1].ids[-1] == self._model.end_id
        return dialogue.view.renderer.later(dialogue.observations[-1], closed=closed)

    def _seg_in(
        self, dialogue: Dialogue, chunk: Chunk, states: Sequence[Tensor]
    ) -> tuple[int, Tensor] | None:
        """Turn and state of the last [SEG] of a prompt that was encoded again; `states` come in pieces."""
        places = np.flatnonzero(chunk.ids == self._model.seg_id)
        if len(places) == 0:
            return None
        holding = [i for i, turn in enumerate(dialogue.turns) if SEG_TOKEN in turn.text]
        return holding[-1], torch.cat(list(states))[int(places[-1])]

    def _start(
        self, chunks: Sequence[Chunk], dialogues: Sequence[Dialogue]
    ) -> tuple[Session, list[list[Tensor]]]:
        """A session whose rows have read their chunks, and the states of these in pieces `[n, D]`.

        Equal chunks on one view are encoded once, and so is what the others have in common.
        """
        firsts, copies = _distinct(chunks, dialogues)
        unique = [(chunks[row], dialogues[row]) for row in firsts]
        common = self._common_prefix(unique)
        session = Session(self._model.vlm, 1 if common else len(unique))
        begun: list[Tensor] = []
        if common:
            begun = session.extend([_input(*unique[0], 0, common)])
            session.fork(len(unique))
        rest = session.extend([_input(chunk, dialogue, common) for chunk, dialogue in unique])
        if len(unique) < len(chunks):
            session.keep(copies)
        return session, [[*begun, rest[number]] for number in copies]

    def _common_prefix(self, unique: Sequence[tuple[Chunk, Dialogue]]) -> int:
        """Number of leading tokens that all chunks share; 0 where their images differ or there is one."""
        first, view = unique[0][0], unique[0][1].view
        keys = [[image.key for image in chunk.images] for chunk, _ in unique]
        same_images = all(d.view is view and key == keys[0] for key, (_, d) in zip(keys, unique, strict=True))
        if len(unique) == 1 or not same_images:
            return 0
        chunks = [chunk for chunk, _ in unique]
        length = min(len(chunk.ids) for chunk in chunks)
        same = np.logical_and.reduce([chunk.ids[:length] == first.ids[:length] for chunk in chunks])
        common = length if same.all() else int(np.argmin(same))
        # All image tokens lie in the common part, because the question follows the images.
        image_id = self._model.vlm.config.image_token_id
        return common if all((chunk.ids[common:] != image_id).all() for chunk in chunks) else 0

    def _take(self, row: int, dialogue: Dialogue, reply: Generated, started: float) -> None:
        """Record a reply and let the episode decide how to go on."""
        observation, renderer = dialogue.observations[-1], dialogue.view.renderer
        dialogue.replies.append(reply)
        text = renderer.history_text(reply.ids)
        dialogue.episode.step(text, truncated=not reply.stopped)
        played = dialogue.episode.turns[-1]
        turn = Turn(
            index=len(dialogue.turns),
            shown=renderer.shown(observation),
            text=text,
            reply=played.reply,
            error=played.error,
            steps=think_steps(played.reply.think) if played.reply else (),
            num_tokens=len(reply.ids),
            seconds=time.perf_counter() - started,
        )
        dialogue.turns.append(turn)
        if self._notify:
            self._notify(row, turn)

    def _give_last_states(self, session: Session, dialogues: Sequence[Dialogue]) -> None:
        """Feed a [SEG] that ends a reply: only then it has a state (O3 specification §6)."""
        if any(dialogue.replies[-1].ids[-1] == self._model.seg_id for dialogue in dialogues):
            session.flush()


def _first(dialogue: Dialogue) -> Chunk:
    return dialogue.view.renderer.first(dialogue.observations[0])


def _encode_again(dialogue: Dialogue) -> Chunk:
    """The whole dialogue from its text, where the text does not give the sampled ids back."""
    replies = [reply.ids for reply in dialogue.replies]
    history = list(zip(dialogue.observations[:-1], replies, strict=True))
    return dialogue.view.renderer.prompt(history, dialogue.observations[-1])


def _input(chunk: Chunk, dialogue: Dialogue, start: int = 0, end: int | None = None) -> RowInput:
    """Tokens `start` to `end` of a chunk; its images belong to the first part, which holds them all."""
    images = dialogue.view.images.features(chunk.images) if start == 0 else []
    return RowInput(chunk.ids[start:end].tolist(), images)


def _distinct(chunks: Sequence[Chunk], dialogues: Sequence[Dialogue]) -> tuple[list[int], list[int]]:
    """Rows of the different chunks, and for every row the number of its own among these."""
    known: dict[tuple[int, bytes], int] = {}
    firsts: list[int] = []
    copies = []
    for row, (chunk, dialogue) in enumerate(zip(chunks, dialogues, strict=True)):
        key = (id(dialogue.view), chunk.ids.tobytes())
        if key not in known:
            known[key] = len(firsts)
            firsts.append(row)
        copies.append(known[key])
    return firsts, copies


def _pending(episode: Episode) -> Observation:
    if episode.observation is None:
        raise ValueError(f"the episode has stopped ({episode.stop}); it cannot be played")
    return episode.observation
