"""Which variants are worth a try, by what a graph is made of."""

import pytest

from exporter.errors import UsageError
from exporter.variants.kinds import (
    GraphFacts,
    check_request,
    described,
    sensible,
    session_candidates,
)
from service.repository.manifest import SessionOptions


def _facts(**weights: int) -> GraphFacts:
    return GraphFacts(dict.fromkeys(weights, 1), weights, sum(weights.values()))


@pytest.mark.parametrize(
    ("facts", "calibrated", "device", "kinds"),
    [
        (_facts(Gemm=100), False, "cpu", ("int8-dynamic",)),
        (_facts(Gemm=100), True, "cpu", ("int8-static", "int8-dynamic")),
        (_facts(MatMul=60, Gather=40), False, "cpu", ("int8-dynamic",)),
        (_facts(MatMul=10, Gather=90), False, "cpu", ()),
        (_facts(Conv=50, Gemm=50), False, "cpu", ()),
        (_facts(Conv=50, Gemm=50), True, "cpu", ("int8-static",)),
        (_facts(ConvTranspose=1, Gemm=99), False, "cpu", ()),
        (_facts(LSTM=100), True, "cpu", ()),
        (_facts(), True, "cpu", ()),
        (_facts(Conv=50), True, "cuda", ("fp16",)),
    ],
)
def test_what_auto_tries(
    facts: GraphFacts, calibrated: object, device: str, kinds: tuple[str, ...]
) -> None:  # fmt: skip
    """Dynamic int8 never meets a convolution, static never goes without data, 4 bits never."""
    assert sensible(facts, calibrated=bool(calibrated), device=device) == kinds


def test_only_graphs_with_layer_norms_have_session_candidates() -> None:
    """For others the default options are known to be the best."""
    assert session_candidates(_facts(Gemm=1)) == ()
    options = session_candidates(_facts(LayerNormalization=1))
    assert ("SkipLayerNormFusion",) in {item.disabled_optimizers for item in options}


@pytest.mark.parametrize(("request_", "device"), [("int4", "cpu"), ("auto", "tpu")])
def test_what_cannot_be_asked_for(request_: str, device: str) -> None:
    """The message lists what can."""
    with pytest.raises(UsageError, match=r"expected one of .*(int8-static|cuda)"):
        check_request(request_, device, calibrated=True)


def test_session_options_in_words() -> None:
    """What a table shows of them."""
    assert described(SessionOptions()) == "default"
    options = SessionOptions("basic", ("SkipLayerNormFusion",))
    assert described(options) == "graph level basic, without SkipLayerNormFusion"
