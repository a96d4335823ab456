//! `Peer`, `Load` and `Sample` as Python sees them.

use super::arguments::{positive, seconds};
use crate::client::address;
use crate::client::engine::Engine;
use crate::client::once::{self, Refusal};
use crate::client::sample::{self, Durations, Usage};
use crate::client::tls::{Files, Tls};
use crate::client::work::{framed, Matching, Schedule, Work, ID_DIGITS};
use crate::sync::lock;
use crate::wire::metadata;
use http::{HeaderMap, HeaderName};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::PathBuf;
use std::sync::Mutex;

#[derive(FromPyObject)]
enum Text {
    #[pyo3(transparent)]
    Text(String),
    #[pyo3(transparent)]
    Binary(Vec<u8>),
}

#[pyclass(frozen, module = "penstock_transport")]
pub struct Peer {
    peer: address::Peer,
    headers: HeaderMap,
}

#[pymethods]
impl Peer {
    #[new]
    #[pyo3(signature = (
        address, *, metadata = Vec::new(), tls = false, tls_ca = None, tls_certificate = None,
        tls_key = None, tls_name = None, tls_verify = true,
    ))]
    // Python calls them by name.
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)]
    fn new(
        address: &str,
        metadata: Vec<(String, Text)>,
        tls: bool,
        tls_ca: Option<PathBuf>,
        tls_certificate: Option<PathBuf>,
        tls_key: Option<PathBuf>,
        tls_name: Option<&str>,
        tls_verify: bool,
    ) -> PyResult<Self> {
        let identity = match (tls_certificate, tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(PyTypeError::new_err("tls_certificate and tls_key go together"));
            }
        };
        if tls && tls_verify != tls_ca.is_some() {
            return Err(PyTypeError::new_err("TLS needs either tls_ca or tls_verify=False"));
        }
        if !tls && (tls_ca.is_some() || identity.is_some() || tls_name.is_some() || !tls_verify) {
            return Err(PyTypeError::new_err("the settings of TLS need tls=True"));
        }
        let files = Files { ca: tls_ca, identity };
        let tls = tls.then(|| Tls::load(&files, tls_name)).transpose();
        let tls = tls.map_err(PyValueError::new_err)?;
        let peer = address::Peer::new(address, tls).map_err(PyValueError::new_err)?;
        Ok(Self { peer, headers: headers_of(metadata)? })
    }

    #[pyo3(signature = (path, message, timeout_s = 10.0))]
    fn call<'py>(
        &self,
        py: Python<'py>,
        path: &str,
        message: &[u8],
        timeout_s: f64,
    ) -> PyResult<(i32, String, Bound<'py, PyBytes>)> {
        let patience = seconds("timeout_s", timeout_s)?;
        let answer = py.detach(|| once::call(&self.peer, path, &self.headers, message, patience));
        match answer {
            Ok(reply) => Ok((0, String::new(), PyBytes::new(py, &reply))),
            Err(Refusal::Failed(failure)) => {
                Ok((failure.code, failure.text, PyBytes::new(py, b"")))
            }
            Err(Refusal::Unreachable(error)) => Err(PyOSError::new_err(error)),
        }
    }
}

fn headers_of(metadata: Vec<(String, Text)>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in metadata {
        let value = match value {
            Text::Text(text) => metadata::Value::Text(text),
            Text::Binary(bytes) => metadata::Value::Binary(bytes),
        };
        let (name, value) = metadata::encode(&name, &value).map_err(PyValueError::new_err)?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[pyclass(frozen, module = "penstock_transport")]
pub struct Load {
    work: Work,
    engine: Mutex<Option<Engine>>,
}

#[pymethods]
impl Load {
    #[new]
    #[pyo3(signature = (
        peer, path, messages, *, in_flight = None, per_second = None, seed = 0, connections = 1,
        threads = 1, streams = 0, id_at = Vec::new(), reply_id = Vec::new(),
        reply_error = Vec::new(), timings = Vec::new(), most_in_flight = 10_000, timeout_s = 60.0,
    ))]
    // Python calls them by name.
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
    fn new(
        peer: &Peer,
        path: String,
        messages: Vec<PyBackedMessage>,
        in_flight: Option<usize>,
        per_second: Option<f64>,
        seed: u64,
        connections: usize,
        threads: usize,
        streams: usize,
        id_at: Vec<usize>,
        reply_id: Vec<u32>,
        reply_error: Vec<u32>,
        timings: Vec<String>,
        most_in_flight: usize,
        timeout_s: f64,
    ) -> PyResult<Self> {
        let schedule = match (in_flight, per_second) {
            (Some(in_flight), None) => {
                Schedule::Closed { in_flight: positive("in_flight", in_flight)? }
            }
            (None, Some(rate)) if rate.is_finite() && (1e-3..=1e9).contains(&rate) => {
                Schedule::Open { per_second: rate, seed }
            }
            (None, Some(rate)) => {
                let text = format!("per_second must be between 0.001 and 1e9, not {rate}");
                return Err(PyValueError::new_err(text));
            }
            _ => return Err(PyTypeError::new_err("give either in_flight or per_second")),
        };
        if messages.is_empty() {
            return Err(PyValueError::new_err("there is no message to send"));
        }
        let fits = |(message, &at): (&PyBackedMessage, &usize)| at + ID_DIGITS <= message.len();
        let as_many = id_at.is_empty() || id_at.len() == messages.len();
        if !as_many || !messages.iter().zip(&id_at).all(fits) {
            let text = format!("id_at must name the place of {ID_DIGITS} bytes in each message");
            return Err(PyValueError::new_err(text));
        }
        let framed: Option<Vec<_>> = messages.iter().map(|message| framed(message)).collect();
        let messages =
            framed.ok_or_else(|| PyValueError::new_err("a message is longer than 4 GiB"))?;
        let name = |name: &String| HeaderName::from_bytes(name.as_bytes());
        let timings: Result<Vec<_>, _> = timings.iter().map(name).collect();
        let timings = timings.map_err(|error| PyValueError::new_err(error.to_string()))?;
        let connections = positive("connections", connections)?;
        let most = positive("most_in_flight", most_in_flight)?;
        let work = Work {
            peer: peer.peer.clone(),
            path,
            messages,
            headers: peer.headers.clone(),
            streams,
            matching: Matching { id_at, reply_id, reply_error },
            schedule,
            most_in_flight: most.div_ceil(connections),
            timeout: seconds("timeout_s", timeout_s)?,
            timings,
            connections,
            threads: positive("threads", threads)?,
        };
        work.request().map_err(PyValueError::new_err)?;
        Ok(Self { work, engine: Mutex::new(None) })
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let started = py.detach(|| {
            let mut engine = lock(&self.engine);
            if engine.is_some() {
                return Ok(false);
            }
            *engine = Some(Engine::start(&self.work)?);
            Ok(true)
        });
        match started {
            Ok(true) => Ok(()),
            Ok(false) => Err(PyRuntimeError::new_err("a load is started once")),
            Err(error) => Err(PyOSError::new_err::<String>(error)),
        }
    }

    fn take(&self, py: Python<'_>) -> PyResult<Sample> {
        let taken = py.detach(|| lock(&self.engine).as_ref().and_then(Engine::take));
        taken.map(Sample).ok_or_else(|| PyRuntimeError::new_err("the load does not run"))
    }

    #[pyo3(signature = (timeout_s = 1.0))]
    fn stop(&self, py: Python<'_>, timeout_s: f64) -> PyResult<()> {
        let patience = seconds("timeout_s", timeout_s)?;
        py.detach(|| {
            if let Some(engine) = &*lock(&self.engine) {
                engine.stop(patience);
            }
        });
        Ok(())
    }
}

type PyBackedMessage = pyo3::pybacked::PyBackedBytes;

#[pyclass(frozen, module = "penstock_transport")]
pub struct Sample(sample::Sample);

#[pymethods]
impl Sample {
    #[getter]
    fn seconds(&self) -> f64 {
        self.0.seconds
    }

    #[getter]
    fn answered(&self) -> u64 {
        self.0.answered
    }

    #[getter]
    fn failures(&self) -> Vec<(i32, u64, String)> {
        let failures = self.0.failures.iter();
        failures.map(|(&code, failed)| (code, failed.count, failed.first.clone())).collect()
    }

    #[getter]
    fn series(&self) -> Vec<u64> {
        self.0.series()
    }

    #[getter]
    fn usage(&self) -> Vec<(f64, f64, f64)> {
        let seconds = |one: &Usage| {
            (one.cpu.as_secs_f64(), one.busy.as_secs_f64(), one.waiting.as_secs_f64())
        };
        self.0.usage.iter().map(seconds).collect()
    }

    #[getter]
    fn stream_limit(&self) -> Option<usize> {
        self.0.stream_limit
    }

    #[getter]
    fn reconnects(&self) -> u64 {
        self.0.reconnects
    }

    #[getter]
    fn kinds(&self) -> Vec<String> {
        let timings = (0..self.0.timings.len()).map(|index| format!("timing {index}"));
        ["latency".to_owned(), "lag".to_owned()].into_iter().chain(timings).collect()
    }

    fn count(&self, kind: &str) -> PyResult<u64> {
        Ok(self.durations(kind)?.count())
    }

    fn quantile_s(&self, kind: &str, quantile: f64) -> PyResult<f64> {
        if !(0.0..=1.0).contains(&quantile) {
            let text = format!("a quantile is between 0 and 1, not {quantile}");
            return Err(PyValueError::new_err(text));
        }
        Ok(self.durations(kind)?.quantile_s(quantile))
    }

    fn mean_s(&self, kind: &str) -> PyResult<f64> {
        Ok(self.durations(kind)?.mean_s())
    }

    fn max_s(&self, kind: &str) -> PyResult<f64> {
        Ok(self.durations(kind)?.max_s())
    }

    fn recorded(&self, kind: &str) -> PyResult<Vec<(f64, u64)>> {
        Ok(self.durations(kind)?.recorded())
    }

    fn then(&self, later: &Self) -> Self {
        let mut joined = self.0.clone();
        joined.then(&later.0);
        Self(joined)
    }
}

impl Sample {
    fn durations(&self, kind: &str) -> PyResult<&Durations> {
        let index = kind.strip_prefix("timing ").and_then(|index| index.parse::<usize>().ok());
        let found = match (kind, index) {
            ("latency", _) => Some(&self.0.latency),
            ("lag", _) => Some(&self.0.lag),
            (_, Some(index)) => self.0.timings.get(index),
            _ => None,
        };
        found.ok_or_else(|| {
            let text = format!("{kind:?} was not measured: expected one of {:?}", self.kinds());
            PyValueError::new_err(text)
        })
    }
}
