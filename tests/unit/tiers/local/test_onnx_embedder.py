"""onnx_embedder.py: which texts run together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from turnout.tiers.local.onnx.embedder import MAXIMUM_PADDED_TOKENS, MAXIMUM_ROWS, group_by_length


@given(st.lists(st.integers(min_value=2, max_value=512), max_size=300))
def test_every_text_is_in_one_group_that_fits_into_memory(lengths: list[int]) -> None:
    groups = group_by_length(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert 1 <= len(group) <= MAXIMUM_ROWS
        assert len(group) * max(lengths[index] for index in group) <= MAXIMUM_PADDED_TOKENS


def test_like_lengths_run_together() -> None:
    assert group_by_length([500, 3, 500, 4]) == [[1, 3], [0, 2]]
    assert group_by_length([]) == []
    assert [len(group) for group in group_by_length([16] * 130)] == [64, 64, 2]
