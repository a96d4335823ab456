//! `Server` as Python sees it.

use super::arguments::{methods_of, optional, positive, seconds, tls_of, window};
use super::bundle::Bundle;
use super::call::Call;
use super::{Shared, BUNDLE, KINDS, SHRUNK};
use crate::core::{Arity, Core};
use crate::events::{self, Kind};
use crate::lane::member::Member;
use crate::lane::open::Open;
use crate::lane::plans::Plan;
use crate::limits::Limits;
use crate::overhead::BOUNDS_US;
use crate::server;
use http::HeaderName;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMapping, PyString, PyTuple};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

#[pyclass(frozen, module = "penstock_transport")]
pub struct Server {
    inner: server::Server,
    shared: Arc<Shared>,
    addresses: Vec<String>,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (
        addresses, methods, *, kinds = None, lane = vec![], lane_trailers = vec![],
        workers = 0,
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
        kinds: Option<Vec<Py<PyAny>>>,
        lane: Vec<String>,
        lane_trailers: Vec<String>,
        workers: usize,
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
        let (paths, mut methods) = methods_of(methods)?;
        let lane_trailers = names_of(lane_trailers)?;
        for path in lane {
            methods.put_on_lane(&path);
        }
        let tls = tls_of(tls_certificate, tls_key, tls_client_ca, tls_reloaded)?;
        let clock = py.import("time")?.getattr("monotonic")?;
        let moment = (Instant::now(), clock.call0()?.extract()?);
        let kinds = kinds.unwrap_or_else(|| {
            KINDS.iter().map(|kind| PyString::intern(py, kind).into_any().unbind()).collect()
        });
        if kinds.len() <= SHRUNK {
            let expected = KINDS.join(", ");
            return Err(PyValueError::new_err(format!(
                "kinds: {} given, expected {expected}",
                kinds.len()
            )));
        }
        let core = Core::new(methods, limits);
        let outstanding = Arc::clone(&core.outstanding);
        let shared = Shared { methods: paths, kinds, lane_trailers, outstanding, moment };
        let inner = server::Server::new(core, tls, workers);
        Ok(Self { inner, shared: Arc::new(shared), addresses })
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
        let burst = py.detach(|| self.inner.take(max_events, timeout));
        self.hand_up(py, burst)
    }

    fn learn(
        &self,
        head: Vec<u8>,
        sizes: Vec<usize>,
        rows: usize,
        max_rows: usize,
        plan: Py<PyAny>,
    ) {
        self.inner.core.plans.keep(head, Plan::new(plan, sizes, rows, max_rows));
    }

    fn forget(&self) {
        self.inner.core.plans.clear();
    }

    fn shrunk(&self) -> Vec<Bundle> {
        let bundles = self.inner.core.outstanding.shrunk();
        bundles.into_iter().map(|bundle| Bundle::new(bundle, Arc::clone(&self.shared))).collect()
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

    fn overhead(&self) -> (Vec<u64>, Vec<u64>, u64) {
        let (counts, sum_ns) = self.inner.core.overhead.snapshot();
        (BOUNDS_US.to_vec(), counts, sum_ns)
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
    fn hand_up<'py>(
        &self,
        py: Python<'py>,
        burst: Vec<events::Event>,
    ) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        let mut open = Open::default();
        let mut ends = Vec::new();
        for mut event in burst {
            if let Some(seen) = event.seen.take() {
                open.add(Member::new(event, seen));
            } else if matches!(event.kind, Kind::HalfClosed | Kind::Cancelled) {
                ends.push(event);
            } else if self.shared.kinds.len() > event.kind as usize {
                list.append(self.shared.event(py, &event)?)?;
            }
        }
        let core = &self.inner.core;
        for bundle in open.close() {
            core.outstanding.add(&bundle);
            list.append(self.shared.bundle_event(py, BUNDLE, bundle)?)?;
        }
        // Behind the bundles, which may have messages of the same calls.
        let mut has_left = false;
        for event in ends {
            has_left |= event.kind == Kind::Cancelled;
            if event.call.arity == Arity::Unary && !event.call.has_handle() {
                event.call.hide(); // its request is in a bundle
            } else {
                list.append(self.shared.event(py, &event)?)?;
            }
        }
        if has_left {
            for bundle in core.outstanding.shrunk() {
                list.append(self.shared.bundle_event(py, SHRUNK, bundle)?)?;
            }
        }
        Ok(list)
    }
}

fn names_of(names: Vec<String>) -> PyResult<Vec<HeaderName>> {
    let parse = |name: String| {
        name.parse().map_err(|_| PyValueError::new_err(format!("{name:?} is not a header name")))
    };
    names.into_iter().map(parse).collect()
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
