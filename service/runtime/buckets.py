"""Batch sizes for which buffers are kept: pure arithmetic."""

from collections.abc import Collection


def bucket_sizes(max_rows: int, preferred: Collection[int] = ()) -> tuple[int, ...]:
    """Return the sizes, ascending: powers of two, those preferred, and the largest batch.

    A batch is padded by less than its own rows. max_rows: at least 1.
    """
    powers = {1 << exponent for exponent in range(max_rows.bit_length())}
    wanted = {*powers, *preferred, max_rows}
    return tuple(sorted(size for size in wanted if 1 <= size <= max_rows))


def bucket_of(rows: int, sizes: Collection[int]) -> int | None:
    """Return the smallest size that holds so many rows, None if none does."""
    return min((size for size in sizes if size >= rows), default=None)
