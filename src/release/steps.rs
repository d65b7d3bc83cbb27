//! The steps of a release, and what each leaves to be put right if it is the last one that was begun.
//!
//! Pure: a step goes in, what is to be done comes out. A step is written down before it is begun, so that whoever comes
//! after a crash knows at most one step too much; every way back is harmless where nothing was done yet.

use std::fmt;
use std::str::FromStr;

use crate::model::{Error, Result};

/// In the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The target's services are stopped; data is copied while the source serves.
    Copying,
    /// The target is started on that data, to see whether it comes up.
    Checking,
    /// It is stopped again, and what was written meanwhile is copied.
    CopyingAgain,
    /// The source's requests are held, those under way end.
    Holding,
    /// Its hooks run, and it is frozen.
    Freezing,
    /// What has changed since is copied.
    CopyingRest,
    /// The target is started.
    Starting,
    /// The domains are moved, in one step of the database.
    Moving,
    /// They lead to the target.
    Moved,
}

/// What there is to put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mend {
    /// The source's containers are to run again.
    Thaw,
    /// The source's `snapshot.after` hooks are to run.
    AfterHooks,
    /// The source's requests are to be let go.
    LetGo,
    /// The target's services are to be what they were.
    PutBack,
}

/// Which way a release that was broken off is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Back,
    /// It is done but for the clearing up.
    On,
}

impl Step {
    pub const ALL: [Step; 9] = [
        Step::Copying,
        Step::Checking,
        Step::CopyingAgain,
        Step::Holding,
        Step::Freezing,
        Step::CopyingRest,
        Step::Starting,
        Step::Moving,
        Step::Moved,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Step::Copying => "copying",
            Step::Checking => "checking",
            Step::CopyingAgain => "copying again",
            Step::Holding => "holding",
            Step::Freezing => "freezing",
            Step::CopyingRest => "copying the rest",
            Step::Starting => "starting",
            Step::Moving => "moving",
            Step::Moved => "moved",
        }
    }

    /// What has to be put right, in this order, when the release fails at this step: the source serves again first.
    pub fn mends(self) -> &'static [Mend] {
        match self {
            Step::Copying | Step::Checking | Step::CopyingAgain => &[Mend::PutBack],
            Step::Holding => &[Mend::LetGo, Mend::PutBack],
            Step::Freezing | Step::CopyingRest | Step::Starting | Step::Moving => {
                &[Mend::Thaw, Mend::AfterHooks, Mend::LetGo, Mend::PutBack]
            }
            Step::Moved => &[],
        }
    }

    /// Which way to go after a crash in this step. `moved`: the domains lead to the target.
    pub fn way(self, moved: bool) -> Way {
        match self {
            Step::Moved => Way::On,
            Step::Moving if moved => Way::On,
            _ => Way::Back,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Step {
    type Err = Error;

    fn from_str(text: &str) -> Result<Step> {
        let found = Step::ALL.into_iter().find(|step| step.word() == text);
        found.ok_or_else(|| Error::failed(format!("`{}` is no step of a release", text.escape_debug())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_began_is_put_right_by_it_and_by_every_later_one_until_the_move() {
        let began = |step: Step| match step {
            Step::Copying => vec![Mend::PutBack],
            Step::Holding => vec![Mend::LetGo],
            Step::Freezing => vec![Mend::Thaw, Mend::AfterHooks],
            _ => vec![],
        };
        let mut open = Vec::new();
        for step in Step::ALL.into_iter().filter(|step| *step != Step::Moved) {
            open.extend(began(step));
            let mut mends = step.mends().to_vec();
            mends.sort();
            open.sort();
            assert_eq!(mends, open, "{step}");
        }
        assert!(Step::Moved.mends().is_empty());
    }

    #[test]
    fn the_source_serves_again_before_anything_else_is_put_right() {
        for step in Step::ALL {
            let place = |mend| step.mends().iter().position(|one| *one == mend);
            assert!(place(Mend::Thaw) <= place(Mend::LetGo), "{step}: nobody is let go to what is frozen");
            if let (Some(let_go), Some(back)) = (place(Mend::LetGo), place(Mend::PutBack)) {
                assert!(let_go < back, "{step}");
            }
        }
    }

    #[test]
    fn a_crash_goes_back_until_the_domains_have_moved_and_on_from_then() {
        for step in Step::ALL {
            let on = step == Step::Moved;
            assert_eq!(step.way(false) == Way::On, on, "{step}");
            assert_eq!(step.way(true) == Way::On, on || step == Step::Moving, "{step}");
            assert_eq!(step.word().parse::<Step>().unwrap(), step);
        }
    }
}
