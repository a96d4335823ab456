"""2.4 GB of weights: more than one protobuf holds. Takes minutes and 10 GB: `-m slow` runs it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from exporter import export
from service.client import Client
from tests.support.servers import serve

_WIDTH = 8192


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_gigabytes_are_published_and_served(tmp_path: Path) -> None:
    """Nothing is to be said or done for it: the data file is in the manifest, answers are right."""
    module = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(9)))
    result = export(
        module, torch.rand(1, _WIDTH), name="large", repository=tmp_path, max_batch_size=4
    )
    assert set(result.manifest.files) >= {"model.onnx", "model.onnx.data"}
    assert (result.path / "model.onnx.data").stat().st_size > 2_400_000_000
    rows = torch.rand(3, _WIDTH)
    with serve(tmp_path) as server, Client(server.address) as client:
        got = client.infer("large", {"input": rows.numpy()})["output"]
    with torch.no_grad():
        want = module(rows).numpy()
    np.testing.assert_allclose(got, want, atol=1e-4 * float(np.abs(want).max()))
