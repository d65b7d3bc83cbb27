//! The only place that prints: results on standard output, all else on standard error, or one JSON object a line.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::model::Error;

use super::show;

pub struct Output {
    pub json: bool,
    pub quiet: bool,
    pub verbose: bool,
    colors: bool,
    /// The progress bar that other lines have to go above.
    bar: Mutex<Option<indicatif::ProgressBar>>,
}

impl Output {
    pub fn new(json: bool, quiet: bool, verbose: bool, no_color: bool) -> Arc<Output> {
        let asked_for_none = no_color
            || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Arc::new(Output { json, quiet, verbose, colors: !asked_for_none, bar: Mutex::new(None) })
    }

    /// A result, for people. Scripts get theirs with [`Output::event`].
    pub fn line(&self, line: impl AsRef<str>) {
        if !self.json {
            self.stdout(&show::lines(line.as_ref()));
        }
    }

    /// A result that is a program's input, as it is.
    pub fn raw(&self, text: &str) {
        if !self.json {
            self.stdout(text.trim_end());
        }
    }

    /// A result, for scripts.
    pub fn event(&self, event: &Value) {
        if self.json {
            self.stdout(&event.to_string());
        }
    }

    /// The last line for scripts.
    pub fn done(&self, fields: Value) {
        let mut event = json!({"event": "done"});
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        self.event(&event);
    }

    /// Something beside the result, on standard error, unless it is to be quiet.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            self.stderr(&show::lines(line.as_ref()));
        }
    }

    /// As [`Output::say`], if more was asked for.
    pub fn detail(&self, line: impl AsRef<str>) {
        if self.verbose {
            self.say(line);
        }
    }

    /// What has to be said even when it is to be quiet.
    pub fn warn(&self, line: impl AsRef<str>) {
        self.stderr(&show::lines(line.as_ref()));
    }

    /// The end of a command that failed.
    pub fn error(&self, error: &Error) {
        if self.json {
            self.event(&json!({
                "event": "error",
                "kind": error.kind.word(),
                "message": error.chain(),
                "hint": error.hint,
            }));
            return;
        }
        let mut lines = format!("{} {}", self.red("error:"), show::lines(&error.message));
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            lines.push_str(&format!("\n  because {}", show::text(&cause.to_string())));
            next = cause.source();
        }
        if let Some(hint) = &error.hint {
            lines.push_str(&format!("\n{} {}", self.cyan("hint:"), show::lines(hint)));
        }
        self.stderr(&lines);
    }

    /// Help: on standard output when it was asked for.
    pub fn help(&self, help: &clap::builder::StyledStr, as_error: bool) {
        let colors = if as_error { self.colors_on_stderr() } else { self.colors && std::io::stdout().is_terminal() };
        let text = if colors { help.ansi().to_string() } else { help.to_string() };
        if as_error { self.stderr(text.trim_end()) } else { self.stdout(text.trim_end()) }
    }

    /// Asks, if there is anybody: both the question and the answer need a terminal. `None` when there is nobody.
    pub fn ask(&self, question: &str) -> Option<bool> {
        if !self.is_interactive() {
            return None;
        }
        let mut answer = String::new();
        self.above_bar(|| {
            // Not locked while the answer is awaited: a Ctrl-C has something to say then.
            let _ = write!(std::io::stderr(), "{} [y/N] ", show::text(question));
            let _ = std::io::stdin().read_line(&mut answer);
        });
        Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Whether somebody sits at it.
    pub fn is_interactive(&self) -> bool {
        !self.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Whether a bar would be seen.
    pub fn shows_progress(&self) -> bool {
        !self.json && !self.quiet && std::io::stderr().is_terminal()
    }

    /// Whether what was shown can be shown over.
    pub fn shows_in_place(&self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }

    /// Shows `text` over what was shown last; `lines_before` remembers how much that was. What does not fit the terminal
    /// is cut: a line that wraps, or one that has scrolled away, could not be shown over.
    pub fn in_place(&self, text: &str, lines_before: &mut usize) {
        let (columns, rows) = rustix::termios::tcgetwinsize(std::io::stdout())
            .ok()
            .filter(|size| size.ws_col > 0 && size.ws_row > 1)
            .map_or((usize::MAX, usize::MAX), |size| (size.ws_col.into(), size.ws_row.into()));
        let text = show::lines(text);
        let fits = text.lines().take(rows - 1).map(|line| line.chars().take(columns).collect::<String>());
        let fits: Vec<String> = fits.collect();
        let up = if *lines_before > 0 { format!("\x1b[{lines_before}A\x1b[J") } else { String::new() };
        *lines_before = fits.len();
        self.stdout(&format!("{up}{}", fits.join("\n")));
    }

    /// From now on other lines go above this bar; `None` takes it away.
    pub fn set_bar(&self, bar: Option<indicatif::ProgressBar>) {
        let mut slot = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = std::mem::replace(&mut *slot, bar) {
            old.finish_and_clear();
        }
    }

    /// The first bar of a sync.
    pub fn set_bar_if_none(&self, bar: &indicatif::ProgressBar) {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| bar.clone());
    }

    /// Ends a line that somebody was typing on.
    pub fn end_line(&self) {
        if !self.json {
            let _ = writeln!(std::io::stderr().lock());
        }
    }

    pub fn colors_on_stderr(&self) -> bool {
        self.colors && std::io::stderr().is_terminal()
    }

    pub fn red(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub fn cyan(&self, text: &str) -> String {
        self.paint("36", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colors_on_stderr() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Whoever reads may have gone (`| head`); that is no reason to fail.
    fn stdout(&self, text: &str) {
        self.above_bar(|| {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        });
    }

    fn stderr(&self, text: &str) {
        self.above_bar(|| {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }

    fn above_bar(&self, print: impl FnOnce()) {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}
