//! `Server` as Python sees it.

use super::arguments::{methods_of, optional, positive, seconds, tls_of, window, workers_of};
use super::call::Call;
use super::{Event, Shared};
use crate::call;
use crate::core::Core;
use crate::events::{self, Kind};
use crate::limits::Limits;
use crate::server;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyMapping, PyString, PyTuple};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

const KINDS: [&str; 5] = ["request", "opened", "message", "half-closed", "cancelled"];

#[pyclass(frozen, module = "penstock_transport")]
pub struct Server {
    inner: server::Server,
    shared: Arc<Shared>,
    addresses: Vec<String>,
    kinds: [Py<PyAny>; 5],
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (
        addresses, methods, *, kinds = None, workers = None,
        tls_certificate = None, tls_key = None, tls_client_ca = None, tls_reloaded = None,
        message_bytes = 64 << 20, concurrent_calls = 256, streams_per_connection = 128,
        connections = 2000, header_list_bytes = 16 << 10, stream_window = 64,
        stream_window_bytes = 64 << 20, buffered_bytes = 1 << 30,
        outgoing_window_bytes = 4 << 20, connection_outgoing_bytes = 128 << 20,
        outgoing_bytes = 1 << 30, compress_replies = false,
        http2_stream_window = 1 << 20, http2_connection_window = 16 << 20,
        resets_per_second = 5000, control_frames_per_second = 1000,
        keepalive_time_s = Some(60.0), keepalive_timeout_s = 20.0,
        min_ping_interval_s = Some(10.0), connection_idle_s = None, connection_age_s = None,
        connection_age_grace_s = 300.0, handshake_timeout_s = 10.0, send_timeout_s = Some(300.0),
    ))]
    // One argument a limit: Python calls them by name.
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        addresses: Vec<String>,
        methods: &Bound<'_, PyMapping>,
        kinds: Option<[Py<PyAny>; 5]>,
        workers: Option<usize>,
        tls_certificate: Option<PathBuf>,
        tls_key: Option<PathBuf>,
        tls_client_ca: Option<PathBuf>,
        tls_reloaded: Option<Py<PyAny>>,
        message_bytes: usize,
        concurrent_calls: usize,
        streams_per_connection: u32,
        connections: usize,
        header_list_bytes: u32,
        stream_window: usize,
        stream_window_bytes: usize,
        buffered_bytes: usize,
        outgoing_window_bytes: usize,
        connection_outgoing_bytes: usize,
        outgoing_bytes: usize,
        compress_replies: bool,
        http2_stream_window: u32,
        http2_connection_window: u32,
        resets_per_second: u32,
        control_frames_per_second: u32,
        keepalive_time_s: Option<f64>,
        keepalive_timeout_s: f64,
        min_ping_interval_s: Option<f64>,
        connection_idle_s: Option<f64>,
        connection_age_s: Option<f64>,
        connection_age_grace_s: f64,
        handshake_timeout_s: f64,
        send_timeout_s: Option<f64>,
    ) -> PyResult<Self> {
        let limits = Limits {
            message_bytes: positive("message_bytes", message_bytes)?,
            concurrent_calls: positive("concurrent_calls", concurrent_calls)?,
            streams_per_connection,
            connections: positive("connections", connections)?,
            header_list_bytes,
            stream_window: positive("stream_window", stream_window)?,
            stream_window_bytes: positive("stream_window_bytes", stream_window_bytes)?,
            buffered_bytes: positive("buffered_bytes", buffered_bytes)?,
            outgoing_window_bytes,
            connection_outgoing_bytes,
            outgoing_bytes,
            compress_replies,
            http2_stream_window: window("http2_stream_window", http2_stream_window)?,
            http2_connection_window: window("http2_connection_window", http2_connection_window)?,
            resets_per_second,
            control_frames_per_second,
            keepalive_time: optional("keepalive_time_s", keepalive_time_s)?,
            keepalive_timeout: seconds("keepalive_timeout_s", keepalive_timeout_s)?,
            min_ping_interval: optional("min_ping_interval_s", min_ping_interval_s)?,
            connection_idle: optional("connection_idle_s", connection_idle_s)?,
            connection_age: optional("connection_age_s", connection_age_s)?,
            connection_age_grace: seconds("connection_age_grace_s", connection_age_grace_s)?,
            handshake_timeout: seconds("handshake_timeout_s", handshake_timeout_s)?,
            send_timeout: optional("send_timeout_s", send_timeout_s)?,
        };
        let (paths, methods) = methods_of(methods)?;
        let tls = tls_of(tls_certificate, tls_key, tls_client_ca, tls_reloaded)?;
        let clock = py.import("time")?.getattr("monotonic")?;
        let moment = (Instant::now(), clock.call0()?.extract()?);
        Ok(Self {
            inner: server::Server::new(Core::new(methods, limits), tls, workers_of(workers)?),
            shared: Arc::new(Shared { methods: paths, moment }),
            addresses,
            kinds: kinds.unwrap_or_else(|| {
                KINDS.map(|kind| PyString::intern(py, kind).into_any().unbind())
            }),
        })
    }

    #[classattr]
    fn name() -> &'static str {
        "native"
    }

    fn start(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.inner.start(&self.addresses)).map_err(PyOSError::new_err)
    }

    #[pyo3(signature = (max_events, timeout = None))]
    fn take<'py>(
        &self,
        py: Python<'py>,
        max_events: usize,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let timeout = optional("timeout", timeout)?;
        let events = &self.inner.core.events;
        let mut burst = events.try_take(max_events);
        if burst.is_empty() && max_events > 0 && timeout != Some(Duration::ZERO) {
            burst = py.detach(|| events.take(max_events, timeout));
        }
        let list = PyList::empty(py);
        for event in burst {
            list.append(self.event(py, &event)?)?;
        }
        Ok(list)
    }

    #[staticmethod]
    fn reply_many(replies: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut wakers = Vec::new();
        let outcome = reply_each(replies, &mut wakers);
        // Also when a later one could not be sent: those before it are under way.
        wakers.into_iter().for_each(Waker::wake);
        outcome
    }

    fn drain(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = optional("timeout", Some(timeout))?.unwrap_or(Duration::MAX);
        Ok(py.detach(|| self.inner.drain(timeout)))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.close());
    }

    #[getter]
    fn closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn reload_tls(&self, py: Python<'_>) -> PyResult<()> {
        match py.detach(|| self.inner.reload_tls()) {
            Some(error) => Err(PyValueError::new_err(error)),
            None => Ok(()),
        }
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = &self.inner.core;
        let totals = PyDict::new(py);
        for (name, total) in core.counters.iter() {
            totals.set_item(name, total)?;
        }
        totals.set_item("connections", core.connections())?;
        totals.set_item("calls", core.calls())?;
        totals.set_item("buffered_bytes", core.buffered())?;
        totals.set_item("unsent_bytes", core.unsent())?;
        Ok(totals)
    }
}

impl Server {
    fn event(&self, py: Python<'_>, event: &events::Event) -> PyResult<Event> {
        let [request, opened, message, half_closed, cancelled] = &self.kinds;
        let kind = match event.kind {
            Kind::Request => request,
            Kind::Opened => opened,
            Kind::Message => message,
            Kind::HalfClosed => half_closed,
            Kind::Cancelled => cancelled,
        };
        let call = self.handle(py, &event.call)?;
        if event.kind == Kind::Cancelled {
            event.call.forget();
        }
        let message = PyBytes::new(py, &event.message).unbind();
        Ok(Event { kind: kind.clone_ref(py), call, message })
    }

    // All events of a call carry the same object.
    fn handle(&self, py: Python<'_>, call: &Arc<call::Call>) -> PyResult<Py<PyAny>> {
        if let Some(handle) = call.with_handle(|slot| slot.as_ref().map(|one| one.clone_ref(py))) {
            return Ok(handle);
        }
        let handle = Py::new(py, Call::new(Arc::clone(call), Arc::clone(&self.shared)))?;
        let handle = handle.into_any();
        call.with_handle(|slot| *slot = Some(handle.clone_ref(py)));
        if call.is_finished() {
            call.forget(); // finished by another thread since the event was taken
        }
        Ok(handle)
    }
}

fn reply_each(replies: &Bound<'_, PyAny>, wakers: &mut Vec<Waker>) -> PyResult<()> {
    for pair in replies.try_iter()? {
        let pair = pair?;
        let pair = pair.cast::<PyTuple>()?;
        let call = pair.get_item(0)?;
        let reply = pair.get_item(1)?;
        wakers.extend(call.cast::<Call>()?.get().reply(pair.py(), reply.extract()?)?);
    }
    Ok(())
}
