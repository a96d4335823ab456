"""Any course of starts, steps, ends, cancellations and time against an interpreter of sequences."""

from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    RequestError,
    SequenceBacklogFull,
    SequenceTimeout,
)
from service.inference.request import Outcome, Request, SequenceStep
from service.inference.sequences.sequence import Changes, Limits, Step
from service.inference.sequences.table import Table

SLOTS, BACKLOG, IDLE_S = 2, 2, 10.0
IDS = st.integers(1, 3)
SCOPES = st.sampled_from([None, None, "stream a", "stream b"])


@dataclass(eq=False)
class Life:
    """What the interpreter knows of one sequence from its START on. total: of all its steps."""

    total: int = 0
    is_closed: bool = False
    is_over: bool = False


@dataclass(eq=False)
class Sent:
    """One accepted request. expected: its answer, if it is answered at all."""

    life: Life
    expected: int
    value: int
    step: Step | None
    ends: list[Outcome]


class Sequences(RuleBasedStateMachine):
    """The table with a model that adds up, and what should come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = Table("m", Limits(SLOTS, BACKLOG, IDLE_S))
        self.lives: dict[tuple[object, int], Life] = {}
        self.sent: list[Sent] = []
        self.running: list[Step] = []
        self.by_request: dict[Request, Sent] = {}

    @initialize()
    def nothing(self) -> None:
        """Begin with no sequence."""

    @rule(
        name=IDS, scope=SCOPES, start=st.booleans(), end=st.sampled_from([False, False, True]),
        value=st.integers(1, 9), patience=st.sampled_from([None, None, 3.0]),
        timeout_us=st.sampled_from([0, 0, 2_000_000]),
    )  # fmt: skip
    def send(  # what a request is made of
        self, *, name: int, scope: object, start: bool, end: bool, value: int,
        patience: float | None, timeout_us: int,
    ) -> None:  # fmt: skip
        """Send a step; it is accepted if its sequence is there, or begins and finds room."""
        key = (scope, name)
        life = self.lives.get(key)
        is_live = life is not None and not life.is_over
        ends: list[Outcome] = []
        request = Request(
            {"X": np.array([value])}, ("Y",), rows=1, timeout_us=timeout_us, on_end=ends.append,
            deadline=None if patience is None else self.now + patience,
            sequence=SequenceStep(name, start=start, end=end, scope=scope),
        )  # fmt: skip
        try:
            step, changes = self.table.add(request, request.sequence, self.now)  # type: ignore[arg-type]
        except InvalidRequest:
            assert not start
            assert not is_live
            return
        except SequenceBacklogFull:
            assert start
            assert not is_live
            assert self.table.open == SLOTS
            assert self.table.backlog == BACKLOG
            return
        assert start or is_live
        if start or life is None:
            life = self.lives[key] = Life()
        life.total += value
        sent = Sent(life, life.total, value, step, ends)
        self.sent.append(sent)
        self.by_request[request] = sent
        if end:
            life.is_closed = True
            del self.lives[key]
        self.apply(changes)

    @precondition(lambda self: self.running)
    @rule(place=st.integers(0, 100))
    def run(self, place: int) -> None:
        """Let one of the steps that run succeed."""
        step = self.running.pop(place % len(self.running))
        sent = self.by_request[step.request]
        before = step.states
        total = (0 if before is None else int(before["s"][0])) + sent.value
        changes = self.table.done(step, {"s": np.array([total])}, 8, self.now)
        step.request.complete({"Y": np.array([total])})
        self.apply(changes)

    @precondition(lambda self: self.running)
    @rule(place=st.integers(0, 100))
    def break_(self, place: int) -> None:
        """Let one of the steps that run fail, which ends its sequence."""
        step = self.running.pop(place % len(self.running))
        self.over(step)
        step.request.fail(RequestError("broken"))
        self.apply(self.table.fail(step, "broken", self.now))

    @precondition(lambda self: self.sent)
    @rule(place=st.integers(0, 100))
    def leave(self, place: int) -> None:
        """Let a caller leave."""
        sent = self.sent[place % len(self.sent)]
        assert sent.step is not None
        if not sent.step.request.ended:
            sent.step.request.cancel()
            self.over(sent.step)
            self.apply(self.table.leave(sent.step, self.now))

    @rule(seconds=st.sampled_from([1.0, 2.5, 11.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.apply(self.table.expire(self.now))
        assert self.table.wakes_at > self.now

    @rule(seconds=st.sampled_from([1.0, 2.5]))
    def pass_unseen(self, seconds: float) -> None:
        """Let time pass before anybody looks what has waited too long."""
        self.now += seconds

    @rule(scope=st.sampled_from(["stream a", "stream b"]))
    def close_stream(self, scope: str) -> None:
        """End a scope: nothing of it is left."""
        self.apply(self.table.release(scope, self.now))
        assert not self.table.holds(scope)
        for key in [key for key in self.lives if key[0] == scope]:
            self.lives.pop(key).is_over = True

    @rule(scope=st.sampled_from(["stream a", "stream b"]))
    def half_close_stream(self, scope: str) -> None:
        """Let no more steps join what a scope has."""
        self.apply(self.table.finish(scope, self.now))
        for key in [key for key in self.lives if key[0] == scope]:
            self.lives.pop(key).is_closed = True

    def over(self, step: Step) -> None:
        """Note that the sequence of a step has ended, if it had not."""
        sent = self.by_request[step.request]
        sent.life.is_over = True

    def apply(self, changes: Changes) -> None:
        """Do what the table says, as the engine would."""
        for step, error in changes.fails:
            assert isinstance(error, RequestError)
            step.request.fail(error)
            self.over(step)
            if isinstance(error, DeadlineExceeded):
                assert step.request.deadline is not None
                assert step.request.deadline <= self.now
            if isinstance(error, SequenceTimeout):
                assert step.slot < 0
        for step in changes.stops:
            if step in self.running:
                self.running.remove(step)
                step.request.cancel()
                self.over(step)
                self.apply(self.table.fail(step, "stopped", self.now))
        self.running += changes.runs
        for key, life in list(self.lives.items()):
            if life.is_over or self.is_reaped(life):
                life.is_over = True
                del self.lives[key]

    def is_reaped(self, life: Life) -> bool:
        """Tell whether the table has ended a sequence."""
        steps = [sent.step for sent in self.sent if sent.life is life and sent.step is not None]
        return all(step.sequence.is_over for step in steps)

    @invariant()
    def answers_are_right(self) -> None:
        """Nobody is answered twice, or with the sum of anything but his own sequence."""
        for sent in self.sent:
            assert len(sent.ends) <= 1
            if sent.ends and sent.ends[0].outputs is not None:
                assert sent.ends[0].outputs["Y"][0] == sent.expected

    @invariant()
    def limits_hold(self) -> None:
        """At most so many sequences have a place or wait for one; one step of each runs."""
        sequences = [step.sequence for step in self.running]
        assert len(set(sequences)) == len(sequences)
        assert 0 <= self.table.open <= SLOTS
        assert self.table.backlog <= BACKLOG
        waiting = [s for s in self.sent if s.step is not None and s.step in s.step.sequence.queue]
        assert self.table.waiting == len(waiting)
        held = {s.step.sequence for s in self.sent if s.step is not None}
        with_state = [sequence for sequence in held if sequence.states is not None]
        assert self.table.state_bytes == 8 * len(with_state)
        assert not [s for s in waiting if s.step is not None and s.step.sequence.is_over]

    @invariant()
    def no_place_is_idle_while_a_sequence_waits(self) -> None:
        """Give a free place to who waits for one."""
        assert self.table.open == SLOTS or not self.table.backlog

    def teardown(self) -> None:
        """Everything that was accepted is answered in the end, and nothing is left."""
        while self.running:
            self.run(0)
        for _ in range(3):
            self.now += 100.0
            self.apply(self.table.expire(self.now))
            while self.running:
                self.run(0)
        for scope in ("stream a", "stream b"):
            self.close_stream(scope)
            while self.running:
                self.run(0)
        self.wait(100.0)
        while self.running:
            self.run(0)
        self.wait(100.0)
        assert self.table.is_empty
        assert self.table.open == self.table.backlog == self.table.waiting == 0
        assert self.table.waiting_bytes == self.table.state_bytes == 0
        assert all(len(sent.ends) == 1 for sent in self.sent)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
