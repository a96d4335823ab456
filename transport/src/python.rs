//! What Python sees: `Server`, `Call` and `Event`. Nothing is decided here; objects are made and
//! arguments are checked. The interpreter's lock is released wherever something is waited for.

use crate::call::{self, Finish};
use crate::core::{Arity, Core, Methods};
use crate::events::{self, Kind};
use crate::limits::Limits;
use crate::server;
use crate::tls::{Files, Tls};
use crate::wire::frame;
use crate::wire::metadata::{self, Value};
use bytes::BytesMut;
use http::HeaderMap;
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyMapping, PyString, PyTuple};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

const OK: i32 = 0;
const CODES: std::ops::RangeInclusive<i32> = 0..=16;
const KINDS: [&str; 5] = ["request", "opened", "message", "half-closed", "cancelled"];

/// What all calls of a server share on the side of Python.
struct Shared {
    methods: Vec<(Py<PyString>, Arity)>,
    // One moment on both clocks, which are the same one: CLOCK_MONOTONIC.
    moment: (Instant, f64),
}

#[pyclass(frozen, module = "penstock_transport")]
struct Event {
    #[pyo3(get)]
    kind: Py<PyAny>,
    #[pyo3(get)]
    call: Py<PyAny>,
    #[pyo3(get)]
    message: Py<PyBytes>,
}

#[pyclass(frozen, module = "penstock_transport")]
struct Call {
    call: Arc<call::Call>,
    shared: Arc<Shared>,
    metadata: PyOnceLock<Py<PyTuple>>,
    context: Mutex<Option<Py<PyAny>>>,
}

#[pyclass(frozen, module = "penstock_transport")]
struct Server {
    server: server::Server,
    shared: Arc<Shared>,
    addresses: Vec<String>,
    kinds: [Py<PyAny>; 5],
}

#[pymethods]
impl Call {
    #[getter]
    fn method(&self, py: Python<'_>) -> PyResult<Py<PyString>> {
        Ok(self.entry()?.0.clone_ref(py))
    }

    #[getter]
    fn metadata(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        let tuple = self.metadata.get_or_try_init(py, || {
            let visible = metadata::visible(&self.call.head.headers);
            let pairs = visible.into_iter().map(|(name, value)| match value {
                Value::Text(text) => (name, text).into_pyobject(py),
                Value::Binary(bytes) => (name, PyBytes::new(py, &bytes)).into_pyobject(py),
            });
            let pairs = pairs.collect::<PyResult<Vec<_>>>()?;
            PyTuple::new(py, pairs).map(Bound::unbind)
        })?;
        Ok(tuple.clone_ref(py))
    }

    #[getter]
    fn peer(&self) -> &str {
        &self.call.head.peer.address
    }

    #[getter]
    fn peer_certificate<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let certificate = self.call.head.peer.certificate.as_ref();
        certificate.map(|certificate| PyBytes::new(py, certificate))
    }

    #[getter]
    fn deadline(&self) -> Option<f64> {
        let (instant, seconds) = self.shared.moment;
        let deadline = self.call.head.deadline?;
        Some(seconds + deadline.duration_since(instant).as_secs_f64())
    }

    #[getter]
    fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        crate::sync::lock(&self.context).as_ref().map(|context| context.clone_ref(py))
    }

    #[setter]
    fn set_context(&self, context: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *crate::sync::lock(&self.context), context);
        drop(before); // outside the lock: it may run Python
    }

    #[pyo3(signature = (message, *, settles = 0))]
    fn send(&self, message: &[u8], settles: u32) -> PyResult<bool> {
        let sent = self.call.send(message, settles).ok_or_else(too_long)?;
        sent.wake.into_iter().for_each(Waker::wake);
        Ok(sent.has_room)
    }

    fn settle(&self, count: u32) {
        self.call.settle(count).into_iter().for_each(Waker::wake);
    }

    #[pyo3(signature = (code, message = None, *, reply = None, trailers = None))]
    fn finish(
        &self,
        code: i32,
        message: Option<&Bound<'_, PyString>>,
        reply: Option<&[u8]>,
        trailers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if !CODES.contains(&code) {
            return Err(PyValueError::new_err(format!("{code} is not a status code of gRPC")));
        }
        let reply = match (self.entry()?.1, code, reply) {
            (Arity::Unary, OK, Some(reply)) => Some(framed(reply)?),
            (Arity::Unary, OK, None) => {
                return Err(PyValueError::new_err("a unary call that ends with OK needs a reply"))
            }
            _ => None,
        };
        let finish = Finish {
            code,
            message: message.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default(),
            reply,
            trailers: trailers.map_or_else(|| Ok(HeaderMap::new()), trailers_of)?,
        };
        self.call.finish(finish).into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (method, _) = self.entry()?;
        Ok(format!("<Call {} from {}>", method.bind(py).to_string_lossy(), self.peer()))
    }
}

impl Call {
    fn entry(&self) -> PyResult<&(Py<PyString>, Arity)> {
        let entry = self.shared.methods.get(self.call.head.method);
        entry.ok_or_else(|| PyValueError::new_err("the method of this call is unknown"))
    }

    // Answer without waking: one answer of a unary call, or of a stream's oldest open message.
    fn reply(&self, reply: &[u8]) -> PyResult<Option<Waker>> {
        if self.entry()?.1 == Arity::Stream {
            return Ok(self.call.send(reply, 1).ok_or_else(too_long)?.wake);
        }
        let reply = Some(framed(reply)?);
        let trailers = HeaderMap::new();
        Ok(self.call.finish(Finish { code: OK, message: String::new(), reply, trailers }))
    }
}

#[pymethods]
impl Event {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<Event {} of {}>", self.kind.bind(py).repr()?, self.call.bind(py).repr()?))
    }
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (
        addresses, methods, *, kinds = None, workers = None,
        tls_certificate = None, tls_key = None, tls_client_ca = None,
        message_bytes = 64 << 20, concurrent_calls = 256, streams_per_connection = 128,
        connections = 2000, header_list_bytes = 16 << 10, stream_window = 64,
        stream_window_bytes = 64 << 20, buffered_bytes = 1 << 30,
        outgoing_window_bytes = 4 << 20, connection_outgoing_bytes = 128 << 20,
        http2_stream_window = 1 << 20, http2_connection_window = 16 << 20,
        resets_per_second = 1000, control_frames_per_second = 1000,
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
        let tls = tls_of(tls_certificate, tls_key, tls_client_ca)?;
        let clock = py.import("time")?.getattr("monotonic")?;
        let moment = (Instant::now(), clock.call0()?.extract()?);
        Ok(Self {
            server: server::Server::new(Core::new(methods, limits), tls, workers_of(workers)?),
            shared: Arc::new(Shared { methods: paths, moment }),
            addresses,
            kinds: kinds.unwrap_or_else(|| {
                KINDS.map(|kind| PyString::intern(py, kind).into_any().unbind())
            }),
        })
    }

    #[getter]
    fn name(&self) -> &'static str {
        "native"
    }

    fn start(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.server.start(&self.addresses)).map_err(PyOSError::new_err)
    }

    #[pyo3(signature = (max_events, timeout = None))]
    fn take<'py>(
        &self,
        py: Python<'py>,
        max_events: usize,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let timeout = optional("timeout", timeout)?;
        let events = &self.server.core.events;
        let mut burst = events.try_take(max_events);
        if burst.is_empty() && max_events > 0 && timeout != Some(Duration::ZERO) {
            burst = py.detach(|| events.take(max_events, timeout));
        }
        let list = PyList::empty(py);
        for event in burst {
            list.append(self.event(py, event)?)?;
        }
        Ok(list)
    }

    fn reply_many(&self, replies: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut wakers = Vec::new();
        let outcome = reply_each(replies, &mut wakers);
        // Also when a later one could not be sent: those before it are under way.
        wakers.into_iter().for_each(Waker::wake);
        outcome
    }

    fn drain(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = optional("timeout", Some(timeout))?.unwrap_or(Duration::MAX);
        Ok(py.detach(|| self.server.drain(timeout)))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.server.close());
    }

    #[getter]
    fn closed(&self) -> bool {
        self.server.is_closed()
    }

    fn reload_tls(&self, py: Python<'_>) -> PyResult<()> {
        match py.detach(|| self.server.reload_tls()) {
            Some(error) => Err(PyValueError::new_err(error)),
            None => Ok(()),
        }
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = &self.server.core;
        let totals = PyDict::new(py);
        for (name, total) in core.counters.iter() {
            totals.set_item(name, total)?;
        }
        totals.set_item("connections", core.connections())?;
        totals.set_item("calls", core.calls())?;
        totals.set_item("buffered_bytes", core.buffered())?;
        Ok(totals)
    }
}

impl Server {
    fn event(&self, py: Python<'_>, event: events::Event) -> PyResult<Event> {
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
        let handle = Py::new(
            py,
            Call {
                call: Arc::clone(call),
                shared: Arc::clone(&self.shared),
                metadata: PyOnceLock::new(),
                context: Mutex::new(None),
            },
        )?;
        let handle = handle.into_any();
        call.with_handle(|slot| *slot = Some(handle.clone_ref(py)));
        Ok(handle)
    }
}

fn reply_each(replies: &Bound<'_, PyAny>, wakers: &mut Vec<Waker>) -> PyResult<()> {
    for pair in replies.try_iter()? {
        let pair = pair?;
        let pair = pair.cast::<PyTuple>()?;
        let call = pair.get_item(0)?;
        let reply = pair.get_item(1)?;
        wakers.extend(call.cast::<Call>()?.get().reply(reply.extract()?)?);
    }
    Ok(())
}

fn framed(message: &[u8]) -> PyResult<bytes::Bytes> {
    let mut out = BytesMut::new();
    frame::encode(message, &mut out).ok_or_else(too_long)?;
    Ok(out.freeze())
}

fn too_long() -> PyErr {
    PyValueError::new_err("a message of gRPC is at most 4294967295 bytes long")
}

fn trailers_of(pairs: &Bound<'_, PyAny>) -> PyResult<HeaderMap> {
    let mut trailers = HeaderMap::new();
    for pair in pairs.try_iter()? {
        let (name, value): (String, Bound<'_, PyAny>) = pair?.extract()?;
        let value = if let Ok(bytes) = value.cast::<PyBytes>() {
            Value::Binary(bytes.as_bytes().to_vec())
        } else {
            Value::Text(value.extract()?)
        };
        let (name, value) = metadata::encode(&name, &value).map_err(PyValueError::new_err)?;
        trailers.append(name, value);
    }
    Ok(trailers)
}

// The paths as Python strings, in the order of their indices, and the table to find them by.
fn methods_of(mapping: &Bound<'_, PyMapping>) -> PyResult<(Vec<(Py<PyString>, Arity)>, Methods)> {
    let mut paths = Vec::new();
    let mut methods = Methods::default();
    for item in mapping.items()?.iter() {
        let (path, arity): (Bound<'_, PyString>, Bound<'_, PyAny>) = item.extract()?;
        let arity = arity_of(&arity)?;
        methods.insert(path.to_str()?.to_owned(), arity);
        paths.push((path.unbind(), arity));
    }
    Ok((paths, methods))
}

// A string, or an enumeration's member with one.
fn arity_of(arity: &Bound<'_, PyAny>) -> PyResult<Arity> {
    let value = arity.getattr_opt("value")?.unwrap_or_else(|| arity.clone());
    match value.extract::<String>().as_deref() {
        Ok("unary") => Ok(Arity::Unary),
        Ok("stream") => Ok(Arity::Stream),
        _ => {
            let text = format!("a method is \"unary\" or \"stream\", not {}", arity.repr()?);
            Err(PyValueError::new_err(text))
        }
    }
}

fn tls_of(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> PyResult<Option<Tls>> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let tls = Tls::load(Files { certificate, key, client_ca });
            tls.map(Some).map_err(PyValueError::new_err)
        }
        (None, None) if client_ca.is_none() => Ok(None),
        _ => Err(PyTypeError::new_err("TLS needs both tls_certificate and tls_key")),
    }
}

// Two threads keep up with one interpreter; where there are fewer cores, it needs them itself.
fn workers_of(workers: Option<usize>) -> PyResult<usize> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    positive("workers", workers.unwrap_or(if cores > 2 { 2 } else { 1 }))
}

fn positive(name: &str, value: usize) -> PyResult<usize> {
    if value == 0 {
        return Err(PyValueError::new_err(format!("{name} must be at least 1")));
    }
    Ok(value)
}

fn window(name: &str, value: u32) -> PyResult<u32> {
    const LARGEST: u32 = (1 << 31) - 1; // RFC 9113 section 6.9.1
    const SMALLEST: u32 = 65_535; // what every peer may assume
    if !(SMALLEST..=LARGEST).contains(&value) {
        let text = format!("{name} must be between {SMALLEST} and {LARGEST}, not {value}");
        return Err(PyValueError::new_err(text));
    }
    Ok(value)
}

// None and infinity: never.
fn optional(name: &str, value: Option<f64>) -> PyResult<Option<Duration>> {
    match value {
        None => Ok(None),
        Some(f64::INFINITY) => Ok(None),
        Some(value) => seconds(name, value).map(Some),
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| PyValueError::new_err(format!("{name} = {value}: {error}")))
}

/// gRPC over HTTP/2: bytes in, bytes out, in bursts.
#[pymodule]
mod penstock_transport {
    #[pymodule_export]
    use super::{Call, Event, Server};
}
