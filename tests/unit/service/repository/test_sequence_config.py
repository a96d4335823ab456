"""sequence_batching in config.pbtxt: what is refused, with a text that says what is wrong."""

from pathlib import Path

import pytest

from service.errors import ConfigError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.model_config import read_config
from service.repository.sequence_config import backlog_of, idle_s, scope_of, strategy_of
from service.repository.sequences import Direct, Oldest, Scope

STATE = 'input_name: "h" output_name: "hn" data_type: TYPE_FP32 dims: 4'
INITIAL = 'name: "i" data_type: TYPE_FP32 dims: 4'
CORRID = "kind: CONTROL_SEQUENCE_CORRID"
START = "kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ]"


def config_of(directory: Path, text: str) -> ModelConfig:
    """Read a configuration of this text."""
    (directory / "config.pbtxt").write_text(text)
    config = read_config(directory)
    assert config is not None
    return config


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("iterative_sequence: true", "iterative_sequence: not served"),
        ("max_sequence_idle_microseconds: 700000000000", "expected 0 to 604800000000"),
        ("oldest { max_candidate_sequences: -1 }", "max_candidate_sequences is -1"),
        ("oldest { max_queue_delay_microseconds: 60000001 }", "max_queue_delay_microseconds is"),
        ("oldest { preferred_batch_size: 9 }", "preferred_batch_size 9 is not between 1 and"),
        ("direct { minimum_slot_utilization: 1.5 }", "minimum_slot_utilization is 1.5"),
        (f"control_input {{ control {{ {START} }} }}", "a control_input has no name"),
        ('control_input { name: "S" }', "control_input 'S' has 0 controls, expected one"),
        ('control_input { name: "S" control { kind: CONTROL_SEQUENCE_START } }',
         "'S' (CONTROL_SEQUENCE_START) has no values, expected one of ['int32_false_true'"),
        ('control_input { name: "S" control { fp32_false_true: [ 0, 1, 2 ] } }',
         "fp32_false_true has 3 values, expected two"),
        (f'control_input {{ name: "S" control {{ {START} fp32_false_true: [ 0, 1 ] }} }}',
         "has ['int32_false_true', 'fp32_false_true'], expected one"),
        (f'control_input {{ name: "C" control {{ {CORRID} data_type: TYPE_FP32 }} }}',
         "has data_type TYPE_FP32, expected one of TYPE_UINT64"),
        (f'control_input {{ name: "C" control {{ {CORRID} int32_false_true: 1 }} }}',
         "has int32_false_true, expected only data_type"),
        (f'control_input {{ name: "S" control {{ {START} }} }} ' * 2,
         "control_input S is given twice"),
        (" ".join(f'control_input {{ name: "{n}" control {{ {START} }} }}' for n in "AB"),
         "control of kind CONTROL_SEQUENCE_START is given twice"),
        (f'control_input {{ name: "h" control {{ {START} }} }} state {{ {STATE} }}',
         "'h' is both a control_input and a state"),
        ('state { input_name: "h" }', "state 'h' needs both an input_name and an output_name"),
        ('state { input_name: "h" output_name: "hn" dims: 4 }', "state 'h' has no data_type"),
        ('state { input_name: "h" output_name: "hn" data_type: TYPE_FP32 dims: -2 }',
         "state 'h' has dims [-2], expected each at least -1"),
        (f"state {{ {STATE} }} state {{ {STATE} }}", "state with input_name h is given twice"),
        (f"state {{ {STATE} initial_state {{ {INITIAL} }} }}",
         "needs zero_data: true or data_file"),
        (f"state {{ {STATE} initial_state {{ {INITIAL} zero_data: false }} }}", "needs zero_data"),
        (f'state {{ {STATE} initial_state {{ {INITIAL} data_file: "../h" }} }}',
         "data_file is '../h', expected the name of a file"),
        (f"state {{ {STATE} initial_state {{ data_type: TYPE_FP32 dims: 5 zero_data: true }} }}",
         "initial_state has dims [5], the state [4]"),
        (f"state {{ {STATE} initial_state {{ data_type: TYPE_INT8 dims: 4 zero_data: true }} }}",
         "initial_state has data_type TYPE_INT8, the state TYPE_FP32"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, text: str, reason: str) -> None:
    """A configuration that cannot be meant is refused, naming the field and what was expected."""
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, f"max_batch_size: 8 sequence_batching {{ {text} }}")
    assert reason in str(caught.value)
    assert str(tmp_path / "config.pbtxt") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("sequence_scope", "tenant", "'sequence_scope' is 'tenant', expected id or stream"),
        ("response_policy", "never", "'response_policy' is 'never', expected every or final"),
        ("max_sequence_backlog", "-1", "'max_sequence_backlog' is '-1', expected a whole number"),
        ("max_sequence_backlog", "9" * 40, "expected a whole number from 0"),
    ],
)
def test_parameters_are_checked(tmp_path: Path, key: str, value: str, reason: str) -> None:
    """Our own parameters are checked where the configuration is read."""
    text = f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, text)
    assert reason in str(caught.value)


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    """Idle time, strategy, scope and backlog are those of the documentation."""
    config = config_of(tmp_path, "sequence_batching { }")
    assert idle_s(config) == 1.0
    assert strategy_of(config) == Direct()
    assert scope_of(config) is Scope.DEFAULT
    assert backlog_of(config) == 1024
    oldest = config_of(tmp_path, "sequence_batching { oldest { } }")
    assert strategy_of(oldest) == Oldest(1024)


def test_everything_that_is_served_can_be_said(tmp_path: Path) -> None:
    """Growable memory and shared buffers are taken: they are how, not what."""
    config = config_of(
        tmp_path,
        f"""max_batch_size: 8 sequence_batching {{
          max_sequence_idle_microseconds: 5000000
          oldest {{ max_candidate_sequences: 4 preferred_batch_size: [ 4, 2 ]
                    max_queue_delay_microseconds: 1500 preserve_ordering: true }}
          state {{ {STATE} use_same_buffer_for_input_output: true use_growable_memory: true
                   initial_state {{ {INITIAL} data_file: "h" }} }} }}
        parameters {{ key: "sequence_scope" value: {{ string_value: "stream" }} }}
        parameters {{ key: "max_sequence_backlog" value: {{ string_value: "0" }} }}""",
    )
    assert idle_s(config) == 5.0
    assert strategy_of(config) == Oldest(4, (2, 4), 0.0015)
    assert scope_of(config) is Scope.STREAM
    assert backlog_of(config) == 0
