//! Other processes of this machine.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Looks for processes of a session that come up while it is ended.
const ROUNDS: usize = 8;

/// Whether process `pid` sees what this one sees and may what this one may: the same user, the same mounts, the same root.
/// Then a path means the same folder to both.
pub fn is_neighbour(pid: u32) -> bool {
    let look = |who: &str| -> Option<_> {
        let mounts = std::fs::read_link(format!("/proc/{who}/ns/mnt")).ok()?;
        let users = std::fs::read_link(format!("/proc/{who}/ns/user")).ok()?;
        let root = std::fs::metadata(format!("/proc/{who}/root/.")).ok()?;
        let owner = std::fs::metadata(format!("/proc/{who}")).ok()?.uid();
        Some((mounts, users, root.dev(), root.ino(), owner))
    };
    let own = look("self");
    own.is_some() && own == look(&pid.to_string())
}

/// Ends process `leader` and the session it leads, as far as they are in a control group whose path contains `group`.
/// How many were ended: none where they are not to be seen from here, as from within another container.
pub fn kill_session(leader: u32, group: &str) -> usize {
    // Whoever has the signal may still be seen alive for a moment.
    let mut ended = HashSet::new();
    for _ in 0..ROUNDS {
        let before = ended.len();
        ended.extend(pids().filter(|pid| kill_if(*pid, leader, group)));
        if ended.len() == before {
            break;
        }
    }
    ended.len()
}

/// Those that can be seen from here.
pub(super) fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The descriptor comes first: what is read after it is of the process that gets the signal, or nobody gets one.
fn kill_if(pid: u32, leader: u32, group: &str) -> bool {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(held) = raw.and_then(|raw| pidfd_open(raw, PidfdFlags::empty()).ok()) else { return false };
    let Some((alive, session)) = state_and_session(pid) else { return false };
    let ours = alive
        && (pid == leader || session == leader)
        && std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(group));
    ours && pidfd_send_signal(&held, Signal::KILL).is_ok()
}

/// Whether a process is more than a zombie, and its session. The name of its program, the second field, may hold anything.
fn state_and_session(pid: u32) -> Option<(bool, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    Some((alive, fields.nth(2)?.parse().ok()?))
}

/// Begins a session of its own, which no terminal's end or Ctrl-C reaches.
pub fn leave_session() {
    // Fails only for whoever leads one already.
    let _ = rustix::process::setsid();
}

/// Lets go of the terminal, or whatever the standard streams are, and of the folder: whoever waits for their end has it.
pub fn leave_terminal() -> std::io::Result<()> {
    let nothing = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    Ok(rustix::process::chdir("/")?)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_session_is_ended_with_what_it_started_and_only_in_its_group() {
        let mut session = Command::new("setsid")
            .args(["sh", "-c", "sleep 3600 & echo started; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(session.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let group = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(kill_session(session.id(), "no such group"), 0);
        assert!(session.try_wait().unwrap().is_none());
        assert_eq!(kill_session(session.id(), group.trim_end()), 2);
        assert_eq!(session.wait().unwrap().signal(), Some(9));
        let left = || pids().any(|pid| state_and_session(pid).is_some_and(|(alive, of)| alive && of == session.id()));
        let until = Instant::now() + Duration::from_secs(10);
        while left() {
            assert!(Instant::now() < until, "a process of the session lives");
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_is_ones_own_neighbour_and_nobody_is_a_process_that_is_not_there() {
        assert!(is_neighbour(std::process::id()));
        assert!(!is_neighbour(u32::MAX));
    }
}
