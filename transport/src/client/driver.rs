//! One connection under load: a task that sends what is due, reads what has come, and sleeps until
//! the network, the schedule or the clock has news.

use super::alarm::Alarm;
use super::cork::{Cork, Corked};
use super::outcome::Failure;
use super::sample::Sample;
use super::wakers::Wakers;
use super::work::Pace;
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::{interval, Interval, MissedTickBehavior};

const TICK: Duration = Duration::from_millis(100); // time-outs need not be more exact

/// What calls are made with.
pub struct Link {
    pub http: SendRequest<Bytes>,
    most_streams: Rc<Cell<usize>>,
    is_leaving: bool,
}

impl Link {
    /// False: no call can be begun now; the task is woken when one can.
    pub fn has_room(&mut self, context: &mut Context<'_>, sample: &RefCell<Sample>) -> bool {
        if self.is_leaving {
            return false;
        }
        match self.http.poll_ready(context) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.is_leaving = true;
                false
            }
            Poll::Pending => {
                let limit = self.most_streams.get();
                if limit > 0 {
                    sample.borrow_mut().held_back(limit);
                }
                false
            }
        }
    }

    /// Begin no more calls: the connection is about to end.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }
}

/// The calls of a connection.
pub trait Load {
    /// Send what is due.
    fn launch(&mut self, link: &mut Link, pace: &mut Pace, now: Instant, context: &mut Context<'_>);
    fn wakers(&self) -> &Wakers;
    /// Look at one that has been woken.
    fn advance(&mut self, slot: usize, now: Instant);
    /// Give up those that have waited too long.
    fn expire(&mut self, now: Instant);
    fn in_flight(&self) -> usize;
    /// All that is in flight has failed.
    fn abandon(&mut self, why: &Failure);
}

/// The task of a connection; ready when the connection is closed, or all is answered after a stop.
pub struct Driver<'pace, L> {
    http: Connection<Corked, Bytes>,
    cork: Rc<Cork>,
    link: Link,
    load: L,
    pace: &'pace mut Pace,
    is_stopping: Rc<Cell<bool>>,
    woken: Vec<usize>,
    alarm: Alarm,
    tick: Interval,
}

impl<'pace, L: Load + Unpin> Driver<'pace, L> {
    /// # Errors
    /// When the system gives no timer.
    pub fn new(
        http: Connection<Corked, Bytes>,
        send: SendRequest<Bytes>,
        cork: Rc<Cork>,
        load: L,
        pace: &'pace mut Pace,
        is_stopping: Rc<Cell<bool>>,
    ) -> Result<Self, String> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let most_streams = Rc::new(Cell::new(0));
        let link = Link { http: send, most_streams, is_leaving: false };
        let alarm = Alarm::new().map_err(|error| format!("cannot make a timer: {error}"))?;
        Ok(Self { http, cork, link, load, pace, is_stopping, woken: Vec::new(), alarm, tick })
    }

    fn poll_http(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let ended = Pin::new(&mut self.http).poll(context);
        self.link.most_streams.set(self.http.max_concurrent_send_streams());
        let Poll::Ready(ended) = ended else { return Poll::Pending };
        self.advance_woken(Instant::now()); // what was answered before the end is answered
        let why = match ended {
            Ok(()) => "the server closed the connection".to_owned(),
            Err(error) => format!("the connection broke: {error}"),
        };
        self.load.abandon(&Failure::unavailable(why));
        Poll::Ready(())
    }

    // True: there were some.
    fn advance_woken(&mut self, now: Instant) -> bool {
        let mut woken = std::mem::take(&mut self.woken);
        self.load.wakers().collect(&mut woken);
        for slot in &woken {
            self.load.advance(*slot, now);
        }
        let any = !woken.is_empty();
        woken.clear();
        self.woken = woken;
        any
    }

    // True: there is something to send by now.
    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        let Some(next) = self.pace.next() else { return false };
        // What is due already could not be sent, and wakes the task when it can.
        next > Instant::now() && self.alarm.poll_at(next, context).is_ready()
    }
}

impl<L: Load + Unpin> Future for Driver<'_, L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut flushes = false;
        loop {
            // Requests stay together until there is nothing more to do.
            this.cork.set(!flushes);
            if !this.is_stopping.get() {
                this.load.launch(&mut this.link, this.pace, Instant::now(), context);
            } else if this.load.in_flight() == 0 {
                return Poll::Ready(());
            }
            if this.poll_http(context).is_ready() {
                return Poll::Ready(());
            }
            let now = Instant::now();
            while this.tick.poll_tick(context).is_ready() {
                this.load.expire(now);
            }
            if this.advance_woken(now) {
                flushes = false;
            } else if this.cork.is_holding() && !flushes {
                flushes = true;
            } else if !this.is_due(context) && this.load.wakers().park(context) {
                return Poll::Pending;
            }
        }
    }
}
