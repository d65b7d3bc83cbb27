//! Other processes of this machine.

use std::os::unix::fs::MetadataExt;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_ones_own_neighbour_and_nobody_is_a_process_that_is_not_there() {
        assert!(is_neighbour(std::process::id()));
        assert!(!is_neighbour(u32::MAX));
    }
}
