"""Responses of a model in Python in shared memory, and as classes with labels."""

from pathlib import Path

import numpy as np

from tests.integration.conftest import Serve
from tests.support import python_models
from tests.support.python_requests import repeat
from tests.support.requests import answer
from tests.support.shared import place, region
from tests.support.stub import WAIT_S


def test_each_response_goes_where_its_request_wants_it(tmp_path: Path, serve: Serve) -> None:
    """Every response of a request is classified; of those in shared memory the last one stays."""
    config = python_models.write(tmp_path, "repeat_int32") / "repeat_int32" / "config.pbtxt"
    named = config.read_text().replace('name: "IDX"', 'name: "IDX" label_filename: "labels.txt"')
    assert "label_filename" in named
    config.write_text(named)
    config.with_name("labels.txt").write_text("only\n")
    with (
        serve(tmp_path, "--allow-python-backend", "--allow-client-shm") as server,
        server.stub() as stub,
        region(stub, 4) as (name, made),
    ):
        request = repeat([7, 8, 9])
        place(request.outputs.add(name="OUT"), name, 4)
        request.outputs.add(name="IDX").parameters["classification"].int64_param = 1
        for _ in range(2):
            replies = [
                reply.infer_response for reply in stub.stream(iter([request]), timeout=WAIT_S)
            ]
            found = [answer(reply, "IDX").tolist() for reply in replies]
            assert found == [[b"0:0:only"], [b"1:0:only"], [b"2:0:only"]]
            assert [reply.raw_output_contents[0] for reply in replies] == [b""] * 3
            assert made.contents == np.array([9], np.int32).tobytes()
