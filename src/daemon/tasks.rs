//! What this daemon is at: `mcloud ps` lists it, `mcloud kill` ends it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::now_unix;
use crate::model::running::Task;

type Stop = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    last: u64,
    tasks: BTreeMap<u64, (Task, Stop)>,
}

/// A task that is listed for as long as this lives.
pub struct Listed {
    tasks: Tasks,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.tasks.known().tasks.remove(&self.number);
    }
}

impl Tasks {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists something that `stop` ends.
    pub fn begin(&self, what: &str, on: &str, label: &str, stop: impl Fn() + Send + Sync + 'static) -> Listed {
        let mut known = self.known();
        known.last += 1;
        let number = known.last;
        let task =
            Task { number, what: what.to_owned(), on: on.to_owned(), label: label.to_owned(), since_unix: now_unix() };
        known.tasks.insert(number, (task, Arc::new(stop)));
        Listed { tasks: self.clone(), number }
    }

    pub fn list(&self) -> Vec<Task> {
        self.known().tasks.values().map(|(task, _)| task.clone()).collect()
    }

    pub fn find(&self, number: u64) -> Option<Task> {
        self.known().tasks.get(&number).map(|(task, _)| task.clone())
    }

    /// Whether there was one to end.
    pub fn kill(&self, number: u64) -> bool {
        let stop = self.known().tasks.get(&number).map(|(_, stop)| stop.clone());
        stop.map(|stop| stop()).is_some()
    }
}
