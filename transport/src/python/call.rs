//! `Call` as Python sees it.

use super::Shared;
use crate::call::{self, Finish, Sent, TooLate};
use crate::core::Arity;
use crate::sync::lock;
use crate::wire::encoding::Encoding;
use crate::wire::metadata::{self, Value};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString, PyTuple};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::task::Waker;

const OK: i32 = 0;
const CODES: RangeInclusive<i32> = 0..=16;

#[pyclass(frozen, module = "penstock_transport")]
pub struct Call {
    inner: Arc<call::Call>,
    shared: Arc<Shared>,
    metadata: PyOnceLock<Py<PyTuple>>,
    context: Mutex<Option<Py<PyAny>>>,
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
            let visible = metadata::visible(&self.inner.head.headers);
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
        &self.inner.head.peer.address
    }

    #[getter]
    fn peer_certificate<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let certificate = self.inner.head.peer.certificate.as_ref();
        certificate.map(|certificate| PyBytes::new(py, certificate))
    }

    #[getter]
    fn deadline(&self) -> Option<f64> {
        self.inner.head.deadline.map(|deadline| self.shared.seconds(deadline))
    }

    #[getter]
    fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        lock(&self.context).as_ref().map(|context| context.clone_ref(py))
    }

    #[setter]
    fn set_context(&self, context: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *lock(&self.context), context);
        drop(before); // outside the lock: it may run Python
    }

    fn send_initial_metadata(&self, metadata: &Bound<'_, PyAny>) -> PyResult<()> {
        let begun = self.inner.begin(trailers_of(metadata)?).map_err(|_: TooLate| {
            PyValueError::new_err("initial metadata goes before everything else, and once")
        })?;
        begun.into_iter().for_each(Waker::wake);
        Ok(())
    }

    #[pyo3(signature = (message, *, settles = 0))]
    fn send(&self, py: Python<'_>, message: &[u8], settles: u32) -> PyResult<bool> {
        let sent = self.sent(py, message, settles)?;
        sent.wake.into_iter().for_each(Waker::wake);
        Ok(sent.has_room)
    }

    fn detach(&self, ticket: u64) {
        self.inner.detach(ticket).into_iter().for_each(Waker::wake);
    }

    fn answer(&self, py: Python<'_>, ticket: u64, message: &[u8]) -> PyResult<bool> {
        let framed = self.framed(py, message)?;
        let sent = self.inner.answer(ticket, |out| {
            out.extend_from_slice(&framed);
            Some(())
        });
        let sent = sent.ok_or_else(too_long)?;
        sent.wake.into_iter().for_each(Waker::wake);
        Ok(sent.has_room)
    }

    #[pyo3(signature = (code, message = None, *, trailers = None))]
    fn finish_answered(
        &self,
        code: i32,
        message: Option<&Bound<'_, PyString>>,
        trailers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if self.entry()?.1 == Arity::Unary {
            return Err(PyTypeError::new_err("a unary call is finished with its reply"));
        }
        let finish = finish_of(code, message, None, trailers)?;
        self.inner.finish_answered(finish).into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn settle(&self, count: u32) {
        self.inner.settle(count).into_iter().for_each(Waker::wake);
    }

    #[pyo3(signature = (code, message = None, *, reply = None, trailers = None))]
    fn finish(
        &self,
        py: Python<'_>,
        code: i32,
        message: Option<&Bound<'_, PyString>>,
        reply: Option<&[u8]>,
        trailers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let reply = match (self.entry()?.1, code, reply) {
            (Arity::Unary, OK, Some(reply)) => Some(self.framed(py, reply)?),
            (Arity::Unary, OK, None) => {
                return Err(PyValueError::new_err("a unary call that ends with OK needs a reply"))
            }
            _ => None,
        };
        let finish = finish_of(code, message, reply, trailers)?;
        self.inner.finish(finish).into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (method, _) = self.entry()?;
        Ok(format!("<Call {} from {}>", method.bind(py).to_string_lossy(), self.peer()))
    }
}

impl Call {
    pub fn new(inner: Arc<call::Call>, shared: Arc<Shared>) -> Self {
        Self { inner, shared, metadata: PyOnceLock::new(), context: Mutex::new(None) }
    }

    fn entry(&self) -> PyResult<&(Py<PyString>, Arity)> {
        let entry = self.shared.methods.get(self.inner.head.method);
        entry.ok_or_else(|| PyValueError::new_err("the method of this call is unknown"))
    }

    // Python goes on while a message is compressed.
    fn sent(&self, py: Python<'_>, message: &[u8], settles: u32) -> PyResult<Sent> {
        let sent = match self.inner.head.reply_encoding {
            Encoding::Identity => self.inner.send(message, settles),
            _ => py.detach(|| self.inner.send(message, settles)),
        };
        sent.ok_or_else(too_long)
    }

    fn framed(&self, py: Python<'_>, message: &[u8]) -> PyResult<Bytes> {
        let framed = match self.inner.head.reply_encoding {
            Encoding::Identity => self.inner.framed(message),
            _ => py.detach(|| self.inner.framed(message)),
        };
        framed.map(BytesMut::freeze).ok_or_else(too_long)
    }

    // Answer without waking: one answer of a unary call, or of a stream's oldest open message.
    pub fn reply(&self, py: Python<'_>, reply: &[u8]) -> PyResult<Option<Waker>> {
        if self.entry()?.1 == Arity::Stream {
            return Ok(self.sent(py, reply, 1)?.wake);
        }
        let reply = Some(self.framed(py, reply)?);
        let trailers = HeaderMap::new();
        Ok(self.inner.finish(Finish {
            code: OK,
            message: String::new(),
            reply,
            trailers,
            work: None,
        }))
    }
}

fn finish_of(
    code: i32,
    message: Option<&Bound<'_, PyString>>,
    reply: Option<Bytes>,
    trailers: Option<&Bound<'_, PyAny>>,
) -> PyResult<Finish> {
    if !CODES.contains(&code) {
        return Err(PyValueError::new_err(format!("{code} is not a status code of gRPC")));
    }
    let message = message.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    let trailers = trailers.map_or_else(|| Ok(HeaderMap::new()), trailers_of)?;
    Ok(Finish { code, message, reply, trailers, work: None })
}

fn too_long() -> PyErr {
    PyValueError::new_err("a message of gRPC is at most 4294967295 bytes long")
}

pub fn trailers_of(pairs: &Bound<'_, PyAny>) -> PyResult<HeaderMap> {
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
