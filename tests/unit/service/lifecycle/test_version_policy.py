"""Which versions are served, as a table."""

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from service.lifecycle.version_policy import served_versions
from service.pb.model_config_pb2 import ModelVersionPolicy


@pytest.mark.parametrize(
    ("policy", "present", "served"),
    [
        (None, {1, 3, 2}, [3]),
        ("", {1, 3, 2}, [3]),
        ("latest { }", {1, 3, 2}, [3]),
        ("latest { num_versions: 2 }", {1, 10, 9}, [9, 10]),
        ("latest { num_versions: 9 }", {1, 2}, [1, 2]),
        ("all { }", {10, 2, 1}, [1, 2, 10]),
        ("specific { versions: [ 3, 1 ] }", {1, 2, 3}, [1, 3]),
        ("specific { versions: [ 1, 9 ] }", {1, 2}, [1]),
        ("specific { versions: [ 9 ] }", {1, 2}, []),
        ("all { }", set(), []),
        (None, set(), []),
    ],
)
def test_policy(policy: str | None, present: set[int], served: list[int]) -> None:
    """A policy and what lies in the repository decide alone what is served."""
    message = None if policy is None else text_format.Parse(policy, ModelVersionPolicy())
    assert served_versions(message, present) == served


@given(st.sets(st.integers(1, 100)), st.integers(0, 10))
def test_latest_takes_the_newest(present: set[int], count: int) -> None:
    """As many as asked for, at least one, and none that is older than one left out."""
    policy = ModelVersionPolicy()
    policy.latest.num_versions = count
    served = served_versions(policy, present)
    assert len(served) == min(max(1, count), len(present))
    assert all(version < min(served) for version in present - set(served))
