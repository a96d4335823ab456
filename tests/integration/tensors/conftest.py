"""One server a transport with --allow-client-shm, and models for every way tensors come and go."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.tensors import BYTES, DATATYPES
from service.transport.native import is_installed
from tests.support import forms, models, servers
from tests.support.servers import RunningServer
from tests.support.stub import Stub
from tests.support.versions import publish_mlp

TRANSPORTS = ["native", "threaded"] if is_installed() else ["threaded"]


@pytest.fixture(scope="session")
def tensor_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model for each datatype, and those that take or give tensors in other forms."""
    root = tmp_path_factory.mktemp("tensors")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    for datatype in DATATYPES:
        models.publish(root, f"identity_{datatype.wire.lower()}", models.identity(datatype))
    models.publish(root, "slow", models.slow())
    for seed, name in ((1, "digit"), (2, "numeral")):  # two versions with labels of their own
        labels = tuple(f"{name} {number}" for number in range(10))
        publish_mlp(
            root, seed=seed, name="labelled", labels=labels, labels_of="Y", write_config=True
        )
    config = root / "labelled" / "config.pbtxt"
    config.write_text(config.read_text().replace("num_versions: 1", "num_versions: 2"))
    models.publish(root, "scalar", models.scalar(), config=_config("scalar", 0, "", ""))
    models.publish(root, "scalar_text", models.identity(BYTES, ()))
    publish_forms(root)
    return root


def publish_forms(root: Path) -> None:
    """Write the models with optional and reshaped tensors, and those with labels."""
    default = 'input { name: "D" data_type: TYPE_FP32 dims: 1 optional: true }'
    for name, model, config in (
        ("with_default", forms.with_default(), _config("with_default", 8, "1", "1", default)),
        ("optional_type", forms.optional_type(), None),
        ("row_numbers", forms.row_numbers(), _config("row_numbers", 8, _RESHAPED, _RESHAPED)),
        ("flat_pairs", forms.flat_pairs(), _config("flat_pairs", 8, _PAIRS, "[ -1, 2 ]")),
    ):
        models.publish(root, name, model, config=config)
    image = _config(
        "fixed_image", 0, "[ 2, 3 ] reshape { shape: [ 1, 2, 3 ] }",
        '6 reshape { shape: [ 1, 6, 1, 1 ] } label_filename: "names/labels.txt"',
    )  # fmt: skip
    models.publish(root, "fixed_image", forms.fixed_image(), config=image)
    (root / "fixed_image" / "names").mkdir()
    (root / "fixed_image" / "names" / "labels.txt").write_text("zero\none\n\nthree\n")
    output = 'output { name: "Y" data_type: TYPE_FP32 dims: 1 }'
    config = f'name: "all_default" max_batch_size: 8 {default} {output}'
    models.publish(root, "all_default", forms.all_default(), config=config)


_RESHAPED = "1 reshape { shape: [ ] }"
_PAIRS = "[ -1, 2, 1 ] reshape { shape: [ -1, 2 ] }"


def _config(name: str, rows: int, x: str, y: str, extra: str = "") -> str:
    """Return a config.pbtxt of X and Y in FP32 with these dims, and what follows them."""
    return (
        f'name: "{name}" max_batch_size: {rows} '
        f'input {{ name: "X" data_type: TYPE_FP32 {x and f"dims: {x}"} }} {extra} '
        f'output {{ name: "Y" data_type: TYPE_FP32 {y and f"dims: {y}"} }}'
    )


@pytest.fixture(scope="session", params=TRANSPORTS)
def server(tensor_repository: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """Serve them; the server must outlive every test and stop cleanly."""
    flags = ("--allow-client-shm", "--max-message-mib", "4", "--transport", request.param)
    with servers.serve(tensor_repository, *flags) as running:
        yield running


@pytest.fixture
def stub(server: RunningServer) -> Iterator[Stub]:
    """Connect to the server."""
    with server.stub() as connected:
        yield connected
