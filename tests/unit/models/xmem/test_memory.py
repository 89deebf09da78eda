"""XMem's memories: what is read, what becomes a prototype, what is forgotten; and that they are bounded."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from videoseg.errors import UsageError
from videoseg.models.xmem.memory import MemoryOptions, XMemMemory, attention, similarity

SMALL = MemoryOptions(top_k=5, max_frames=4, min_frames=2, prototypes=3, max_long=10)
CELLS = (2, 3)


def frame(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Key, shrinkage and selection of a frame of 2 x 3 cells."""
    generator = torch.Generator().manual_seed(seed)
    key = torch.randn(4, *CELLS, generator=generator)
    shrinkage = 1 + torch.rand(1, *CELLS, generator=generator)
    return key, shrinkage, torch.rand(4, *CELLS, generator=generator)


def constants(*values: float) -> Tensor:
    """Values [N, 5, 2, 3] that are the same everywhere for an object."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 5, *CELLS).clone()


def random_values(seed: int, objects: int = 1) -> Tensor:
    return torch.randn(objects, 5, *CELLS, generator=torch.Generator().manual_seed(1000 + seed))


def test_similarity_is_the_weighted_distance() -> None:
    torch.manual_seed(0)
    keys, query, selection = torch.randn(4, 7), torch.randn(4, 3), torch.rand(4, 3)
    shrinkage = 1 + torch.rand(7)
    direct = -(selection[:, None] * (keys[:, :, None] - query[:, None]) ** 2).sum(0) * shrinkage[:, None] / 2
    torch.testing.assert_close(similarity(keys, shrinkage, query, selection), direct)


def test_attention_of_the_best() -> None:
    scores = torch.tensor([[1.0], [3.0], [2.0], [0.0]])
    expected = torch.tensor([0.0, math.e, 1.0, 0.0]) / (math.e + 1)
    torch.testing.assert_close(attention(scores, 2)[:, 0], expected)
    torch.testing.assert_close(attention(scores, 9), scores.softmax(0))


def test_reading_weighs_values_by_attention() -> None:
    memory = XMemMemory(MemoryOptions(top_k=None, long_term=False))
    tokens = [frame(seed) for seed in range(3)]
    values = [random_values(seed, 2) for seed in range(3)]
    for (key, shrinkage, selection), value in zip(tokens, values, strict=True):
        memory.add(key, shrinkage, selection, value)
    query, _, selection = frame(9)
    keys = torch.cat([key.flatten(1) for key, _, _ in tokens], 1)
    shrinkages = torch.cat([shrinkage.flatten() for _, shrinkage, _ in tokens])
    weights = similarity(keys, shrinkages, query.flatten(1), selection.flatten(1)).softmax(0)
    expected = torch.cat([value.flatten(2) for value in values], 2) @ weights
    torch.testing.assert_close(memory.read(query, selection).flatten(2), expected)


def test_it_is_bounded_for_ever() -> None:
    memory = XMemMemory(SMALL)
    for number in range(60):
        memory.add(*frame(number), random_values(number))
        memory.read(frame(500 + number)[0], frame(500 + number)[2])
        work, long = memory.tokens
        assert work < SMALL.max_frames * 6
        assert long <= SMALL.max_long
    assert memory.tokens[1] >= SMALL.max_long - SMALL.prototypes
    assert memory.work is not None
    assert 1 in memory.work.stamps
    assert 60 in memory.work.stamps


def test_the_most_used_become_prototypes_and_the_least_used_go() -> None:
    memory = XMemMemory(MemoryOptions(top_k=1, max_frames=4, min_frames=2, prototypes=1, max_long=2))
    far = 50.0
    for number in range(3):
        key = torch.full((4, *CELLS), far * number)
        key[:, 0, 0] += 10  # one cell of each frame that will be asked for
        memory.add(key, torch.ones(1, *CELLS), torch.ones(4, *CELLS), random_values(number))
        memory.read(key[:, :1, :1], torch.ones(4, 1, 1))
    memory.add(*frame(7), random_values(7))
    assert memory.long is not None
    assert memory.work is not None
    assert memory.work.stamps.unique().tolist() == [1, 4]
    assert memory.long.keys[:, 0].tolist() in ([far + 10] * 4, [2 * far + 10] * 4)
    for number in range(8, 10):
        memory.add(*frame(number), random_values(number))
    assert memory.tokens[1] == 2
    asked = memory.long.keys[:, 1, None, None]
    for _ in range(5):  # the second prototype is used, the first is not
        memory.read(asked, torch.ones(4, 1, 1))
    for number in range(10, 12):
        memory.add(*frame(number), random_values(number))
    assert torch.equal(memory.long.keys[:, 0], asked.flatten())
    assert memory.tokens[1] == 2


def test_prototypes_are_averages_of_what_they_stand_for() -> None:
    memory = XMemMemory(SMALL)
    for number in range(4):
        memory.add(*frame(number), constants(2.5))
    assert memory.long is not None
    torch.testing.assert_close(memory.long.values, torch.full_like(memory.long.values, 2.5))


def test_later_objects_read_their_own_frames_only_through_consolidation_and_forgetting() -> None:
    memory = XMemMemory(SMALL)
    for number in range(40):
        objects = 1 if number < 2 else 2 if number < 17 else 3
        memory.add(*frame(number), constants(*[1.0, 2.0, 3.0][:objects]))
        query, _, selection = frame(900 + number)
        answer = memory.read(query, selection)
        torch.testing.assert_close(answer, constants(*[1.0, 2.0, 3.0][:objects]))


def test_state_and_restore() -> None:
    memory, other = XMemMemory(SMALL), XMemMemory(SMALL)
    for number in range(9):
        memory.add(*frame(number), random_values(number))
        memory.read(frame(70)[0], frame(70)[2])
    other.restore(memory.state(), torch.device("cpu"))
    for number in range(9, 20):
        for each in (memory, other):
            each.add(*frame(number), random_values(number))
        query, _, selection = frame(80 + number)
        assert torch.equal(memory.read(query, selection), other.read(query, selection))
        assert memory.tokens == other.tokens


def test_usage_of_long_term_memory_is_counted_where_it_can_fill_up() -> None:
    options = MemoryOptions()
    assert options.for_frames(None).count_long
    assert options.for_frames(400).count_long  # 400 / 5 * 128 = 10,240
    assert options.for_frames(390).count_long is False
    assert MemoryOptions(count_long=True).for_frames(10).count_long


@pytest.mark.parametrize("wrong", [{"min_frames": 10}, {"every": 0}, {"prototypes": 20_000}, {"top_k": -1}])
def test_impossible_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="XMem's memory needs"):
        MemoryOptions(**wrong)


def test_reading_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        XMemMemory(SMALL).read(frame(0)[0], frame(0)[2])
