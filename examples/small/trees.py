"""Gradient-boosted trees on a table of measurements: `python -m examples.small.trees`."""

import sys
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from examples.small import round_trip


def train(quick: bool) -> round_trip.Trained:  # noqa: FBT001 (the one choice of every example)
    """Train XGBoost to tell malignant from benign; classes keep their names in the version."""
    import xgboost  # noqa: PLC0415 (an extra)

    table = load_breast_cancer()
    rows, held_out, labels, expected = train_test_split(
        table.data.astype(np.float32), table.target, test_size=0.25, random_state=0
    )
    model = xgboost.XGBClassifier(n_estimators=10 if quick else 100, max_depth=4)
    model.fit(rows, labels)
    names = [str(name) for name in table.target_names]
    return round_trip.Trained(
        model, rows[:64], {"features": held_out}, expected, "probabilities",
        model.predict_proba(held_out), {"labels": names},
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example."""
    return round_trip.main("trees", "train gradient-boosted trees on measurements", train, argv)


if __name__ == "__main__":
    sys.exit(main())
