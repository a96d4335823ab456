//! One call, as its connection sees it: both halves of the HTTP/2 stream, and what the application
//! has been told. The events of a call come in order, and CANCELLED is the last of them.

use crate::admission::{code, Admitted};
use crate::call::Call;
use crate::core::{Arity, Budget, CallPermit, Charge, Core};
use crate::counters::Counter;
use crate::events::{Event, Kind};
use crate::inbound::{Inbound, Invalid, Received};
use crate::outbound::Outbound;
use crate::overhead::Timed;
use crate::wire::encoding::Encoding;
use crate::wire::frame::FrameError;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::RecvStream;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

/// A call in progress.
pub struct Stream {
    pub call: Arc<Call>,
    /// Unsent bytes that the connection has counted of it.
    pub unsent: usize,
    waker: Waker,
    arity: Arity,
    inbound: Inbound,
    outbound: Outbound,
    request: Option<Bytes>, // of a unary call whose peer has not half-closed yet
    is_told: bool,          // the application knows of this call
    has_ended: bool,        // the peer sends no more
    is_on_lane: bool,       // its messages may be recognised
    received: Option<Instant>, // when the request of a unary call was complete
    charge: Charge,
    _permit: CallPermit,
}

/// A failure of the peer's that ends its call.
struct Fault {
    counter: Counter,
    code: i32,
    message: String,
}

impl Stream {
    pub fn new(
        core: &Arc<Core>,
        call: Arc<Call>,
        admitted: Admitted,
        received: RecvStream,
        respond: SendResponse<Bytes>,
    ) -> Self {
        // The lane writes its answers as they are.
        let is_on_lane = core.methods.is_on_lane(admitted.method)
            && call.head.reply_encoding == Encoding::Identity;
        Self {
            waker: Waker::from(Arc::clone(&call)),
            call,
            unsent: 0,
            arity: admitted.arity,
            inbound: Inbound::new(received, admitted.encoding, core.limits.message_bytes),
            outbound: Outbound::new(respond, admitted.reply_encoding),
            request: None,
            is_told: false,
            has_ended: false,
            is_on_lane,
            received: None,
            charge: Charge::new(Arc::clone(core), Budget::Received),
            _permit: admitted.permit,
        }
    }

    /// Tell the application of a streaming call.
    pub fn open(&mut self, core: &Core, events: &mut Vec<Event>) {
        if self.arity == Arity::Stream {
            core.counters.count(Counter::StreamsTotal);
            self.tell(events, Kind::Opened);
        }
    }

    /// Write what is to be written, read what is there. Returns the bytes that the network took;
    /// None: the call is over.
    pub fn look(
        &mut self,
        core: &Core,
        events: &mut Vec<Event>,
        timed: &mut Vec<Timed>,
    ) -> Option<usize> {
        self.call.collected();
        let waker = self.waker.clone();
        let context = &mut Context::from_waker(&waker);
        let written = self.outbound.write(&self.call, context);
        core.counters.add(Counter::MessagesOut, written.messages);
        if written.bytes > 0 && self.call.has_room_again() && !self.call.has_ended() {
            self.tell(events, Kind::Writable);
        }
        if written.is_done {
            timed.extend(
                self.received.zip(written.work).map(|(received, work)| Timed { received, work }),
            );
            return None;
        }
        self.inbound.settle(written.settled + self.call.take_settled());
        self.charge.hold(self.inbound.held());
        if !self.call.has_ended() {
            if let Err(fault) = self.read(core, events, context) {
                // Else the application has just ended the call: its last word is on the way.
                return (!self.fail(core, events, &fault)).then_some(written.bytes);
            }
        }
        if self.outbound.is_reset(context) {
            self.abandon(core, events);
            return None;
        }
        Some(written.bytes)
    }

    /// The deadline has passed.
    pub fn expire(&mut self, core: &Core, events: &mut Vec<Event>) {
        if self.cancel(events) {
            core.counters.count(Counter::DeadlinesExceeded);
            self.outbound.end_with(code::DEADLINE_EXCEEDED, "Deadline Exceeded");
        } else {
            // Answered in time, but the answer has not been written, or not been taken by the peer.
            self.outbound.cut_off(code::DEADLINE_EXCEEDED, "Deadline Exceeded");
        }
    }

    /// The peer is gone.
    pub fn abandon(&mut self, core: &Core, events: &mut Vec<Event>) {
        if self.cancel(events) {
            core.counters.count(Counter::Resets);
        }
    }

    fn read(
        &mut self,
        core: &Core,
        events: &mut Vec<Event>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        while !self.has_ended && self.has_window(core) {
            let received = self.inbound.receive(context).map_err(Fault::from)?;
            if !self.charge.hold(self.inbound.held()) {
                return Err(Fault::out_of_memory());
            }
            match received {
                Received::Message(message) => {
                    core.counters.count(Counter::MessagesIn);
                    self.deliver(core, events, message)?;
                }
                Received::End => {
                    self.has_ended = true;
                    self.deliver_end(core, events)?;
                }
                Received::Nothing | Received::Gone => break,
            }
        }
        Ok(())
    }

    fn has_window(&self, core: &Core) -> bool {
        self.arity == Arity::Unary
            || (self.inbound.unsettled() < core.limits.stream_window
                && self.inbound.unsettled_bytes() < core.limits.stream_window_bytes)
    }

    fn deliver(
        &mut self,
        core: &Core,
        events: &mut Vec<Event>,
        message: Bytes,
    ) -> Result<(), Fault> {
        match self.arity {
            Arity::Stream => {
                let ticket = self.call.ticket();
                self.hand_up(core, events, Kind::Message, message, ticket);
            }
            Arity::Unary if self.request.is_none() => self.request = Some(message),
            Arity::Unary => return Err(Fault::cardinality("more than one message")),
        }
        Ok(())
    }

    fn deliver_end(&mut self, core: &Core, events: &mut Vec<Event>) -> Result<(), Fault> {
        match self.arity {
            Arity::Stream => self.tell(events, Kind::HalfClosed),
            Arity::Unary => {
                let request = self.request.take();
                let request = request.ok_or_else(|| Fault::cardinality("no message"))?;
                self.received = Some(Instant::now());
                self.hand_up(core, events, Kind::Request, request, 0);
            }
        }
        Ok(())
    }

    fn hand_up(
        &mut self,
        core: &Core,
        events: &mut Vec<Event>,
        kind: Kind,
        message: Bytes,
        ticket: u64,
    ) {
        self.is_told = true;
        let seen = if self.is_on_lane { core.plans.recognise(&message) } else { None };
        events.push(Event { kind, call: Arc::clone(&self.call), message, ticket, seen });
    }

    fn tell(&mut self, events: &mut Vec<Event>, kind: Kind) {
        self.is_told = true;
        let call = Arc::clone(&self.call);
        events.push(Event { kind, call, message: Bytes::new(), ticket: 0, seen: None });
    }

    fn fail(&mut self, core: &Core, events: &mut Vec<Event>, fault: &Fault) -> bool {
        core.counters.count(fault.counter);
        let is_first = self.cancel(events);
        if is_first {
            self.outbound.end_with(fault.code, &fault.message);
        }
        is_first
    }

    // True: the application had not ended the call before.
    fn cancel(&mut self, events: &mut Vec<Event>) -> bool {
        if !self.call.cancel() {
            return false;
        }
        if self.is_told {
            self.tell(events, Kind::Cancelled);
        } else {
            self.call.hide();
        }
        true
    }
}

impl Fault {
    fn cardinality(got: &str) -> Self {
        Self {
            counter: Counter::RefusedMessages,
            code: code::INVALID_ARGUMENT,
            message: format!("The method takes exactly one message, the call had {got}"),
        }
    }

    fn out_of_memory() -> Self {
        Self {
            counter: Counter::RefusedMemory,
            code: code::RESOURCE_EXHAUSTED,
            message: "The memory for requests is full".to_owned(),
        }
    }
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Self {
        let (counter, code, message) = match invalid {
            Invalid::Frame(error @ FrameError::TooLarge { .. }) => {
                (Counter::RefusedMessageSize, code::RESOURCE_EXHAUSTED, error.to_string())
            }
            Invalid::Frame(error @ FrameError::OutOfMemory) => {
                (Counter::RefusedMemory, code::RESOURCE_EXHAUSTED, error.to_string())
            }
            Invalid::Frame(error) => (Counter::RefusedMessages, code::INTERNAL, error.to_string()),
            Invalid::CutOff => {
                let text = "The call ended in the middle of a message".to_owned();
                (Counter::RefusedMessages, code::INTERNAL, text)
            }
        };
        Self { counter, code, message }
    }
}
