//! What Python sees: `Server`, `Call` and `Event`. Nothing is decided here; objects are made and
//! arguments are checked. The interpreter's lock is released wherever something is waited for.

mod arguments;
mod bundle;
mod call;
mod load;
mod server;

use crate::events;
use crate::lane;
use http::HeaderName;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;
use std::time::Instant;

/// What all calls of a server share on the side of Python.
pub struct Shared {
    methods: arguments::Paths,
    kinds: Vec<Py<PyAny>>,
    lane_trailers: Vec<HeaderName>,
    outstanding: Arc<lane::outstanding::Outstanding>,
    // One moment on both clocks, which are the same one: CLOCK_MONOTONIC.
    moment: (Instant, f64),
}

const KINDS: [&str; 8] =
    ["request", "opened", "message", "half-closed", "cancelled", "bundle", "shrunk", "writable"];
const BUNDLE: usize = 5;
const SHRUNK: usize = 6;

impl Shared {
    // In seconds of Python's time.monotonic.
    fn seconds(&self, instant: Instant) -> f64 {
        let (moment, seconds) = self.moment;
        match instant.checked_duration_since(moment) {
            Some(later) => seconds + later.as_secs_f64(),
            None => seconds - moment.duration_since(instant).as_secs_f64(),
        }
    }

    // All events of a call carry the same object.
    fn handle(
        self: &Arc<Self>,
        py: Python<'_>,
        call: &Arc<crate::call::Call>,
    ) -> PyResult<Py<PyAny>> {
        if let Some(handle) = call.with_handle(|slot| slot.as_ref().map(|one| one.clone_ref(py))) {
            return Ok(handle);
        }
        let made = Py::new(py, call::Call::new(Arc::clone(call), Arc::clone(self)))?.into_any();
        // Unless another thread has made one meanwhile.
        let handle =
            call.with_handle(|slot| slot.get_or_insert_with(|| made.clone_ref(py)).clone_ref(py));
        if call.is_finished() {
            call.forget(); // finished or cancelled since the event was taken
        }
        Ok(handle)
    }

    fn event(self: &Arc<Self>, py: Python<'_>, event: &events::Event) -> PyResult<Event> {
        let call = self.handle(py, &event.call)?;
        if event.kind == events::Kind::Cancelled {
            event.call.hide(); // nothing more is told of it, and no further object is kept with it
            event.call.forget();
        }
        let kind = self.kind(py, event.kind as usize);
        let message = PyBytes::new(py, &event.message).unbind();
        Ok(Event { kind, call, message, ticket: event.ticket, bundle: None })
    }

    fn bundle_event(
        self: &Arc<Self>,
        py: Python<'_>,
        kind: usize,
        bundle: Arc<lane::bundle::Bundle>,
    ) -> PyResult<Event> {
        let bundle = bundle::Bundle::new(bundle, Arc::clone(self));
        let bundle = Some(Py::new(py, bundle)?);
        let message = PyBytes::new(py, &[]).unbind();
        Ok(Event { kind: self.kind(py, kind), call: py.None(), message, ticket: 0, bundle })
    }

    fn kind(&self, py: Python<'_>, index: usize) -> Py<PyAny> {
        self.kinds.get(index).map_or_else(|| py.None(), |kind| kind.clone_ref(py))
    }
}

#[pyclass(frozen, module = "penstock_transport")]
pub struct Event {
    #[pyo3(get)]
    kind: Py<PyAny>,
    #[pyo3(get)]
    call: Py<PyAny>,
    #[pyo3(get)]
    message: Py<PyBytes>,
    #[pyo3(get)]
    ticket: u64,
    #[pyo3(get)]
    bundle: Option<Py<bundle::Bundle>>,
}

#[pymethods]
impl Event {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<Event {} of {}>", self.kind.bind(py).repr()?, self.call.bind(py).repr()?))
    }
}

/// gRPC over HTTP/2: bytes in, bytes out, in bursts.
#[pymodule]
mod penstock_transport {
    #[pymodule_export]
    use super::load::{Load, Peer, Sample};
    #[pymodule_export]
    use super::{bundle::Bundle, call::Call, server::Server, Event};
}
