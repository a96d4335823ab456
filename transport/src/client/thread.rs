//! One thread under load: it makes its connections, drives them, makes again those that are lost,
//! and gives away what it measured.

use super::cork::{Cork, Corked};
use super::driver::{Driver, Load};
use super::outcome::Failure;
use super::sample::{Sample, Usage};
use super::stream::Streams;
use super::unary::Calls;
use super::work::{share, Pace, Work};
use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::Request;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::Arc;
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

/// What a thread is told.
pub enum Command {
    Take(oneshot::Sender<Sample>),
    Stop(Duration),
}

/// Which of the threads of a load a thread is, and when the load began.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub number: usize,
    pub threads: usize,
    pub origin: Instant,
}

/// What the tasks of one thread share.
struct Desk {
    origin: Instant,
    work: Rc<Work>,
    request: Request<()>,
    sample: Rc<RefCell<Sample>>,
    is_stopping: Rc<Cell<bool>>,
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

/// Run until told to stop. ready is told whether all connections of this thread are made.
pub fn run(
    work: Work,
    part: Part,
    ready: SyncSender<Result<(), String>>,
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
        let began = begin(work, part).await;
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

// Make the connections of this thread, then drive them all.
async fn begin(work: Work, part: Part) -> Result<(Rc<Desk>, Tasks), String> {
    let work = Rc::new(work);
    let desk = Rc::new(Desk {
        origin: part.origin,
        request: work.request()?,
        sample: Rc::new(RefCell::new(Sample::new(work.timings.len(), part.origin, part.origin))),
        is_stopping: Rc::default(),
        work: Rc::clone(&work),
    });
    let indices = (part.number..work.connections).step_by(part.threads);
    let mut connected = Vec::new();
    for index in indices {
        connected.push((index, connect(&work).await?));
    }
    let now = Instant::now();
    desk.sample.replace(Sample::new(work.timings.len(), part.origin, now));
    let drive = |(index, connection)| {
        let pace = Pace::new(&work, index, now);
        tokio::task::spawn_local(supervise(Rc::clone(&desk), index, pace, connection))
    };
    Ok((Rc::clone(&desk), connected.into_iter().map(drive).collect()))
}

async fn obey(desk: &Desk, tasks: Tasks, mut inbox: mpsc::Receiver<Command>, parked: &Parked) {
    let mut clocks = Clocks::read(parked);
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Take(answer) => {
                let before = std::mem::replace(&mut clocks, Clocks::read(parked));
                let fresh = Sample::new(desk.work.timings.len(), desk.origin, clocks.now);
                let mut sample = desk.sample.replace(fresh);
                sample.end(clocks.now, clocks.since(&before));
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

/// What this thread has had, ever.
struct Clocks {
    now: Instant,
    cpu: Duration,
    parked: Duration,
    waiting: Duration,
}

impl Clocks {
    fn read(parked: &Parked) -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let seconds = u64::try_from(cpu.tv_sec).unwrap_or(0);
        Self {
            now: Instant::now(),
            cpu: Duration::new(seconds, u32::try_from(cpu.tv_nsec).unwrap_or(0)),
            parked: parked.total(),
            waiting: waiting().unwrap_or_default(),
        }
    }

    fn since(&self, before: &Self) -> Usage {
        let parked = self.parked.saturating_sub(before.parked);
        let busy = self.now.saturating_duration_since(before.now).saturating_sub(parked);
        Usage {
            cpu: self.cpu.saturating_sub(before.cpu),
            busy,
            waiting: self.waiting.saturating_sub(before.waiting),
        }
    }
}

// Time in which this thread was in a run queue: the second number that Linux tells, where it does.
fn waiting() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

type Connected = (Connection<Corked, Bytes>, SendRequest<Bytes>, Rc<Cork>);

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
async fn supervise(desk: Rc<Desk>, index: usize, mut pace: Pace, first: Connected) {
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
                drive(&desk, index, &mut pace, connection).await;
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

async fn drive(desk: &Desk, index: usize, pace: &mut Pace, connection: Connected) {
    let (work, sample) = (Rc::clone(&desk.work), Rc::clone(&desk.sample));
    let request = desk.request.clone();
    if work.streams == 0 {
        drive_load(desk, pace, connection, Calls::new(work, request, sample)).await;
    } else {
        let streams = share(work.streams, work.connections, index).max(1);
        let load = Streams::new(work, request, sample, streams);
        drive_load(desk, pace, connection, load).await;
    }
}

async fn drive_load<L>(desk: &Desk, pace: &mut Pace, connection: Connected, load: L)
where
    L: Load + Unpin,
{
    let (http, send, cork) = connection;
    let is_stopping = Rc::clone(&desk.is_stopping);
    match Driver::new(http, send, cork, load, pace, is_stopping) {
        Ok(driver) => driver.await,
        Err(error) => desk.sample.borrow_mut().fail(Failure::unavailable(error)),
    }
}
