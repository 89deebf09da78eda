"""Rollouts: what was sampled is kept, groups share their beginning, engines outside can make the text."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from builders import script
from grpo_builders import SMALL_BUDGET, reply, uneven
from videoseg.data.world.sampler import WorldSpec
from videoseg.dialogue.preset import Preset
from videoseg.errors import RenderError
from videoseg.models.o3 import O3Model
from videoseg.models.session import RowInput, Session, greedy
from videoseg.systems.player import Player
from videoseg.training.collate import join_rows
from videoseg.training.journal import RolloutJournal
from videoseg.training.policy import Policy
from videoseg.training.prompts import Prompt, WorldPrompts
from videoseg.training.rollout import (
    CachedGenerator,
    EngineGenerator,
    EngineRequest,
    Rollout,
    Said,
    Sampling,
    replay,
    roll_out,
    view_of,
)
from videoseg.training.task import O3Task
from videoseg.types import StopReason

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    source = WorldPrompts(7, WorldSpec(families={"appearance": 1.0}))
    return [source[0], source[1]]


@pytest.fixture
def preset(small_model: O3Model) -> Preset:
    return small_model.text.preset.override(**SMALL_BUDGET)


class ScriptedPlayer(CachedGenerator):
    """The real generator, its sampler replaced by a script of replies."""

    def __init__(self, model: O3Model, preset: Preset, replies: Sequence[Sequence[str]]) -> None:
        super().__init__(model, preset, GREEDY)
        self.model, self.preset, self.replies = model, preset, replies

    def play(self, episodes, views, seed):  # type: ignore[no-untyped-def]
        player = Player(self.model, self.preset, script(self.model, self.replies), read_again=False)
        played = player.play(episodes, views)
        return [Said([r.ids for r in one.replies], [r.stopped for r in one.replies]) for one in played]


def played(model: O3Model, preset: Preset, prompts: list[Prompt]) -> list[Rollout]:
    """Three dialogues of 1, 2 and 3 turns per prompt."""
    long = preset.override(max_new_tokens=200)
    generator = ScriptedPlayer(model, long, [uneven(number % 3) for number in range(6)])
    views = [view_of(prompt, model, long) for prompt in prompts]
    with torch.no_grad():
        return roll_out(generator, prompts, views, long, 3, seed=0)


def test_ragged_groups_of_several_videos(small_model: O3Model, preset: Preset, prompts: list[Prompt]) -> None:
    rollouts = played(small_model, preset, prompts)
    assert [len(rollout.turns) for rollout in rollouts] == [1, 2, 3, 1, 2, 3]
    assert [rollout.group for rollout in rollouts] == [0, 0, 0, 1, 1, 1]
    assert [rollout.prompt for rollout in rollouts[::3]] == [prompt.key for prompt in prompts]
    assert all(rollout.stop is StopReason.ANSWER for rollout in rollouts)
    assert rollouts[2].texts == tuple(uneven(2))
    middle = prompts[0].num_frames // 2
    assert [turn.keyframe for turn in rollouts[2].turns] == [middle, 6, 6]
    assert pickle.loads(pickle.dumps(rollouts[2])) == rollouts[2]


def test_a_group_reads_its_first_observation_once(
    small_model: O3Model, preset: Preset, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    extend = Session.extend

    def counting(self: Session, inputs: Sequence[RowInput]) -> list[torch.Tensor]:
        fed.append(len(inputs))
        return extend(self, inputs)

    monkeypatch.setattr(Session, "extend", counting)
    played(small_model, preset, prompts)
    assert fed == [2, 4, 2], "two prompts at first, then the dialogues that go on"


def test_greedy_rollouts_agree_with_the_teacher_forced_pass(
    small_model: O3Model, preset: Preset, prompts: list[Prompt]
) -> None:
    """The cached dialogue and the one pass of training see the same: every sampled token is the likeliest."""
    generator = CachedGenerator(small_model, preset, GREEDY)
    task = O3Task(small_model, preset, generator)
    rollouts = task.rollouts(prompts, 1, 0)
    batch = join_rows([task.row(r, p) for r, p in zip(rollouts, prompts, strict=True)], small_model.end_id)
    with torch.no_grad():
        output = Policy(small_model).teacher(batch)
        logits = small_model.vlm.logits(output.hidden).float()
    renderer = view_of(prompts[0], small_model, preset).renderer
    logits[:, list(renderer.forbidden_ids)] = -torch.inf
    sampled = batch.ids[output.rows, output.columns]
    assert sampled.tolist() == [i for rollout in rollouts for turn in rollout.turns for i in turn.ids]
    chosen = logits.gather(1, sampled[:, None])[:, 0]
    torch.testing.assert_close(chosen, logits.max(1).values, rtol=0, atol=1e-4)


def test_ids_that_no_text_gives_stay_as_sampled(
    small_model: O3Model, preset: Preset, prompts: list[Prompt]
) -> None:
    view = view_of(prompts[0], small_model, preset)
    ids = view.renderer.encode_reply(reply("select", 0, 9, 4))
    place = next(i for i, token in enumerate(ids) if len(view.renderer.tokenizer.decode([token])) > 1)
    spelled = [
        view.renderer.tokenizer.encode(letter, add_special_tokens=False)[0]
        for letter in view.renderer.tokenizer.decode([ids[place + 1]])
    ]
    odd = [*ids[: place + 1], *spelled, *ids[place + 2 :]]
    answer = view.renderer.encode_reply(reply("answer", 0, 9, 4))
    rollout = replay(Said([odd, answer], [True, True]), prompts[0], view, preset, 0)
    assert rollout.turns[0].ids == tuple(odd)
    chunk = view.renderer.dialogue(rollout.exchanges())
    assert chunk.ids[chunk.loss_mask].tolist() == [*odd, *answer]


class Double:
    """An engine in the same process, greedy, without any cache between turns."""

    def __init__(self, model: O3Model, prompts: list[Prompt], preset: Preset) -> None:
        self.model, self.updates = model, 0
        self.forbidden = view_of(prompts[0], model, preset).renderer.forbidden_ids
        self.requests: list[EngineRequest] = []

    def update(self, model: O3Model) -> None:
        self.updates += 1

    def generate(self, requests, sampling, max_tokens, seed):  # type: ignore[no-untyped-def]
        self.requests += requests
        return [self._one(request, max_tokens) for request in requests]

    def _one(self, request: EngineRequest, max_tokens: int) -> tuple[list[int], bool]:
        from videoseg.dialogue.pixels import patchify

        geometry, vlm = self.model.text.geometry, self.model.vlm
        patches = [torch.from_numpy(patchify(image, geometry)) for image in request.images]
        grids = [(i.shape[0] // geometry.patch, i.shape[1] // geometry.patch) for i in request.images]
        with torch.no_grad():
            features = vlm.encode_images(patches, grids)
            counts = iter(len(one.tokens) for one in features)
            image = vlm.config.image_token_id
            ids = [t for token in request.ids for t in [token] * (next(counts) if token == image else 1)]
            session = Session(vlm)
            session.extend([RowInput(ids, features)])
            done = session.generate(greedy, self.model.stop_ids, max_tokens, self.forbidden)[0]
        return done.ids, done.stopped


def test_an_engine_outside_says_the_same(small_model: O3Model, preset: Preset, prompts: list[Prompt]) -> None:
    engine = Double(small_model, prompts, preset)
    views = [view_of(prompt, small_model, preset) for prompt in prompts]
    theirs = roll_out(EngineGenerator(engine, small_model, preset, GREEDY), prompts, views, preset, 2, seed=0)
    ours = roll_out(CachedGenerator(small_model, preset, GREEDY), prompts, views, preset, 2, seed=0)
    assert theirs == ours
    assert engine.updates == 1
    assert len(engine.requests[0].images) == 4
    assert engine.requests[0].images[0].dtype == np.uint8


def test_an_engine_may_not_sample_image_tokens(
    small_model: O3Model, preset: Preset, prompts: list[Prompt]
) -> None:
    engine = Double(small_model, prompts, preset)
    engine._one = lambda request, limit: ([small_model.vlm.config.image_token_id], False)  # type: ignore[method-assign]
    generator = EngineGenerator(engine, small_model, preset, GREEDY)
    with pytest.raises(RenderError, match="reserved tokens"):
        roll_out(generator, prompts, [view_of(p, small_model, preset) for p in prompts], preset, 1, seed=0)


def test_the_seed_decides(small_model: O3Model, preset: Preset, prompts: list[Prompt]) -> None:
    generator = CachedGenerator(small_model, preset, Sampling(1.0, 1.0, 0))
    task = O3Task(small_model, preset, generator)
    one, same, other = (task.rollouts(prompts, 2, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one[0].turns[0].ids != one[1].turns[0].ids, "rollouts of a group differ"


def test_the_journal_gives_rollouts_back(
    small_model: O3Model, preset: Preset, prompts: list[Prompt], tmp_path
) -> None:  # type: ignore[no-untyped-def]
    rollouts = played(small_model, preset, prompts)
    journal = RolloutJournal(tmp_path, 1, 2)
    assert journal.read(3, [rollout.prompt for rollout in rollouts]) is None
    journal.write(3, rollouts)
    said = journal.read(3, [rollout.prompt for rollout in rollouts])
    assert said is not None
    long = preset.override(max_new_tokens=200)
    task = O3Task(small_model, long, CachedGenerator(small_model, long, GREEDY))
    assert task.restored(said, prompts) == rollouts
    with pytest.raises(Exception, match="other prompts"):
        journal.read(3, ["x"] * len(rollouts))
