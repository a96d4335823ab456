"""Outputs that do not go into the answer as they are: into shared memory, or as their classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from service.errors import InvalidRequest, WindowTooSmall, shown
from service.inference.validation import check_outputs
from service.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from service.rpc.classification import check_classifiable, classify
from service.rpc.codec import ReplyEncoder, raw_field
from service.rpc.regions import Regions, Window
from service.rpc.tensor_parameters import BYTE_SIZE, OFFSET, REGION, classes_of, place_of
from service.tensors import BYTES, Array, Signature, Tensors, to_raw

Labels = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a request wants of its outputs, by their names, where it is not just their contents.

    windows: where the contents go. classes: how many of the largest elements are wanted.
    """

    windows: Mapping[str, Window]
    classes: Mapping[str, int]


def delivery_of(
    model: str, signature: Signature, request: ModelInferRequest, regions: Regions
) -> Delivery | None:
    """Return what the parameters of the requested outputs ask for; None: nothing special.

    Raises InvalidRequest, and RequestError as Regions.window does.
    """
    windows: dict[str, Window] = {}
    classes: dict[str, int] = {}
    for output in request.outputs:
        if not output.parameters:
            continue
        place, count = place_of(output), classes_of(output)
        if place is not None and count:
            raise InvalidRequest(
                f"output '{shown(output.name)}' cannot be classified into shared memory: leave "
                f"out '{REGION}' or 'classification'",
            )
        if place is not None:
            windows[output.name] = regions.window(place)
        elif count:
            classes[output.name] = count
    if not (windows or classes):
        return None
    check_outputs(model, signature, [output.name for output in request.outputs])
    for name in classes:
        spec = signature.output(name)
        if spec is not None:
            check_classifiable(name, spec.datatype)
    _check_overlaps(windows)
    return Delivery(windows, classes)


class DeliveringEncoder(ReplyEncoder):
    """Encodes the answers of one request by its delivery."""

    def __init__(
        self, name: str, version: str, signature: Signature, labels: Labels, delivery: Delivery
    ) -> None:
        super().__init__(name, version, signature)
        self._labels = labels
        self._delivery = delivery
        self._batched = signature.batched

    def _parts(self, request_id: str, outputs: Tensors) -> list[bytes]:
        """Return the parts of an answer; what belongs into shared memory is there then."""
        response = ModelInferResponse(
            model_name=self._name, model_version=self._version, id=request_id
        )
        raws = [self._add(response, name, array) for name, array in outputs.items()]
        parts = [response.SerializeToString(), *(part for raw in raws for part in raw_field(raw))]
        self.check_size(sum([len(part) for part in parts]))
        return parts

    def _add(self, response: ModelInferResponse, name: str, array: Array) -> bytes:
        """Describe an output and return the contents that the answer has of it."""
        datatype, window = self.datatype(name), self._delivery.windows.get(name)
        if count := self._delivery.classes.get(name, 0):
            labels = self._labels.get(name, ())
            array, datatype = classify(array, count, labels, batched=self._batched), BYTES
        raw = to_raw(datatype, array)
        tensor = response.outputs.add(name=name, datatype=datatype.wire, shape=array.shape)
        if window is None:
            return raw
        if len(raw) > window.size:
            raise WindowTooSmall(name, window.size, len(raw))
        window.write(raw)
        tensor.parameters[REGION].string_param = window.region.name
        tensor.parameters[BYTE_SIZE].int64_param = len(raw)
        if window.offset:
            tensor.parameters[OFFSET].int64_param = window.offset
        return _ELSEWHERE


_ELSEWHERE: Final = b""  # raw contents of an output in shared memory: clients count on one for each


def _check_overlaps(windows: Mapping[str, Window]) -> None:
    placed = sorted(windows.items(), key=lambda item: (item[1].region.name, item[1].offset))
    for (first, one), (second, other) in pairwise(placed):
        if one.region is other.region and other.offset < one.offset + one.size:
            raise InvalidRequest(
                f"outputs '{shown(first)}' and '{shown(second)}' overlap in shared memory region "
                f"'{shown(one.region.name)}'",
            )
