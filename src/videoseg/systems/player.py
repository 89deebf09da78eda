"""Episodes played by a model: observations in, replies out, one cache for the whole dialogue.

Several queries on one video are the rows of one session. What their first observations have in
common, above all the images, is encoded once and forked (`stack.md` §2.2, point 5).
Masks are not made here: a dialogue never depends on them (design contract 4).
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


@dataclass(eq=False, slots=True)
class Dialogue:
    """One query's episode while and after it is played; `replies` and `turns` run in step."""

    episode: Episode
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
    """Plays dialogues on one video with one model."""

    def __init__(
        self,
        model: O3Model,
        renderer: Renderer,
        images: ImageStore,
        preset: Preset,
        sampler: Sampler = greedy,
        notify: Notify | None = None,
    ) -> None:
        self._model = model
        self._renderer = renderer
        self._images = images
        self._preset = preset
        self._sampler = sampler
        self._notify = notify

    def play(self, episodes: Sequence[Episode]) -> list[Dialogue]:
        """Play all episodes to their end; rows leave the session as their dialogues stop."""
        dialogues = [Dialogue(episode) for episode in episodes]
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
                forbidden=self._renderer.forbidden_ids,
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
            return self._start([self._renderer.first(observation) for observation in observations])[0]
        if all(self._renderer.retokenises(dialogue.replies[-1].ids) for dialogue in dialogues):
            session.extend([self._input(self._later(dialogue)) for dialogue in dialogues])
            return session
        chunks = [self._encode_again(dialogue) for dialogue in dialogues]
        session, states = self._start(chunks)
        for dialogue, chunk, read in zip(dialogues, chunks, states, strict=True):
            dialogue.reread = Reread(len(dialogue.replies), self._seg_in(dialogue, chunk, read))
        return session

    def _later(self, dialogue: Dialogue) -> Chunk:
        closed = dialogue.replies[-1].ids[-1] == self._model.end_id
        return self._renderer.later(dialogue.observations[-1], closed=closed)

    def _encode_again(self, dialogue: Dialogue) -> Chunk:
        """The whole dialogue from its text, where the text does not give the sampled ids back."""
        replies = [reply.ids for reply in dialogue.replies]
        history = list(zip(dialogue.observations[:-1], replies, strict=True))
        return self._renderer.prompt(history, dialogue.observations[-1])

    def _seg_in(
        self, dialogue: Dialogue, chunk: Chunk, states: Sequence[Tensor]
    ) -> tuple[int, Tensor] | None:
        """Turn and state of the last [SEG] of a prompt that was encoded again; `states` come in pieces."""
        places = np.flatnonzero(chunk.ids == self._model.seg_id)
        if len(places) == 0:
            return None
        holding = [i for i, turn in enumerate(dialogue.turns) if SEG_TOKEN in turn.text]
        return holding[-1], torch.cat(list(states))[int(places[-1])]

    def _start(self, chunks: Sequence[Chunk]) -> tuple[Session, list[list[Tensor]]]:
        """A session whose rows have read their chunks, and the states of these in pieces `[n, D]`.

        The chunks' common beginning is encoded once.
        """
        common = self._common_prefix(chunks)
        session = Session(self._model.vlm, 1 if common else len(chunks))
        begun = []
        if common:
            begun = session.extend([self._input(chunks[0], 0, common)])
            session.fork(len(chunks))
        rest = session.extend([self._input(chunk, common) for chunk in chunks])
        return session, [[*begun, states] for states in rest]

    def _common_prefix(self, chunks: Sequence[Chunk]) -> int:
        """Number of leading tokens that all chunks share; 0 where their images differ or there is one."""
        first = chunks[0]
        keys = [[image.key for image in chunk.images] for chunk in chunks]
        if len(chunks) == 1 or any(other != keys[0] for other in keys):
            return 0
        length = min(len(chunk.ids) for chunk in chunks)
        same = np.logical_and.reduce([chunk.ids[:length] == first.ids[:length] for chunk in chunks])
        common = length if same.all() else int(np.argmin(same))
        # All image tokens lie in the common part, because the question follows the images.
        image_id = self._model.vlm.config.image_token_id
        return common if all((chunk.ids[common:] != image_id).all() for chunk in chunks) else 0

    def _input(self, chunk: Chunk, start: int = 0, end: int | None = None) -> RowInput:
        """Tokens `start` to `end` of a chunk; its images belong to the first part, which holds them all."""
        images = self._images.features(chunk.images) if start == 0 else []
        return RowInput(chunk.ids[start:end].tolist(), images)

    def _take(self, row: int, dialogue: Dialogue, reply: Generated, started: float) -> None:
        """Record a reply and let the episode decide how to go on."""
        observation = dialogue.observations[-1]
        dialogue.replies.append(reply)
        text = self._renderer.history_text(reply.ids)
        dialogue.episode.step(text, truncated=not reply.stopped)
        played = dialogue.episode.turns[-1]
        turn = Turn(
            index=len(dialogue.turns),
            shown=self._renderer.shown(observation),
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


def _pending(episode: Episode) -> Observation:
    if episode.observation is None:
        raise ValueError(f"the episode has stopped ({episode.stop}); it cannot be played")
    return episode.observation
