//! A load that runs: threads, what is asked of them, and their samples joined to one.

use super::sample::Sample;
use super::thread::{run, Command, Part};
use super::work::Work;
use crate::sync::lock;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A load that runs.
pub struct Engine {
    threads: Mutex<Vec<Thread>>,
}

struct Thread {
    commands: mpsc::Sender<Command>,
    handle: JoinHandle<()>,
}

impl Engine {
    /// Make all connections and begin.
    ///
    /// # Errors
    /// With a sentence, when a connection cannot be made; nothing runs then.
    pub fn start(work: &Work) -> Result<Self, String> {
        work.request()?;
        let threads = work.threads.min(work.connections).max(1);
        let (ready, started) = std::sync::mpsc::sync_channel(threads);
        let mut running = Vec::new();
        let origin = Instant::now();
        for number in 0..threads {
            let part = Part { number, threads, origin };
            let (commands, inbox) = mpsc::channel(1);
            let (work, ready) = (work.clone(), ready.clone());
            let handle = thread::Builder::new()
                .name("penstock-load".to_owned())
                .spawn(move || run(work, part, ready, inbox))
                .map_err(|error| format!("cannot start threads: {error}"))?;
            running.push(Thread { commands, handle });
        }
        drop(ready);
        let engine = Self { threads: Mutex::new(running) };
        for _ in 0..threads {
            match started.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err("a thread of the load generator ended".to_owned()),
            }
        }
        Ok(engine)
    }

    /// What was measured since the call before, or since the start. None: it is stopped.
    pub fn take(&self) -> Option<Sample> {
        let threads = lock(&self.threads);
        let mut asked = Vec::new();
        for thread in threads.iter() {
            let (answer, sample) = oneshot::channel();
            thread.commands.blocking_send(Command::Take(answer)).ok()?;
            asked.push(sample);
        }
        let mut joined: Option<Sample> = None;
        for sample in asked {
            let sample = sample.blocking_recv().ok()?;
            match &mut joined {
                None => joined = Some(sample),
                Some(joined) => joined.beside(&sample),
            }
        }
        joined
    }

    /// Send nothing more, and wait so long for the answers to what was sent.
    pub fn stop(&self, patience: Duration) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in &threads {
            // It fails where the thread has ended already.
            let _ = thread.commands.blocking_send(Command::Stop(patience));
        }
        for thread in threads {
            let _ = thread.handle.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}
