//! Threads for what may take a while: as many as there is waiting to be done, up to a bound; idle ones end by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

type Job = Box<dyn FnOnce() + Send>;

/// Readers that wait for a host that is away each hold a thread; those behind the last one wait in the queue.
const THREADS: usize = 64;
const IDLE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Pool {
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    threads: AtomicUsize,
    idle: AtomicUsize,
}

impl Pool {
    pub fn new() -> Pool {
        let (jobs, queue) = unbounded();
        Pool { jobs, queue, count: Arc::default() }
    }

    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // Cannot fail: this pool holds a receiver itself.
        let _ = self.jobs.send(Box::new(job));
        let few = self.count.threads.load(Ordering::Relaxed) < THREADS;
        if few && self.count.idle.load(Ordering::SeqCst) < self.queue.len() {
            let (queue, count) = (self.queue.clone(), self.count.clone());
            count.threads.fetch_add(1, Ordering::Relaxed);
            let spawned = std::thread::Builder::new().name("mount".into()).spawn(move || work(&queue, &count));
            if spawned.is_err() {
                // Another thread takes it. Were there none at all, the mount could not have begun.
                self.count.threads.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

fn work(queue: &Receiver<Job>, count: &Count) {
    loop {
        count.idle.fetch_add(1, Ordering::SeqCst);
        let job = queue.recv_timeout(IDLE);
        count.idle.fetch_sub(1, Ordering::SeqCst);
        match job {
            // A job that panics must not take its thread's place with it.
            Ok(job) => drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job))),
            // What came in this moment saw an idle thread, and may be alone with that.
            Err(RecvTimeoutError::Timeout) if !queue.is_empty() => {}
            Err(_) => break,
        }
    }
    count.threads.fetch_sub(1, Ordering::Relaxed);
}
