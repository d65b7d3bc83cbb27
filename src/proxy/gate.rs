//! One tenant's gate: who is let through, who waits before it, and how long that took.
//!
//! A request that goes through is counted until its answer has ended. While any [`Reason`] holds the gate, requests wait,
//! their bodies unread; only so many, and only so long. Pure bookkeeping: no sockets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Why a tenant's requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The user paused it.
    Pause,
    /// We froze it, for a copy or a release.
    Freeze,
}

impl Reason {
    const ALL: [Reason; 2] = [Reason::Pause, Reason::Freeze];

    fn bit(self) -> u8 {
        match self {
            Reason::Pause => 1,
            Reason::Freeze => 2,
        }
    }
}

/// What became of those that were held for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldReport {
    /// Requests and new connections that had to wait.
    pub held: u64,
    /// Of these, those that were answered with 503: they waited too long, or too many waited already.
    pub failed: u64,
    /// Of these, those whose clients left.
    pub left: u64,
    /// The longest that one of them waited.
    pub longest: Duration,
}

/// What has not ended when no more is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Requests whose answers are not complete.
    pub requests: usize,
    /// WebSockets, other tunnels and event streams: they have no end that could be waited for.
    pub streams: usize,
}

#[derive(Debug, Default)]
pub struct Gate {
    /// The bits of the reasons that hold it.
    held: AtomicU8,
    requests: AtomicUsize,
    streams: AtomicUsize,
    /// A request has ended.
    ended: Notify,
    /// Whoever waits looks again: the gate opened, or routes changed.
    look: Notify,
    /// Changes when those that have no end are to have one.
    cut: watch::Sender<()>,
    /// Changes with what holds it.
    changed: watch::Sender<()>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    holds: HashMap<Reason, Hold>,
    waiting: HashMap<u64, Instant>,
    last: u64,
}

#[derive(Debug)]
struct Hold {
    since: Instant,
    limit: Duration,
    report: HoldReport,
}

/// A request under way; it ends with this.
#[derive(Debug)]
pub struct Passed {
    gate: Arc<Gate>,
    is_stream: bool,
}

impl Passed {
    /// It goes on without an end that could be waited for.
    pub fn becomes_stream(&mut self) {
        if !self.is_stream {
            self.is_stream = true;
            self.gate.streams.fetch_add(1, Ordering::SeqCst);
            self.gate.request_ended();
        }
    }

    /// Ends when it has to end, though it has no end of its own.
    pub fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut cut = self.gate.cut.subscribe();
        async move {
            let _ = cut.changed().await;
        }
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        match self.is_stream {
            true => drop(self.gate.streams.fetch_sub(1, Ordering::SeqCst)),
            false => self.gate.request_ended(),
        }
    }
}

/// A request that waits. Dropped, it is a client that left.
#[derive(Debug)]
pub struct Waiting {
    gate: Arc<Gate>,
    number: u64,
    since: Instant,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Left,
    Through,
    Failed,
}

impl Waiting {
    /// Since when it waits, here or before another gate.
    pub fn since(&self) -> Instant {
        self.since
    }

    pub fn is_at(&self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.gate, gate)
    }

    /// It goes on, here or elsewhere.
    pub fn through(mut self) {
        self.outcome = Outcome::Through;
    }

    /// It waited too long.
    pub fn failed(mut self) {
        self.outcome = Outcome::Failed;
    }

    /// When it has waited too long; `None` when nothing holds it any more.
    pub fn deadline(&self) -> Option<Instant> {
        let book = self.gate.book();
        book.holds.values().map(|hold| hold.limit).max().map(|limit| self.since + limit)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut book = self.gate.book();
        if book.waiting.remove(&self.number).is_none() {
            return;
        }
        let since = self.since;
        for hold in book.holds.values_mut() {
            hold.report.longest = hold.report.longest.max(since.max(hold.since).elapsed());
            match self.outcome {
                Outcome::Through => {}
                Outcome::Left => hold.report.left += 1,
                Outcome::Failed => hold.report.failed += 1,
            }
        }
    }
}

impl Gate {
    /// A panic leaves the book as good as it was: numbers.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends those that have no end: whoever comes again goes where the domain leads now.
    pub fn end_streams(&self) {
        self.cut.send_replace(());
    }

    /// Changes with what holds it, or whenever somebody says so.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn say_changed(&self) {
        self.changed.send_replace(());
    }

    fn request_ended(&self) {
        if self.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.ended.notify_waiters();
        }
    }

    /// Goes through, unless the gate is held. Counted first and looked at then: who holds the gate and counts nobody knows
    /// that nobody comes.
    pub fn pass(self: &Arc<Self>) -> Option<Passed> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let passed = Passed { gate: self.clone(), is_stream: false };
        (self.held.load(Ordering::SeqCst) == 0).then_some(passed)
    }

    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) != 0
    }

    /// Begins to wait, unless `most` do already.
    pub fn wait(self: &Arc<Self>, since: Instant, most: usize) -> Option<Waiting> {
        let mut book = self.book();
        let is_full = book.waiting.len() >= most;
        for hold in book.holds.values_mut() {
            hold.report.held += 1;
            hold.report.failed += u64::from(is_full);
        }
        if is_full {
            return None;
        }
        book.last += 1;
        let number = book.last;
        book.waiting.insert(number, since);
        Some(Waiting { gate: self.clone(), number, since, outcome: Outcome::Left })
    }

    /// Resolves when whoever waits has to look again. Made before looking, so that nothing is missed.
    pub fn look(&self) -> tokio::sync::futures::Notified<'_> {
        self.look.notified()
    }

    /// Tells all who wait to look again.
    pub fn wake(&self) {
        self.look.notify_waiters();
    }

    pub fn hold(&self, reason: Reason, limit: Duration) {
        let mut book = self.book();
        let waiting = book.waiting.len() as u64;
        // Those that wait for another reason wait for this one as well.
        let fresh =
            || Hold { since: Instant::now(), limit, report: HoldReport { held: waiting, ..HoldReport::default() } };
        book.holds.entry(reason).or_insert_with(fresh).limit = limit;
        self.held.fetch_or(reason.bit(), Ordering::SeqCst);
        drop(book);
        self.changed.send_replace(());
    }

    pub fn let_go(&self, reason: Reason) -> HoldReport {
        let mut book = self.book();
        self.held.fetch_and(!reason.bit(), Ordering::SeqCst);
        let Some(Hold { since, mut report, .. }) = book.holds.remove(&reason) else { return HoldReport::default() };
        for began in book.waiting.values() {
            report.longest = report.longest.max((*began).max(since).elapsed());
        }
        drop(book);
        self.wake();
        self.changed.send_replace(());
        report
    }

    /// Waits until no request is under way, at most so long.
    pub async fn drained(&self, patience: Duration) -> Left {
        let ended = async {
            loop {
                let ended = self.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.requests.load(Ordering::SeqCst) == 0 {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(patience, ended).await;
        Left { requests: self.requests.load(Ordering::SeqCst), streams: self.streams.load(Ordering::SeqCst) }
    }

    /// Which reasons hold it, and how many wait.
    pub fn state(&self) -> (Vec<Reason>, usize) {
        let held = self.held.load(Ordering::SeqCst);
        let reasons = Reason::ALL.into_iter().filter(|reason| held & reason.bit() != 0);
        (reasons.collect(), self.book().waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const MOMENT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_held_gate_lets_nobody_through_and_tells_what_it_did() {
        let gate = Arc::new(Gate::default());
        let under_way = gate.pass().unwrap();
        gate.hold(Reason::Freeze, LONG);
        assert!(gate.pass().is_none());
        assert_eq!(gate.drained(MOMENT).await, Left { requests: 1, streams: 0 });
        drop(under_way);
        assert_eq!(gate.drained(Duration::ZERO).await, Left::default());
        let (first, second) = (gate.wait(Instant::now(), 2).unwrap(), gate.wait(Instant::now(), 2).unwrap());
        assert!(gate.wait(Instant::now(), 2).is_none(), "no more than two wait");
        assert_eq!(first.deadline(), Some(first.since() + LONG));
        drop(second);
        tokio::time::sleep(MOMENT).await;
        let report = gate.let_go(Reason::Freeze);
        assert_eq!((report.held, report.failed, report.left), (3, 1, 1));
        assert!(report.longest >= MOMENT);
        assert!(first.deadline().is_none());
        first.through();
        assert!(gate.pass().is_some());
        assert_eq!(gate.let_go(Reason::Freeze), HoldReport::default());
    }

    #[tokio::test]
    async fn any_reason_holds_and_each_has_its_own_report() {
        let gate = Arc::new(Gate::default());
        gate.hold(Reason::Pause, LONG);
        let waiting = gate.wait(Instant::now(), 9).unwrap();
        tokio::time::sleep(MOMENT).await;
        gate.hold(Reason::Freeze, 2 * LONG);
        assert_eq!(gate.state(), (vec![Reason::Pause, Reason::Freeze], 1));
        assert_eq!(waiting.deadline(), Some(waiting.since() + 2 * LONG));
        let freeze = gate.let_go(Reason::Freeze);
        assert!(gate.is_held() && gate.pass().is_none());
        waiting.failed();
        let pause = gate.let_go(Reason::Pause);
        assert_eq!((pause.held, pause.failed, freeze.held, freeze.failed), (1, 1, 1, 0));
        assert!(pause.longest >= freeze.longest + MOMENT);
    }

    #[tokio::test]
    async fn a_stream_is_not_waited_for_but_told_of() {
        let gate = Arc::new(Gate::default());
        let mut stream = gate.pass().unwrap();
        stream.becomes_stream();
        gate.hold(Reason::Pause, LONG);
        assert_eq!(gate.drained(LONG).await, Left { requests: 0, streams: 1 });
        let cut = stream.cut();
        gate.end_streams();
        tokio::time::timeout(LONG, cut).await.expect("it is told to end");
        drop(stream);
        assert_eq!(gate.drained(LONG).await, Left::default());
    }
}
