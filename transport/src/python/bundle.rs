//! `Bundle` as Python sees it.

use super::Shared;
use crate::lane::bundle;
use crate::lane::reply::Form;
use crate::sync::lock;
use bytes::BufMut;
use http::HeaderValue;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

#[pyclass(frozen, module = "penstock_transport")]
pub struct Bundle {
    pub inner: Arc<bundle::Bundle>,
    shared: Arc<Shared>,
}

#[pymethods]
impl Bundle {
    #[getter]
    fn plan(&self, py: Python<'_>) -> Py<PyAny> {
        self.inner.plan.object.clone_ref(py)
    }

    #[getter]
    fn count(&self) -> usize {
        self.inner.count()
    }

    #[getter]
    fn deadlines(&self) -> Option<(f64, f64)> {
        let (first, last) = self.inner.deadlines()?;
        Some((self.shared.seconds(first), self.shared.seconds(last)))
    }

    #[getter]
    fn waiting(&self) -> usize {
        self.inner.waiting()
    }

    fn strip(&self) -> usize {
        self.inner.strip()
    }

    fn input<'py>(&self, py: Python<'py>, input: usize) -> PyResult<Bound<'py, PyBytes>> {
        let size = self.inner.plan.sizes.get(input).copied().unwrap_or_default();
        PyBytes::new_with(py, size * self.inner.count(), |mut room| {
            self.inner.contents(input, |contents| room.put_slice(contents));
            Ok(())
        })
    }

    // Python's list, taken over.
    #[allow(clippy::needless_pass_by_value)]
    #[pyo3(signature = (fixed, outputs, *, tail = None, trailers = None, work_ns = None))]
    fn answer(
        &self,
        fixed: &[u8],
        outputs: Vec<Bound<'_, PyBytes>>,
        tail: Option<&[u8]>,
        trailers: Option<Vec<u64>>,
        work_ns: Option<u64>,
    ) {
        let names = self.shared.lane_trailers.iter().cloned();
        let values = trailers.unwrap_or_default().into_iter().map(HeaderValue::from);
        let trailers = names.zip(values).collect();
        let outputs: Vec<_> = outputs.iter().map(PyBytesMethods::as_bytes).collect();
        let form =
            Form { fixed, tail: tail.unwrap_or_default(), work: work_ns.map(Duration::from_nanos) };
        self.inner.answer(&form, &outputs, &trailers).into_iter().for_each(Waker::wake);
    }

    fn release(&self) {
        self.inner.release();
    }

    fn clear(&self) {
        self.inner.take();
    }

    fn members<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for (call, ticket, id) in self.inner.list() {
            let call = self.shared.handle(py, &call)?;
            list.append((call, ticket, PyString::new(py, &String::from_utf8_lossy(&id))))?;
        }
        Ok(list)
    }

    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for member in self.inner.take() {
            if !member.call.has_ended() {
                list.append(self.shared.event(py, &member.into())?)?;
            }
        }
        Ok(list)
    }

    fn split(&self) -> Vec<Self> {
        let members = self.inner.take();
        let alone = members.into_iter().map(|member| {
            let inner = bundle::Bundle::new(Arc::clone(&self.inner.plan), vec![member]);
            self.shared.outstanding.add(&inner);
            Self::new(inner, Arc::clone(&self.shared))
        });
        alone.collect()
    }

    #[getter]
    fn owner(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        lock(&self.inner.owner).as_ref().map(|owner| owner.clone_ref(py))
    }

    #[setter]
    fn set_owner(&self, owner: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *lock(&self.inner.owner), owner);
        drop(before); // outside the lock: it may run Python
    }

    fn __repr__(&self) -> String {
        format!("<Bundle of {}>", self.inner.count())
    }
}

impl Bundle {
    pub fn new(inner: Arc<bundle::Bundle>, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}
