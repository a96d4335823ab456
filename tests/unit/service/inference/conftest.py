"""The scheduler that most tests need."""

from collections.abc import Iterator

import pytest

from tests.support.bench import Bench, bench


@pytest.fixture
def lone() -> Iterator[Bench]:
    """Run a scheduler with batches of up to four rows and one instance."""
    with bench() as made:
        yield made
