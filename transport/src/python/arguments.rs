//! The arguments of `Server`: from Python's values to checked settings.

use crate::core::{Arity, Methods};
use crate::tls::{Files, Listener, Reload, Tls};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyMapping, PyString};
use std::path::PathBuf;
use std::time::Duration;

/// The methods as Python sees them, in the order of their indices.
pub type Paths = Vec<(Py<PyString>, Arity)>;

pub fn methods_of(mapping: &Bound<'_, PyMapping>) -> PyResult<(Paths, Methods)> {
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

pub fn tls_of(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    reloaded: Option<Py<PyAny>>,
) -> PyResult<Option<Tls>> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let files = Files { certificate, key, client_ca };
            let tls = Tls::load(files, reloaded.map(listener_of));
            tls.map(Some).map_err(PyValueError::new_err)
        }
        (None, None) if client_ca.is_none() => Ok(None),
        _ => Err(PyTypeError::new_err("TLS needs both tls_certificate and tls_key")),
    }
}

fn listener_of(reloaded: Py<PyAny>) -> Listener {
    Box::new(move |reload| {
        let error = match reload {
            Reload::Failed(error) => Some(error.as_str()),
            Reload::Loaded | Reload::Unchanged => None,
        };
        Python::attach(|py| {
            if let Err(error) = reloaded.call1(py, (error,)) {
                error.write_unraisable(py, Some(reloaded.bind(py)));
            }
        });
    })
}

pub fn positive(name: &str, value: usize) -> PyResult<usize> {
    if value == 0 {
        return Err(PyValueError::new_err(format!("{name} must be at least 1")));
    }
    Ok(value)
}

pub fn window(name: &str, value: u32) -> PyResult<u32> {
    const LARGEST: u32 = (1 << 31) - 1; // RFC 9113 section 6.9.1
    const SMALLEST: u32 = 65_535; // what every peer may assume
    if !(SMALLEST..=LARGEST).contains(&value) {
        let text = format!("{name} must be between {SMALLEST} and {LARGEST}, not {value}");
        return Err(PyValueError::new_err(text));
    }
    Ok(value)
}

// None and infinity: never.
pub fn optional(name: &str, value: Option<f64>) -> PyResult<Option<Duration>> {
    match value {
        None | Some(f64::INFINITY) => Ok(None),
        Some(value) => seconds(name, value).map(Some),
    }
}

pub fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| PyValueError::new_err(format!("{name} = {value}: {error}")))
}
