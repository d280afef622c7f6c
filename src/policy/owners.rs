//! Who could change the policy: the way to the file, one element at a time. A shell: it looks at the file system.
//!
//! Whoever may write the file, or a directory on the way to it, makes the policy. So each element must be root's and nobody else's
//! to write. A program without root also trusts its own user, whose files it could not defend anyway.
//! What that user's private group may write is the user's own: desktop systems make every file so.
//! Directories such as `/tmp`, in which everybody writes and nobody can replace what is another's, may be on the way.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Symbolic links on the way, as many as the kernel follows.
const LINKS_MAX: usize = 40;
const GROUP_WRITES: u32 = 0o020;
const ALL_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The way to a file that only its owner can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    /// Where the file is when all links are followed.
    pub(super) file: PathBuf,
    /// Everything that was passed; the file is the last.
    pub(super) passed: Vec<Stamp>,
}

/// Why there is no way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is nothing here.
    Missing,
    /// What is wrong, where, and what to type.
    Unsafe(String),
}

/// What tells one state of a file or directory from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    owner: (u32, u32),
    mode: u32,
    /// Of files and links only: a directory changes with everything that is put into it.
    content: Option<(u64, i64, i64)>,
    /// When the inode changed last, in seconds. Of files and links only.
    pub(super) changed_s: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let content = (!metadata.is_dir()).then(|| (metadata.size(), metadata.ctime(), metadata.ctime_nsec()));
        Self {
            file: (metadata.dev(), metadata.ino()),
            owner: (metadata.uid(), metadata.gid()),
            mode: metadata.mode(),
            content,
            changed_s: content.map_or(0, |(_, changed_s, _)| changed_s),
        }
    }
}

/// Who reads the policy.
#[derive(Debug, Clone, Copy)]
struct Reader {
    user: u32,
    group: u32,
}

impl Reader {
    /// Whether only root, or this reader, is its owner.
    fn trusts(self, owner: u32) -> bool {
        owner == 0 || owner == self.user
    }

    /// Whether others than its owner may write.
    fn sees_others_write(self, metadata: &Metadata) -> bool {
        // A private group has its user's number.
        let private = self.user != 0 && self.group == self.user && (metadata.uid(), metadata.gid()) == (self.user, self.group);
        let others = if private { ALL_WRITE } else { GROUP_WRITES | ALL_WRITE };
        metadata.mode() & others != 0
    }
}

/// Goes the way to a file.
///
/// # Errors
/// When it is not there, or when somebody else could change it.
pub(super) fn follow(path: &Path) -> Result<Way, Trouble> {
    follow_as(path, Reader { user: rustix::process::geteuid().as_raw(), group: rustix::process::getegid().as_raw() })
}

fn follow_as(path: &Path, reader: Reader) -> Result<Way, Trouble> {
    let path = std::path::absolute(path).map_err(|error| Trouble::Unsafe(format!("{} cannot be found: {error}", path.display())))?;
    let mut ahead: VecDeque<OsString> = elements(&path);
    let mut here = PathBuf::from("/");
    let mut passed = vec![directory(&here, &look(&here)?, reader)?];
    let mut links = 0;
    while let Some(element) = ahead.pop_front() {
        if element == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&element);
        let metadata = look(&next)?;
        if metadata.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(Trouble::Unsafe(format!("{} is a symbolic link that leads nowhere", path.display())));
            }
            owned(&next, &metadata, reader)?;
            passed.push(Stamp::of(&metadata));
            let target = std::fs::read_link(&next).map_err(|error| unreadable(&next, &error))?;
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            for element in elements(&target).into_iter().rev() {
                ahead.push_front(element);
            }
        } else if ahead.is_empty() {
            passed.push(file(&next, &metadata, reader)?);
            return Ok(Way { file: next, passed });
        } else {
            passed.push(directory(&next, &metadata, reader)?);
            here = next;
        }
    }
    Err(Trouble::Unsafe(format!("{} is a directory, not a file", path.display())))
}

fn elements(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn look(path: &Path) -> Result<Metadata, Trouble> {
    std::fs::symlink_metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Trouble::Missing,
        _ => unreadable(path, &error),
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> Trouble {
    Trouble::Unsafe(format!("{} cannot be read: {error}", path.display()))
}

fn directory(path: &Path, metadata: &Metadata, reader: Reader) -> Result<Stamp, Trouble> {
    let shown = path.display();
    if !metadata.is_dir() {
        return Err(Trouble::Unsafe(format!("{shown} is not a directory")));
    }
    owned(path, metadata, reader)?;
    let mode = metadata.mode();
    // In a sticky directory others can add files, but not replace the next element, whose owner is looked at in its turn.
    if reader.sees_others_write(metadata) && mode & STICKY == 0 {
        return Err(Trouble::Unsafe(format!(
            "others may write into the directory {shown} (mode {:o}); type: chmod go-w {shown}",
            mode & 0o7777
        )));
    }
    Ok(Stamp::of(metadata))
}

fn file(path: &Path, metadata: &Metadata, reader: Reader) -> Result<Stamp, Trouble> {
    let shown = path.display();
    if !metadata.is_file() {
        return Err(Trouble::Unsafe(format!("{shown} is not a file")));
    }
    owned(path, metadata, reader)?;
    if reader.sees_others_write(metadata) {
        return Err(Trouble::Unsafe(format!("others may write {shown} (mode {:o}); type: chmod go-w {shown}", metadata.mode() & 0o7777)));
    }
    Ok(Stamp::of(metadata))
}

fn owned(path: &Path, metadata: &Metadata, reader: Reader) -> Result<(), Trouble> {
    let owner = metadata.uid();
    if reader.trusts(owner) {
        return Ok(());
    }
    let shown = path.display();
    Err(Trouble::Unsafe(format!("{shown} belongs to user number {owner}, not to root; type: chown -h root {shown}")))
}

#[cfg(test)]
mod tests {
    use super::{Path, PathBuf, Reader, Trouble, Way, follow_as};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// `etc/policy.toml` in a directory of our own.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        mode(&dir.path().join("etc"), 0o755);
        let path = dir.path().join("etc/policy.toml");
        std::fs::write(&path, "").unwrap();
        mode(&path, 0o644);
        (dir, path)
    }

    /// As whoever runs the tests, but without a private group.
    fn follow(path: &Path) -> Result<Way, Trouble> {
        follow_as(path, Reader { user: rustix::process::geteuid().as_raw(), group: u32::MAX })
    }

    #[track_caller]
    fn unsafe_because(path: &Path, parts: &[&str]) {
        match follow(path) {
            Err(Trouble::Unsafe(why)) => assert!(parts.iter().all(|part| why.contains(part)), "{why}: not all of {parts:?}"),
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let (_dir, path) = place();
        assert_eq!(follow(&path).unwrap().file, path.canonicalize().unwrap());
        for bad in [0o664, 0o646, 0o666, 0o622] {
            mode(&path, bad);
            unsafe_because(&path, &["others may write", "chmod go-w", "policy.toml", &format!("{bad:o}")]);
        }
        for good in [0o600, 0o640, 0o444] {
            mode(&path, good);
            follow(&path).unwrap();
        }
    }

    #[test]
    fn so_is_one_in_a_directory_that_others_may_write_however_far_up() {
        let (dir, path) = place();
        for writable in ["etc", ""] {
            let writable = dir.path().join(writable);
            for bad in [0o775, 0o757, 0o777] {
                mode(&writable, bad);
                unsafe_because(&path, &["others may write into the directory", "chmod go-w"]);
            }
            mode(&writable, 0o1777);
            follow(&path).expect("a sticky directory keeps what is in it");
            mode(&writable, 0o755);
        }
        follow(&path).unwrap();
    }

    #[test]
    fn a_link_is_followed_and_its_target_looked_at() {
        let (dir, path) = place();
        let link = dir.path().join("link.toml");
        symlink("etc/policy.toml", &link).unwrap();
        let way = follow(&link).unwrap();
        assert_eq!(way.file, path.canonicalize().unwrap());
        assert!(way.passed.len() > follow(&path).unwrap().passed.len(), "the link is one of the things that may change");

        let up = dir.path().join("up");
        symlink(dir.path().join("etc/../etc"), &up).unwrap();
        assert_eq!(follow(&up.join("policy.toml")).unwrap().file, way.file);

        mode(&path, 0o666);
        unsafe_because(&link, &["others may write", "etc/policy.toml"]);
        mode(&path, 0o644);
        mode(&dir.path().join("etc"), 0o777);
        unsafe_because(&link, &["others may write into the directory", "etc"]);

        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        symlink(&b, &a).unwrap();
        symlink(&a, &b).unwrap();
        unsafe_because(&a, &["leads nowhere"]);
    }

    #[test]
    fn what_is_missing_or_not_a_file() {
        let (dir, path) = place();
        assert_eq!(follow(&dir.path().join("none/policy.toml")), Err(Trouble::Missing));
        symlink("none", dir.path().join("dangling")).unwrap();
        assert_eq!(follow(&dir.path().join("dangling")), Err(Trouble::Missing));
        unsafe_because(&dir.path().join("etc"), &["is not a file"]);
        unsafe_because(&path.join("below"), &["is not a directory"]);
        unsafe_because(Path::new("/"), &["is a directory"]);
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        // Only root can give a file away; other users see the rule by root's own directories above.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (dir, path) = place();
        let link = dir.path().join("link.toml");
        symlink(&path, &link).unwrap();
        for foreign in [path.as_path(), &dir.path().join("etc")] {
            chown(foreign, Some(1234), None).unwrap();
            unsafe_because(&path, &["user number 1234", "chown -h root"]);
            chown(foreign, Some(0), None).unwrap();
        }
        std::os::unix::fs::lchown(&link, Some(1234), None).unwrap();
        unsafe_because(&link, &["user number 1234", "link.toml"]);
    }

    #[test]
    fn a_reader_without_root_trusts_itself_and_its_private_group() {
        // Only root can give a file away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_dir, path) = place();
        chown(&path, Some(1234), Some(1234)).unwrap();
        let as_user = |user, group| follow_as(&path, Reader { user, group }).is_ok();
        assert!(as_user(1234, 1234) && !as_user(1235, 1235) && !as_user(0, 0));
        mode(&path, 0o664);
        assert!(as_user(1234, 1234), "its private group");
        assert!(!as_user(1234, 100), "a group of several users");
        chown(&path, Some(1234), Some(100)).unwrap();
        assert!(!as_user(1234, 1234), "another group");
        chown(&path, Some(0), Some(1234)).unwrap();
        assert!(!as_user(1234, 1234), "root's file in its group");
        chown(&path, Some(1234), Some(1234)).unwrap();
        mode(&path, 0o666);
        assert!(!as_user(1234, 1234), "everybody");
    }
}
