"""Outputs that do not go into the answer as they are: into shared memory, or as their classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from service.errors import InvalidRequest, WindowTooSmall, shown
from service.inference.validation import check_outputs
from service.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from service.rpc.classification import check_classifiable, classify
from service.rpc.codec import ReplyEncoder, id_field, raw_field
from service.rpc.regions import Regions, Window
from service.rpc.tensor_parameters import BYTE_SIZE, OFFSET, REGION, classes_of, place_of
from service.tensors import BYTES, Array, Shape, Signature, Tensors, to_raw

Labels: TypeAlias = Mapping[str, Sequence[str]]
# Name and shape of each output of an answer, and how many bytes of it are in shared memory.
_Described: TypeAlias = tuple[tuple[str, Shape, int], ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a request wants of its outputs, by their names, where it is not just their contents.

    windows: where the contents go. classes: how many of the largest elements are wanted.
    """

    windows: Mapping[str, Window]
    classes: Mapping[str, int]


def wanted_outputs(
    model: str, signature: Signature, request: ModelInferRequest, regions: Regions
) -> tuple[tuple[str, ...], Delivery | None]:
    """Return the names of the outputs to compute, and what is wanted of them; None: just contents.

    request: names no output twice.
    Raises InvalidRequest, and RequestError as Regions.window does.
    """
    delivery = _delivery(request, regions)
    names = check_outputs(model, signature, [output.name for output in request.outputs])
    if not (delivery.windows or delivery.classes):
        return names, None
    for spec in signature.outputs:
        if spec.name in delivery.classes:
            check_classifiable(spec.name, spec.datatype)
    _check_overlaps(delivery.windows)
    return names, delivery


def _delivery(request: ModelInferRequest, regions: Regions) -> Delivery:
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
    return Delivery(windows, classes)


class DeliveringEncoder(ReplyEncoder):
    """Encodes the answers of requests with one delivery."""

    def __init__(
        self, name: str, version: str, signature: Signature, labels: Labels, delivery: Delivery
    ) -> None:
        super().__init__(name, version, signature)
        self._labels = labels
        self._delivery = delivery
        self._batched = signature.batched
        self._last: tuple[_Described, bytes] = ((), b"")  # what the last answer began with

    def _parts(self, request_id: str, outputs: Tensors) -> list[bytes]:
        """Return the parts of an answer; what belongs into shared memory is there then."""
        raws, described = [], []
        for name, array in outputs.items():
            shape, raw = self._contents(name, array)
            window = self._delivery.windows.get(name)
            described.append((name, shape, len(raw) if window is not None else 0))
            if window is not None:
                if len(raw) > window.size:
                    raise WindowTooSmall(name, window.size, len(raw))
                window.write(raw)
                raw = _ELSEWHERE
            raws.append(raw)
        fixed = self._described(tuple(described))
        parts = [fixed, id_field(request_id), *(part for raw in raws for part in raw_field(raw))]
        self.check_size(sum([len(part) for part in parts]))
        return parts

    def _contents(self, name: str, array: Array) -> tuple[Shape, bytes]:
        """Return shape and contents of what a caller gets of an output."""
        datatype, count = self.datatype(name), self._delivery.classes.get(name, 0)
        if count:
            labels = self._labels.get(name, ())
            array, datatype = classify(array, count, labels, batched=self._batched), BYTES
        return array.shape, to_raw(datatype, array)

    def _described(self, key: _Described) -> bytes:
        """Return all of an answer but its id and contents."""
        if key == self._last[0]:
            return self._last[1]
        response = ModelInferResponse(model_name=self._name, model_version=self._version)
        for name, shape, size in key:
            is_classified = name in self._delivery.classes
            datatype = BYTES if is_classified else self.datatype(name)
            tensor = response.outputs.add(name=name, datatype=datatype.wire, shape=shape)
            if (window := self._delivery.windows.get(name)) is not None:
                tensor.parameters[REGION].string_param = window.region.name
                tensor.parameters[BYTE_SIZE].int64_param = size
                if window.offset:
                    tensor.parameters[OFFSET].int64_param = window.offset
        encoded = response.SerializeToString()
        self._last = key, encoded
        return encoded


_ELSEWHERE: Final = b""  # raw contents of an output in shared memory: clients count on one for each


def _check_overlaps(windows: Mapping[str, Window]) -> None:
    placed = sorted(windows.items(), key=lambda item: (item[1].region.name, item[1].offset))
    for (first, one), (second, other) in pairwise(placed):
        if one.region is other.region and other.offset < one.offset + one.size:
            raise InvalidRequest(
                f"outputs '{shown(first)}' and '{shown(second)}' overlap in shared memory region "
                f"'{shown(one.region.name)}'",
            )
