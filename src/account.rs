//! Accounts of this machine: number, groups, home and login shell.
//!
//! From `/etc/passwd` and `/etc/group`; for users that only the name service knows (LDAP, sssd) by asking `getent` and `id`,
//! because a static program has no name service switch.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The superuser's name in a policy, whatever `/etc/passwd` calls number 0.
pub const ROOT: &str = "root";
/// The system user of the daemon, whose files hold the device's key.
pub const DAEMON: &str = "musterd";
/// The system user of the network side of sessions.
pub const NETWORK: &str = "musterd-net";
/// As whom Muster itself runs: no visitor becomes one of them.
pub const OUR_USERS: [&str; 2] = [DAEMON, NETWORK];
/// Path for a user's shell where the system has none for them.
const SHELL: &str = "/bin/sh";
/// Most groups of one user (Linux, NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its first group.
    pub gid: u32,
    /// All its groups, the first one among them.
    pub groups: Vec<u32>,
    /// Its home directory.
    pub home: PathBuf,
    /// Its login shell; a plain one where the account has none.
    pub shell: String,
}

impl Account {
    /// The one as whom this process runs.
    pub fn own() -> Self {
        let uid = rustix::process::geteuid();
        let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut account = find(&text, |_, number| number == uid.as_raw()).unwrap_or_else(|| Self {
            name: std::env::var("USER").unwrap_or_else(|_| format!("#{}", uid.as_raw())),
            uid: uid.as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: Vec::new(),
            home: std::env::var_os("HOME").map_or_else(|| "/".into(), PathBuf::from),
            shell: SHELL.into(),
        });
        if uid.is_root() {
            account.name = ROOT.to_owned();
        }
        account
    }

    /// The account of this name; `None` where the system has none.
    ///
    /// # Errors
    /// When the system's files cannot be read, or `getent` fails.
    pub fn named(name: &str) -> io::Result<Option<Self>> {
        if let Some(mut account) = find(&std::fs::read_to_string("/etc/passwd")?, |known, _| known == name) {
            account.groups = groups(&std::fs::read_to_string("/etc/group")?, name, account.gid);
            return Ok(Some(account));
        }
        // Names go to the programs as arguments of their own: none begins with a hyphen (see the policy's rule for names).
        let Ok(entry) = output("getent", &["passwd", name]) else { return Ok(None) };
        let Some(mut account) = find(&entry, |known, _| known == name) else { return Ok(None) };
        let listed = output("id", &["-G", name])?;
        account.groups = listed.split_ascii_whitespace().filter_map(|number| number.parse().ok()).take(GROUPS_MAX).collect();
        Ok(Some(account))
    }

    /// Whether this is user number 0, under whichever name.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
}

fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The account that fits by name and number in the text of `/etc/passwd`.
fn find(passwd: &str, fits: impl Fn(&str, u32) -> bool) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        if !fits(name, uid) {
            return None;
        }
        // A system account has no shell on purpose, but the policy names it for visitors: they get the plain one.
        let usable = shell.starts_with('/') && !shell.ends_with("/nologin") && !shell.ends_with("/false");
        let shell = if usable { shell } else { SHELL };
        Some(Account { name: name.into(), uid, gid, groups: vec![gid], home: home.into(), shell: shell.into() })
    })
}

/// All groups of a user in the text of `/etc/group`.
fn groups(text: &str, name: &str, first: u32) -> Vec<u32> {
    let mut found = vec![first];
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else { continue };
        if let Ok(gid) = gid.parse()
            && members.split(',').any(|member| member == name)
            && !found.contains(&gid)
        {
            found.push(gid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let text =
            "root:x:0:0:root:/root:/bin/bash\n# note\nmusterd:x:998:997::/var/lib/musterd:/usr/sbin/nologin\nodd:x:1\nbad:x:-1:0::/:/x\n";
        let root = find(text, |_, uid| uid == 0).unwrap();
        assert_eq!((root.name.as_str(), root.shell.as_str(), root.is_root()), ("root", "/bin/bash", true));
        let service = find(text, |name, _| name == "musterd").unwrap();
        assert_eq!((service.shell.as_str(), service.home.to_str(), service.gid), ("/bin/sh", Some("/var/lib/musterd"), 997));
        for missing in ["odd", "bad", "# note", ""] {
            assert_eq!(find(text, |name, _| name == missing), None, "{missing}");
        }
    }

    #[test]
    fn groups_are_those_that_name_the_user() {
        let text = "root:x:0:\nsudo:x:27:pi,ada\nvideo:x:44:ada,pi2\ndialout:x:20:pi\npi:x:1000:\nbroken\n";
        assert_eq!(groups(text, "pi", 1000), [1000, 27, 20]);
        assert_eq!(groups(text, "nobody", 65_534), [65_534]);
    }

    #[test]
    fn this_machine_has_root_and_not_everybody() {
        assert_eq!(Account::named("root").unwrap().unwrap().uid, 0);
        assert_eq!(Account::named("no-such-user-here").unwrap(), None);
        assert_eq!(Account::own().uid, rustix::process::geteuid().as_raw());
    }
}
