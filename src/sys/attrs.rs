//! Extended attributes: read and written without following anything, and which of them are a tree's own.
//!
//! What no rule here names is data: it is copied where the target's file system takes it, and told where it does not.

use std::io::{Error, Result};
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::dir::Dir;

/// An extended attribute: name and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// What could not be made true, in a few words each.
pub type Refusals = Vec<String>;

/// The largest list of names, and the largest value, that Linux keeps.
const XATTR_MAX: usize = 64 * 1024;

/// Attributes that only show other metadata, or that the kernel alone can write. They are neither read, written nor
/// removed: elsewhere they say nothing, and whoever removes one at its place removes what it shows. A star stands for
/// any rest.
///
/// From xattr.conf(5) of libattr, what it skips. Not taken over: `user.Beagle.*`, the data of a program like any other in
/// `user.`. Added: what a server or a driver makes up for each file.
const VIEWS: [&str; 13] = [
    // XFS: access lists, capabilities and labels as it keeps them; `system.posix_acl_*` and `security.*` are the same.
    "trusted.SGI_ACL_FILE",
    "trusted.SGI_ACL_DEFAULT",
    "trusted.SGI_CAP_FILE",
    "trusted.SGI_MAC_FILE",
    "trusted.SGI_DMI_*",
    "xfsroot.*",
    // A keyed sum of the other attributes, good on one machine.
    "security.evm",
    // Lists, ids and layouts of one server's files.
    "afs.*",
    "lustre.*",
    "system.cifs_*",
    "system.smb3_*",
    "system.ntfs_*",
    "system.advise",
];

/// An access list as an NFS server tells it. It tells one for each file, most of them made from the mode.
const NFS4_ACL: &[u8] = b"system.nfs4_acl";

/// Whether an attribute only shows what other metadata says.
pub fn is_view((key, value): &Xattr) -> bool {
    let fits = |rule: &str| match rule.strip_suffix('*') {
        Some(start) => key.starts_with(start.as_bytes()),
        None => **key == *rule.as_bytes(),
    };
    VIEWS.iter().any(|rule| fits(rule)) || **key == *NFS4_ACL && says_the_mode(value)
}

/// Takes the views out of a list of attributes. True if there were any.
pub fn drop_views(xattrs: &mut Vec<Xattr>) -> bool {
    let before = xattrs.len();
    xattrs.retain(|xattr| !is_view(xattr));
    xattrs.len() < before
}

/// Whether an NFSv4 access list (RFC 7530, 6.2.1, as XDR) names nobody but the three of the mode, and hands nothing down.
fn says_the_mode(list: &[u8]) -> bool {
    const IDENTIFIER_GROUP: u32 = 0x40;
    let mut rest = list;
    // The next number, and what is behind it.
    let mut number = || {
        let (bytes, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        Some((u32::from_be_bytes(*bytes), after))
    };
    let Some((count, _)) = number() else { return false };
    let mut entry = || {
        let (kind, _) = number()?;
        let (flags, _) = number()?;
        number()?;
        let (len, after) = number()?;
        let who = after.get(..len as usize)?;
        // Strings fill up to a multiple of four bytes.
        for _ in 0..len.div_ceil(4) {
            number()?;
        }
        Some(kind <= 1 && flags & !IDENTIFIER_GROUP == 0 && matches!(who, b"OWNER@" | b"GROUP@" | b"EVERYONE@"))
    };
    count > 0 && (0..count).all(|_| entry() == Some(true))
}

/// Reads the extended attributes of `name` in `dir`, sorted by name. An empty list where the file system has none.
pub fn xattrs_at(dir: &Dir, name: &[u8]) -> Result<Vec<Xattr>> {
    let path = dir.proc_path(name);
    read_all(
        |buffer| rustix::fs::llistxattr(&path[..], buffer),
        |key, buffer| rustix::fs::lgetxattr(&path[..], key, buffer),
    )
}

/// Reads the extended attributes of an open file or directory, sorted by name.
pub fn xattrs_of(file: impl AsFd) -> Result<Vec<Xattr>> {
    let file = file.as_fd();
    read_all(|buffer| rustix::fs::flistxattr(file, buffer), |key, buffer| rustix::fs::fgetxattr(file, key, buffer))
}

/// Reads what `list` and `value` tell, but no views.
pub(super) fn read_all(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    value: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<Vec<Xattr>> {
    let mut small = [0; 512];
    let mut large = Vec::new();
    let names = match list(&mut small) {
        Ok(count) => &small[..count],
        Err(Errno::RANGE) => {
            large.resize(XATTR_MAX, 0);
            let count = list(&mut large)?;
            &large[..count]
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => &[],
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for key in names.split(|&byte| byte == 0).filter(|key| !key.is_empty()) {
        let mut buffer = vec![0; 256];
        let count = match value(key, &mut buffer) {
            Err(Errno::RANGE) => {
                buffer.resize(XATTR_MAX, 0);
                value(key, &mut buffer)
            }
            other => other,
        };
        match count {
            Ok(count) => {
                buffer.truncate(count);
                found.push((key.into(), buffer.into_boxed_slice()));
            }
            // Gone since it was listed, or not for us to see.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    drop_views(&mut found);
    found.sort();
    Ok(found)
}

/// Makes the attributes `wanted` out of `old`. Views are left as they are, whoever asks for them.
pub(super) fn change(
    old: &[Xattr],
    wanted: &[Xattr],
    refusals: &mut Refusals,
    set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
    remove: impl Fn(&[u8]) -> rustix::io::Result<()>,
) -> Result<()> {
    let mut refuse = |key: &[u8], what: &str, error: Errno| match error {
        Errno::OPNOTSUPP
        | Errno::PERM
        | Errno::ACCESS
        | Errno::INVAL
        | Errno::NOSPC
        | Errno::TOOBIG
        | Errno::RANGE
        | Errno::NAMETOOLONG => {
            let key = String::from_utf8_lossy(key);
            refusals.push(format!("the attribute {key} could not be {what}: {}", Error::from(error)));
            Ok(())
        }
        other => Err(Error::from(other)),
    };
    let own = |xattr: &&Xattr| !is_view(xattr);
    for (key, _) in old.iter().filter(own).filter(|(key, _)| !wanted.iter().any(|(other, _)| other == key)) {
        match remove(key) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => refuse(key, "removed", error)?,
        }
    }
    for (key, value) in wanted.iter().filter(own).filter(|pair| !old.contains(pair)) {
        set(key, value).or_else(|error| refuse(key, "kept", error))?;
    }
    Ok(())
}

/// Takes from a new directory of ours what the folder above handed down: access lists, and properties such as btrfs's
/// compression. What cannot be taken away stays.
pub(super) fn remove_inherited(dir: &Dir) -> Result<()> {
    for (key, _) in xattrs_of(dir)? {
        if !key.starts_with(b"system.") && !key.starts_with(b"btrfs.") {
            continue;
        }
        match rustix::fs::fremovexattr(dir, &key[..]) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(key: &str, value: &[u8]) -> Xattr {
        (key.as_bytes().into(), value.into())
    }

    #[test]
    fn views_are_told_from_data() {
        for view in
            ["trusted.SGI_ACL_FILE", "trusted.SGI_DMI_X", "xfsroot.a", "security.evm", "afs.acl", "system.ntfs_acl"]
        {
            assert!(is_view(&xattr(view, b"1")), "{view}");
        }
        for data in [
            "system.posix_acl_access",
            "system.posix_acl_default",
            "security.capability",
            "security.selinux",
            "security.NTACL",
            "trusted.overlay.opaque",
            "trusted.SGI_ACL_FILES",
            "user.Beagle.x",
            "user.trusted.SGI_ACL_FILE",
            "btrfs.compression",
        ] {
            assert!(!is_view(&xattr(data, b"1")), "{data}");
        }
        let mut both = vec![xattr("trusted.SGI_ACL_FILE", b""), xattr("user.x", b"1")];
        assert!(drop_views(&mut both) && !drop_views(&mut both));
        assert_eq!(both, [xattr("user.x", b"1")]);
    }

    /// An NFSv4 list: kind, flags and who of each entry.
    fn nfs4(entries: &[(u32, u32, &str)]) -> Vec<u8> {
        let mut list = u32::try_from(entries.len()).unwrap().to_be_bytes().to_vec();
        for (kind, flags, who) in entries {
            for number in [*kind, *flags, 0x1601bf, u32::try_from(who.len()).unwrap()] {
                list.extend(number.to_be_bytes());
            }
            list.extend(who.as_bytes());
            list.resize(list.len().next_multiple_of(4), 0);
        }
        list
    }

    #[test]
    fn an_nfs_list_made_of_the_mode_is_a_view_and_any_other_is_data() {
        let is_view = |entries: &[(u32, u32, &str)]| is_view(&xattr("system.nfs4_acl", &nfs4(entries)));
        let mode = [(1, 0, "OWNER@"), (0, 0, "OWNER@"), (0, 0x40, "GROUP@"), (0, 0, "EVERYONE@")];
        assert!(is_view(&mode));
        assert!(!is_view(&[&mode[..], &[(0, 0, "bob@example.com")]].concat()));
        assert!(!is_view(&[&mode[..], &[(0, 0x40, "staff@example.com")]].concat()));
        assert!(!is_view(&[&mode[..], &[(0, 0x3, "OWNER@")]].concat()), "handed down");
        assert!(!is_view(&[(2, 0, "EVERYONE@")]), "an audit entry");
        let whole = nfs4(&mode);
        assert!(!super::is_view(&xattr("system.nfs4_acl", &whole[..whole.len() - 1])), "torn");
        assert!(!super::is_view(&xattr("system.nfs4_acl", b"")));
    }

    #[test]
    fn views_are_neither_set_nor_removed() {
        let done = std::cell::RefCell::new(Vec::new());
        let old = [xattr("system.ntfs_times", b"1"), xattr("trusted.SGI_ACL_FILE", b"1"), xattr("user.old", b"1")];
        let wanted = [xattr("trusted.SGI_ACL_DEFAULT", b"2"), xattr("user.new", b"2")];
        let mut refusals = Refusals::new();
        let set = |key: &[u8], _: &[u8]| {
            done.borrow_mut().push(format!("set {}", String::from_utf8_lossy(key)));
            Ok(())
        };
        let remove = |key: &[u8]| {
            done.borrow_mut().push(format!("remove {}", String::from_utf8_lossy(key)));
            Ok(())
        };
        change(&old, &wanted, &mut refusals, set, remove).unwrap();
        assert_eq!(*done.borrow(), ["remove user.old", "set user.new"]);
        assert!(refusals.is_empty());
    }
}
