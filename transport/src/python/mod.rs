//! What Python sees: `Server`, `Call` and `Event`. Nothing is decided here; objects are made and
//! arguments are checked. The interpreter's lock is released wherever something is waited for.

mod arguments;
mod call;
mod load;
mod server;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::time::Instant;

/// What all calls of a server share on the side of Python.
pub struct Shared {
    methods: arguments::Paths,
    // One moment on both clocks, which are the same one: CLOCK_MONOTONIC.
    moment: (Instant, f64),
}

#[pyclass(frozen, module = "penstock_transport")]
pub struct Event {
    #[pyo3(get)]
    kind: Py<PyAny>,
    #[pyo3(get)]
    call: Py<PyAny>,
    #[pyo3(get)]
    message: Py<PyBytes>,
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
    use super::{call::Call, server::Server, Event};
}
