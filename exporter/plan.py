"""What was asked for besides a faithful file, and what became of it. Light: no onnx, no runtime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from exporter.cases import Case
from exporter.flow import Proven
from exporter.gate import Gate
from exporter.package import SOURCE_VARIANT
from exporter.processing import Processing
from exporter.variants.kinds import DEFAULT_OPTIONS, NONE
from service.repository.manifest import SessionOptions, Tolerance

if TYPE_CHECKING:
    from exporter.variants.calibration import Calibration
    from exporter.variants.report import CompressionReport
    from exporter.variants.subject import Evaluate

_DEFAULT_GATE: Final = Gate()
_NO_PROCESSING: Final = Processing()


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for besides a faithful file.

    quantize: none, auto or a kind. calibration, evaluate: see `compress`; both see the model
    without its processing. input_name, output_name: what the processing works on.
    """

    quantize: str = NONE
    calibration: "Calibration | None" = None
    evaluate: "Evaluate | None" = None
    gate: Gate = _DEFAULT_GATE
    device: str = "cpu"
    processing: Processing = _NO_PROCESSING
    input_name: str = ""
    output_name: str = ""

    @property
    def changes_something(self) -> bool:
        """Tell whether the faithful file is not what is published as it is."""
        processing = self.processing
        return self.quantize != NONE or processing.changes_input or processing.changes_output


@dataclass(frozen=True, slots=True)
class Finished:
    """The file to publish. cases: inputs, and what this very file must answer within tolerance.

    gate: what was measured of the variant, without times. labelled: the output that labels
    belong to where the processing made it, else "".
    """

    proven: Proven
    cases: tuple[Case, ...]
    tolerance: Tolerance
    variant: str = SOURCE_VARIANT
    session: SessionOptions = DEFAULT_OPTIONS
    gate: Mapping[str, Any] = field(default_factory=dict)
    report: "CompressionReport | None" = None
    labelled: str = ""
