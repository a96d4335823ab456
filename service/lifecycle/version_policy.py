"""Which of the versions that lie in the repository are served. Pure functions."""

from collections.abc import Collection

from service.pb.model_config_pb2 import ModelVersionPolicy


def served_versions(policy: ModelVersionPolicy | None, present: Collection[int]) -> list[int]:
    """Return the versions to serve, ascending. Default: the newest one.

    A specific version that is not present is left out.
    """
    ascending = sorted(present)
    choice = policy.WhichOneof("policy_choice") if policy is not None else None
    if policy is None or choice is None:
        return ascending[-1:]
    if choice == "all":
        return ascending
    if choice == "specific":
        wanted = set(policy.specific.versions)
        return [version for version in ascending if version in wanted]
    return ascending[-max(1, policy.latest.num_versions) :]
