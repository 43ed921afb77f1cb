"""Order of an epoch, and division of its steps into micro-batches and processes."""

from __future__ import annotations

import pytest
import torch

from src.data.order import epoch_order, micro_batches, num_steps


def test_orders_are_the_permutations_of_one_generator():
    generator = torch.Generator().manual_seed(7)
    expected = [torch.randperm(9, generator=generator).tolist() for _ in range(4)]
    assert [epoch_order(9, 7, epoch).tolist() for epoch in range(1, 5)] == expected
    assert epoch_order(9, 8, 1).tolist() != expected[0]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 16, 17, 23, 24, 25, 33])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_image_is_used_once_and_the_weights_of_a_step_sum_to_one(count, batch_size, accumulate, processes):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    taken = [
        micro_batches(order, batch_size, accumulate=accumulate, process=process, processes=processes)
        for process in range(processes)
    ]
    counted = [row for own in taken for micro_batch in own if micro_batch.weight for row in micro_batch.rows]
    assert sorted(counted) == list(range(count))
    ends = [[micro_batch.ends_step for micro_batch in own] for own in taken]
    assert all(one == ends[0] for one in ends)  # every process goes backward as often
    steps = num_steps(count, batch_size, accumulate=accumulate, processes=processes)
    assert sum(ends[0]) == steps
    assert all(micro_batch.rows for own in taken for micro_batch in own)
    start = 0
    for place, ends_step in enumerate(ends[0]):
        if ends_step:
            of_step = [micro_batch for own in taken for micro_batch in own[start : place + 1] if micro_batch.weight]
            assert sum(micro_batch.weight for micro_batch in of_step) == pytest.approx(1)
            each = 1 / sum(len(micro_batch.rows) for micro_batch in of_step)  # no image counts more than another
            assert all(micro_batch.weight / len(micro_batch.rows) == pytest.approx(each) for micro_batch in of_step)
            start = place + 1


def test_division_keeps_the_images_of_a_step():
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    expected = [set(micro_batch.rows) for micro_batch in micro_batches(order, 16)]
    for batch_size, accumulate, processes in ((8, 2, 1), (8, 1, 2), (4, 2, 2)):
        taken = [
            micro_batches(order, batch_size, accumulate=accumulate, process=process, processes=processes)
            for process in range(processes)
        ]
        steps = [
            {
                row
                for own in taken
                for micro_batch in own[step * accumulate : (step + 1) * accumulate]
                for row in micro_batch.rows
            }
            for step in range(4)
        ]
        assert steps == expected


def test_start_leaves_out_the_first_steps():
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    whole = micro_batches(order, 4, accumulate=2)
    steps = num_steps(23, 4, accumulate=2)
    for done in range(steps + 1):
        left = micro_batches(order, 4, accumulate=2, start=done)
        assert left == whole[len(whole) - len(left) :]
        assert sum(micro_batch.ends_step for micro_batch in left) == steps - done


def test_single_last_image_joins_the_previous_step():
    order = torch.arange(9)
    assert [micro_batch.rows for micro_batch in micro_batches(order, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert [len(micro_batch.rows) for micro_batch in micro_batches(order, 1)] == [1] * 9  # asked for
    two_left = micro_batches(torch.arange(10), 4)
    assert [micro_batch.rows for micro_batch in two_left] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [micro_batch.rows for micro_batch in micro_batches(torch.arange(1), 4)] == [[0]]
    # two processes: three left would give one of them a single image
    assert [micro_batch.rows for micro_batch in micro_batches(torch.arange(11), 4, process=0, processes=2)] == [
        [0, 1, 2, 3, 4, 5]
    ]


@pytest.mark.parametrize("batch_size", [2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_no_process_gets_a_single_image(batch_size, accumulate, processes):
    for count in range(2 * processes, 60):
        for process in range(processes):
            batches = micro_batches(
                torch.arange(count), batch_size, accumulate=accumulate, process=process, processes=processes
            )
            assert min(len(batch.rows) for batch in batches) > 1
