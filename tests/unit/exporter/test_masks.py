"""Random masks of sequences."""

import numpy as np
import pytest

from exporter.masks import convention_of, random_mask


@pytest.mark.parametrize(
    ("name", "rank", "values"),
    [("attention_mask", 2, (1, 0)), ("src_key_padding_mask", 2, (0, 1)), ("mask", 2, None),
     ("attention_mask", 4, None), ("image", 2, None)],
)  # fmt: skip
def test_masks_are_known_by_their_names(
    name: str, rank: int, values: tuple[int, int] | None
) -> None:
    """Only names with one meaning, and only for rows of sequences."""
    assert convention_of(name, rank) == values


def test_no_row_is_masked_as_a_whole() -> None:
    """Every row sees its first place at least, and is padded on the right."""
    mask = random_mask((1, 0), (500, 5), np.random.default_rng(0))
    assert set(mask.sum(axis=1)) == {1, 2, 3, 4, 5}
    assert (np.diff(mask, axis=1) <= 0).all()
