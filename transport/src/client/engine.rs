//! Threads under load: each makes its connections, drives them and gives away what it measured.

use super::cork::Corked;
use super::driver::{Driver, Load};
use super::outcome::Failure;
use super::sample::{Sample, Usage};
use super::stream::Streams;
use super::unary::Calls;
use super::work::{Pace, Work};
use crate::sync::lock;
use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::Request;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

const CONNECT: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(20); // before a lost connection is made again
const LONGEST_WAIT: Duration = Duration::from_secs(1);
// Windows of HTTP/2 that never hold an answer back.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 256 << 20;
const HEADER_LIST: u32 = 64 << 10;

/// A load that runs.
pub struct Engine {
    threads: Mutex<Vec<Thread>>,
}

struct Thread {
    commands: mpsc::Sender<Command>,
    handle: JoinHandle<()>,
}

enum Command {
    Take(oneshot::Sender<Sample>),
    Stop(Duration),
}

/// What the tasks of one thread share.
struct Desk {
    work: Rc<Work>,
    request: Request<()>,
    sample: Rc<RefCell<Sample>>,
    is_stopping: Rc<Cell<bool>>,
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
        for number in 0..threads {
            let (commands, inbox) = mpsc::channel(1);
            let (work, ready) = (work.clone(), ready.clone());
            let handle = thread::Builder::new()
                .name("penstock-load".to_owned())
                .spawn(move || run_thread(work, number, threads, ready, inbox))
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

/// Time that a thread waits for the network and the clock.
#[derive(Debug)]
struct Parked {
    origin: Instant,
    since_ns: AtomicU64,
    total_ns: AtomicU64,
}

impl Parked {
    fn new() -> Self {
        Self { origin: Instant::now(), since_ns: AtomicU64::new(0), total_ns: AtomicU64::new(0) }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn begin(&self) {
        self.since_ns.store(self.now_ns(), Ordering::Relaxed);
    }

    fn end(&self) {
        let waited = self.now_ns().saturating_sub(self.since_ns.load(Ordering::Relaxed));
        self.total_ns.fetch_add(waited, Ordering::Relaxed);
    }

    fn total(&self) -> Duration {
        Duration::from_nanos(self.total_ns.load(Ordering::Relaxed))
    }
}

fn run_thread(
    work: Work,
    number: usize,
    threads: usize,
    ready: std::sync::mpsc::SyncSender<Result<(), String>>,
    inbox: mpsc::Receiver<Command>,
) {
    let parked = Arc::new(Parked::new());
    let (before, after) = (Arc::clone(&parked), Arc::clone(&parked));
    let built = runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || before.begin())
        .on_thread_unpark(move || after.end())
        .build();
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(format!("cannot start threads: {error}")));
            return;
        }
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        let began = begin(work, number, threads).await;
        let (desk, outcome) = match began {
            Ok(desk) => (Some(desk), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let is_wanted = ready.send(outcome).is_ok();
        if let (Some((desk, tasks)), true) = (desk, is_wanted) {
            obey(&desk, tasks, inbox, &parked).await;
        }
    });
}

type Tasks = Vec<tokio::task::JoinHandle<()>>;

// Make the connections of this thread, all at once, and drive them.
async fn begin(work: Work, number: usize, threads: usize) -> Result<(Rc<Desk>, Tasks), String> {
    let work = Rc::new(work);
    let now = Instant::now();
    let desk = Rc::new(Desk {
        request: work.request()?,
        sample: Rc::new(RefCell::new(Sample::new(work.timings.len(), now))),
        is_stopping: Rc::default(),
        work: Rc::clone(&work),
    });
    let indices = (number..work.connections).step_by(threads);
    let mut connected = Vec::new();
    for index in indices {
        connected.push((index, connect(&work).await?));
    }
    let now = Instant::now();
    desk.sample.replace(Sample::new(work.timings.len(), now));
    let drive = |(index, connection)| {
        let pace = Pace::new(&work, index, now);
        tokio::task::spawn_local(supervise(Rc::clone(&desk), pace, connection))
    };
    Ok((Rc::clone(&desk), connected.into_iter().map(drive).collect()))
}

async fn obey(desk: &Desk, tasks: Tasks, mut inbox: mpsc::Receiver<Command>, parked: &Parked) {
    let mut mark = (Instant::now(), cpu(), parked.total());
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Take(answer) => {
                let now = Instant::now();
                let fresh = Sample::new(desk.work.timings.len(), now);
                let mut sample = desk.sample.replace(fresh);
                let next = (now, cpu(), parked.total());
                let waited = next.2.saturating_sub(mark.2);
                let busy = now.saturating_duration_since(mark.0).saturating_sub(waited);
                let cpu_s = next.1.saturating_sub(mark.1).as_secs_f64();
                sample.end(now, Usage { cpu_s, busy_s: busy.as_secs_f64() });
                mark = next;
                // It fails where nobody waits for it any longer.
                let _ = answer.send(sample);
            }
            Command::Stop(patience) => {
                desk.is_stopping.set(true);
                let all = async {
                    for task in tasks {
                        let _ = task.await;
                    }
                };
                let _ = timeout(patience, all).await;
                return;
            }
        }
    }
}

// CPU time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

type Connected = (Connection<Corked, Bytes>, SendRequest<Bytes>, Rc<super::cork::Cork>);

async fn connect(work: &Work) -> Result<Connected, String> {
    let connecting = async {
        let (stream, cork) = Corked::new(work.peer.connect().await?);
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .enable_push(false)
            .initial_max_send_streams(0) // until the server has said how many it allows
            .handshake(stream)
            .await;
        let (send, connection) = handshake
            .map_err(|error| format!("cannot speak HTTP/2 with {}: {error}", work.peer.text()))?;
        Ok((connection, send, cork))
    };
    timeout(CONNECT, connecting).await.unwrap_or_else(|_| {
        Err(format!("cannot connect to {} in {} s", work.peer.text(), CONNECT.as_secs()))
    })
}

// Drive a connection, and make it again as often as it is lost.
async fn supervise(desk: Rc<Desk>, mut pace: Pace, first: Connected) {
    let mut connected = Ok(first);
    let mut wait = FIRST_WAIT;
    while !desk.is_stopping.get() {
        match connected {
            Err(error) => {
                desk.sample.borrow_mut().fail(Failure::unavailable(error));
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Ok(connection) => {
                let began = Instant::now();
                let (request, sample) = (desk.request.clone(), Rc::clone(&desk.sample));
                let work = Rc::clone(&desk.work);
                if work.streams == 0 {
                    drive(&desk, &mut pace, connection, Calls::new(work, request, sample)).await;
                } else {
                    drive(&desk, &mut pace, connection, Streams::new(work, request, sample)).await;
                }
                if desk.is_stopping.get() {
                    return;
                }
                desk.sample.borrow_mut().reconnects += 1;
                if began.elapsed() < LONGEST_WAIT {
                    sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                } else {
                    wait = FIRST_WAIT;
                }
            }
        }
        connected = connect(&desk.work).await;
    }
}

async fn drive<L: Load + Unpin>(desk: &Desk, pace: &mut Pace, connection: Connected, load: L) {
    let (http, send, cork) = connection;
    let is_stopping = Rc::clone(&desk.is_stopping);
    match Driver::new(http, send, cork, load, pace, is_stopping) {
        Ok(driver) => driver.await,
        Err(error) => desk.sample.borrow_mut().fail(Failure::unavailable(error)),
    }
}
