//! Who watches a sync for the user: events become a bar, lines or JSON, the question is asked here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::output::Output;
use crate::cli::show;
use crate::model::sync::{Event, LeftOut, Plan, SyncOptions};
use crate::model::{Error, Kind, Result};
use crate::sync::Observer;

use super::plan;

/// JSON progress at most this often.
const BETWEEN: Duration = Duration::from_millis(200);

/// Paths shown of each reason to leave something out, and how many reasons are told apart.
const PATHS_SHOWN: usize = 10;
const REASONS: usize = 200;

pub struct Watching {
    out: Arc<Output>,
    options: SyncOptions,
    /// Told when the user wants it to end.
    pub stopped: tokio::sync::Notify,
    asking: AtomicBool,
    /// The user has agreed to go on with whatever comes (`--watch`, after its first question).
    agreed: AtomicBool,
    /// Whether the source is the folder that was agreed to (`--watch`, after its first round).
    same_source: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    /// The bar counts bytes; before the plan it counts files.
    moving: bool,
    last_event: Option<Instant>,
    /// What was shown last: progress never runs backwards.
    files: u64,
    bytes: u64,
    plan: Option<Plan>,
    left_out: BTreeMap<String, (u64, Vec<String>)>,
}

impl Watching {
    pub fn new(out: Arc<Output>, options: SyncOptions) -> Watching {
        Watching {
            out,
            options,
            stopped: tokio::sync::Notify::new(),
            asking: AtomicBool::new(false),
            agreed: AtomicBool::new(false),
            same_source: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    pub fn begin(&self) {
        *self.state() = State::default();
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.state().bar = None;
        self.out.set_bar(None);
    }

    pub fn agree(&self) {
        self.agreed.store(true, Ordering::Relaxed);
    }

    /// From now on nothing is emptied where `same_source` says no.
    pub fn guard(&self, same_source: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.same_source.set(Box::new(same_source));
    }

    /// The plan of the sync that began last.
    pub fn plan(&self) -> Option<Plan> {
        self.state().plan.clone()
    }

    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed)
    }

    /// For people: what is not at the target as it is at the source, by reason.
    pub fn list_left_out(&self) {
        let text = self.left_out_in_words();
        if !self.out.json && !text.is_empty() {
            self.out.warn(text);
        }
    }

    pub fn left_out_in_words(&self) -> String {
        let reasons = std::mem::take(&mut self.state().left_out);
        let mut texts = Vec::new();
        for (reason, (number, paths)) in reasons {
            let mut text = format!("left out, {reason}: {}", show::counted(number, "entry", "entries"));
            for path in &paths {
                text.push_str(&format!("\n    {path}"));
            }
            let more = number.saturating_sub(u64::try_from(paths.len()).unwrap_or(u64::MAX));
            if more > 0 {
                text.push_str(&format!("\n    … and {} more", show::count(more)));
            }
            texts.push(text);
        }
        texts.join("\n")
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a JSON progress line is due.
    fn is_due(&self) -> bool {
        if !self.out.json {
            return false;
        }
        let mut state = self.state();
        let due = state.last_event.is_none_or(|last| last.elapsed() >= BETWEEN);
        if due {
            state.last_event = Some(Instant::now());
        }
        due
    }

    fn scanning(&self, files: u64, bytes_read: u64) {
        if self.is_due() {
            self.out
                .event(&json!({"event": "progress", "phase": "scanning", "files": files, "bytes_read": bytes_read}));
        }
        if !self.out.shows_progress() {
            return;
        }
        let bar = {
            let mut state = self.state();
            if state.moving {
                return;
            }
            state.files = state.files.max(files);
            let bar = state.bar.get_or_insert_with(|| bar("{spinner} looking at {msg}", None)).clone();
            let read = if bytes_read > 0 { format!(", {} read", show::size(bytes_read)) } else { String::new() };
            bar.set_message(format!("{}{read}", show::counted(state.files, "file", "files")));
            bar
        };
        bar.tick();
        self.out.set_bar_if_none(&bar);
    }

    fn moving(&self, files_done: u64, files_total: u64, bytes_done: u64, bytes_total: u64) {
        if self.is_due() {
            self.out.event(&json!({
                "event": "progress",
                "phase": "moving",
                "files_done": files_done,
                "files_total": files_total,
                "bytes_done": bytes_done,
                "bytes_total": bytes_total,
            }));
        }
        if !self.out.shows_progress() {
            return;
        }
        let fresh = {
            let mut state = self.state();
            let fresh = !state.moving;
            if fresh {
                state.moving = true;
                state.files = 0;
                let template =
                    "{bar:24} {decimal_bytes}/{decimal_total_bytes}  {msg}  {decimal_bytes_per_sec}  {eta} left";
                state.bar = Some(bar(template, Some(bytes_total)));
            }
            state.files = state.files.max(files_done);
            state.bytes = state.bytes.max(bytes_done);
            if let Some(bar) = &state.bar {
                bar.set_length(bytes_total.max(state.bytes));
                bar.set_position(state.bytes);
                bar.set_message(format!("{}/{} files", show::count(state.files), show::count(files_total)));
            }
            if fresh { state.bar.clone() } else { None }
        };
        if fresh.is_some() {
            self.out.set_bar(fresh);
        }
    }

    fn planned(&self, plan: &Plan) {
        self.out.event(&plan::event(plan));
        self.state().plan = Some(plan.clone());
        if self.options.dry_run {
            self.out.line(plan::shown(plan));
        } else if self.out.verbose || (self.out.shows_progress() && !self.agreed.load(Ordering::Relaxed)) {
            self.out.set_bar(None);
            self.out.say(plan::shown(plan));
        }
    }

    fn left_out(&self, left: &LeftOut) {
        // The root itself has no name.
        let path = if left.path.is_empty() { ".".to_owned() } else { show::path(&left.path) };
        self.out.event(&json!({"event": "left_out", "path": path, "reason": left.reason}));
        self.out.detail(format!("left out {path}: {}", left.reason));
        let mut state = self.state();
        let known = state.left_out.len() < REASONS || state.left_out.contains_key(&left.reason);
        let reason = if known { left.reason.clone() } else { "for other reasons".to_owned() };
        let (number, paths) = state.left_out.entry(reason).or_default();
        *number += 1;
        if paths.len() < PATHS_SHOWN {
            paths.push(if path.is_empty() { ". (the root itself)".to_owned() } else { path });
        }
    }
}

impl Observer for Watching {
    fn event(&self, event: Event) {
        match event {
            Event::Scanning { files, bytes_read } => self.scanning(files, bytes_read),
            Event::Planned(plan) => self.planned(&plan),
            Event::Moving { files_done, files_total, bytes_done, bytes_total } => {
                self.moving(files_done, files_total, bytes_done, bytes_total);
            }
            Event::Committing => {
                self.out.event(&json!({"event": "progress", "phase": "committing"}));
                self.out.detail("everything is there and verified; it takes its place now");
            }
            Event::LeftOut(left) => self.left_out(&left),
            Event::Note(note) => {
                self.out.event(&json!({"event": "note", "message": note}));
                if self.out.verbose || self.out.shows_progress() {
                    self.out.say(format!("note: {note}"));
                }
            }
        }
    }

    fn confirm(&self, plan: &Plan) -> Result<bool> {
        let overridden = |yes_overrides| self.options.force || (self.options.yes && yes_overrides);
        if let Some(halt) = plan.halts.iter().find(|halt| !overridden(halt.yes_overrides)) {
            return Err(Error::new(Kind::Refused, halt.message.clone()).hint(halt.hint.clone()));
        }
        let empties = plan.entries_total == 0 && plan.removed.count > 0;
        if empties && self.same_source.get().is_some_and(|is_same| !is_same()) {
            let message = format!(
                "the source is empty, and not the folder that was synced before; the target has {} that would be removed",
                show::counted(plan.removed.count, "entry", "entries")
            );
            return Err(Error::new(Kind::Refused, message)
                .hint("is the source mounted? To empty the target, end this sync and start it anew"));
        }
        if self.options.force || self.options.yes || self.agreed.load(Ordering::Relaxed) {
            return Ok(true);
        }
        if self.out.is_interactive() {
            self.out.set_bar(None);
            self.state().bar = None;
        }
        self.asking.store(true, Ordering::Relaxed);
        let answer = self.out.ask("Go ahead?");
        self.asking.store(false, Ordering::Relaxed);
        Ok(answer.unwrap_or(true))
    }
}

fn bar(template: &str, length: Option<u64>) -> ProgressBar {
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::new_spinner(),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
