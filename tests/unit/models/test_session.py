"""The cache that goes on over turns equals a full re-encode (design contract 3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders import random_chunk, random_vlm
from videoseg.models.session import RandomSampler, RowInput, Session, greedy

STOP = 81


@pytest.fixture(scope="module")
def vlm():
    return random_vlm(seed=3)


def full_prenorm(vlm, ids, images):
    tensor = torch.tensor(ids)
    with torch.no_grad():
        return vlm(tensor[None], vlm.rope_positions(tensor, images)[:, None], images=images).prenorm[0]


def forced(replies):
    """A sampler that emits given ids per row, then the stop token."""

    def choose(logits, step):
        return torch.tensor([reply[step] if step < len(reply) else STOP for reply in replies])

    return choose


def test_three_ragged_turns_equal_a_full_pass(vlm):
    rng = np.random.default_rng(0)
    grids = [[(4, 6), (2, 2)], [(2, 4)], [(4, 4), (2, 2), (6, 4)]]
    session = Session(vlm, rows=3)
    ids = [[], [], []]
    images = [[], [], []]
    states = [[], [], []]
    for turn in range(3):
        chunks = [random_chunk(vlm, rng, grids[(row + turn) % 3], 3 + 2 * row) for row in range(3)]
        own = session.extend([RowInput(*chunk) for chunk in chunks])
        replies = [rng.integers(0, 80, 4 + 3 * row).tolist() for row in range(3)]
        generated = session.generate(forced(replies), [STOP], 40)
        session.flush()
        for row in range(3):
            assert generated[row].ids == [*replies[row], STOP]
            assert generated[row].stopped
            ids[row] += [*chunks[row][0], *generated[row].ids]
            images[row] += chunks[row][1]
            states[row] += [own[row], torch.stack(generated[row].states)]
    for row in range(3):
        expected = full_prenorm(vlm, ids[row], images[row])
        got = torch.cat(states[row])
        assert got.shape == expected.shape
        norm = vlm.model.model.language_model.norm
        difference = (vlm.logits(norm(got)) - vlm.logits(norm(expected))).abs().max()
        assert difference < 1e-4


def test_greedy_generation_equals_generation_without_a_cache(vlm):
    ids, images = random_chunk(vlm, np.random.default_rng(5), [(4, 4)], 6)
    session = Session(vlm)
    session.extend([RowInput(ids, images)])
    reply = session.generate(greedy, [STOP], 12, forbidden=(90,))[0]
    seen = list(ids)
    norm = vlm.model.model.language_model.norm
    for token in reply.ids:
        logits = vlm.logits(norm(full_prenorm(vlm, seen, images)[-1]))
        logits[90] = -torch.inf
        assert int(logits.argmax()) == token
        seen.append(token)


def test_the_last_token_gets_its_state_with_the_next_chunk_or_a_flush(vlm):
    ids, images = random_chunk(vlm, np.random.default_rng(6), [], 6)
    session = Session(vlm)
    session.extend([RowInput(ids, images)])
    reply = session.generate(forced([[5, 6]]), [STOP], 2)[0]
    assert reply.ids == [5, 6]
    assert not reply.stopped
    assert len(reply.states) == 1
    session.extend([RowInput([7, 8])])
    assert len(reply.states) == 2
    expected = full_prenorm(vlm, [*ids, 5, 6], images)[-1]
    torch.testing.assert_close(reply.states[1], expected, atol=1e-4, rtol=1e-4)


def test_forked_rows_equal_separate_ones(vlm):
    rng = np.random.default_rng(7)
    ids, images = random_chunk(vlm, rng, [(4, 4), (2, 2)], 5)
    tails = [rng.integers(0, 80, n).tolist() for n in (3, 6, 1)]
    session = Session(vlm)
    session.extend([RowInput(ids, images)])
    session.fork(3)
    got = session.extend([RowInput(tail) for tail in tails])
    for tail, states in zip(tails, got, strict=True):
        expected = full_prenorm(vlm, [*ids, *tail], images)[len(ids) :]
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)


def test_kept_rows_go_on_and_others_are_dropped(vlm):
    rng = np.random.default_rng(8)
    chunks = [random_chunk(vlm, rng, [(2, 2)], n) for n in (3, 5, 4)]
    session = Session(vlm, rows=3)
    session.extend([RowInput(*chunk) for chunk in chunks])
    session.keep([2, 0])
    assert session.rows == 2
    got = session.extend([RowInput([1, 2]), RowInput([3])])
    for chunk, tail, states in zip([chunks[2], chunks[0]], [[1, 2], [3]], got, strict=True):
        expected = full_prenorm(vlm, [*chunk[0], *tail], chunk[1])[len(chunk[0]) :]
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)


def test_a_session_with_an_open_reply_cannot_be_forked(vlm):
    session = Session(vlm)
    session.extend([RowInput([1, 2, 3])])
    session.generate(greedy, [STOP], 1)
    with pytest.raises(ValueError, match="open"):
        session.fork(2)


def test_sampling_is_reproducible_and_forbidden_tokens_never_come(vlm):
    def draw(seed):
        session = Session(vlm, rows=2)
        session.extend([RowInput([1, 2, 3]), RowInput([4, 5, 6])])
        return [r.ids for r in session.generate(RandomSampler(1.5, 1.0, 0, seed), [STOP], 30, range(20, 99))]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert all(token < 20 or token == 99 for row in draw(3) for token in row)


def test_top_k_of_one_is_greedy(vlm):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(RandomSampler(0.7, 1.0, 1)(logits, 0), greedy(logits, 0))
