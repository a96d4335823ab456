//! A timer for arrivals. tokio's own timers have a grain of a millisecond, which would be added to
//! the latency of every request that has a schedule; Linux has a precise one.

use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

#[cfg(target_os = "linux")]
pub use precise::Alarm;

#[cfg(not(target_os = "linux"))]
pub use coarse::Alarm;

#[cfg(target_os = "linux")]
mod precise {
    use super::{io, Context, Instant, Poll};
    use rustix::time::{
        timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags,
        TimerfdTimerFlags, Timespec,
    };
    use std::pin::Pin;
    use tokio::io::{AsyncRead, ReadBuf};
    use tokio::net::unix::pipe::Receiver;

    const NEVER: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    pub struct Alarm {
        // A timer is read like a pipe: eight bytes when it has gone off.
        timer: Receiver,
        set_for: Option<Instant>,
    }

    impl Alarm {
        pub fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self { timer: Receiver::from_owned_fd_unchecked(timer)?, set_for: None })
        }

        /// Ready at the given time, or later; the task is woken then.
        pub fn poll_at(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Ready(Ok(()));
            }
            if self.set_for != Some(at) {
                let value = Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: left.subsec_nanos().into(),
                };
                let spec = Itimerspec { it_interval: NEVER, it_value: value };
                timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
                self.set_for = Some(at);
            }
            let mut expirations = [0; 16]; // more than comes, so that tokio knows it has all
            Pin::new(&mut self.timer).poll_read(context, &mut ReadBuf::new(&mut expirations))
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod coarse {
    use super::{io, Context, Instant, Poll};
    use std::future::Future;
    use std::pin::Pin;
    use tokio::time::{sleep_until, Sleep};

    pub struct Alarm(Pin<Box<Sleep>>);

    impl Alarm {
        pub fn new() -> io::Result<Self> {
            Ok(Self(Box::pin(sleep_until(Instant::now().into()))))
        }

        pub fn poll_at(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.0.deadline().into_std() != at {
                self.0.as_mut().reset(at.into());
            }
            self.0.as_mut().poll(context).map(Ok)
        }
    }
}
