//! The account as which the worker runs: its name, home and login shell.
//!
//! From `/etc/passwd` alone: a static daemon has no name service switch, and accounts of a robot are local.

use std::path::PathBuf;

use crate::policy::ROOT;

/// Path for a user's shell where the system has none for us.
const SHELL: &str = "/bin/sh";

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its home directory.
    pub home: PathBuf,
    /// Its login shell; a plain one where the account has none.
    pub shell: String,
    /// Whether this is user number 0.
    pub is_root: bool,
}

impl Account {
    /// The worker's own.
    pub fn own() -> Self {
        let uid = rustix::process::geteuid();
        let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let account = find(&text, uid.as_raw()).unwrap_or_else(|| Self {
            name: std::env::var("USER").unwrap_or_else(|_| format!("#{}", uid.as_raw())),
            home: std::env::var_os("HOME").map_or_else(|| "/".into(), PathBuf::from),
            shell: SHELL.into(),
            is_root: uid.is_root(),
        });
        account.called_root()
    }

    /// The policy and the person see number 0 as root, under whichever name the system has it.
    fn called_root(self) -> Self {
        if self.is_root { Self { name: ROOT.to_owned(), ..self } } else { self }
    }
}

/// The account with this number in the text of `/etc/passwd`.
fn find(passwd: &str, uid: u32) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, _, _, home, shell] = fields[..] else { return None };
        if id.parse() != Ok(uid) {
            return None;
        }
        // A system account has no shell on purpose, but the policy lets its visitors have a terminal: they get the plain one.
        let usable = shell.starts_with('/') && !shell.ends_with("/nologin") && !shell.ends_with("/false");
        Some(Account { name: name.into(), home: home.into(), shell: if usable { shell.into() } else { SHELL.into() }, is_root: uid == 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_number() {
        let text = "root:x:0:0:root:/root:/bin/bash\n# note\nmusterd:x:998:998::/var/lib/musterd:/usr/sbin/nologin\nodd:x:1\n";
        let root = find(text, 0).unwrap();
        assert_eq!((root.name.as_str(), root.shell.as_str(), root.is_root), ("root", "/bin/bash", true));
        let service = find(text, 998).unwrap();
        assert_eq!((service.shell.as_str(), service.home.to_str(), service.is_root), ("/bin/sh", Some("/var/lib/musterd"), false));
        assert_eq!(find(text, 1), None);
    }

    #[test]
    fn number_0_is_root_under_any_name() {
        let text = "toor:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(find(text, 0).unwrap().called_root().name, "root");
        assert_eq!(find(text, 1000).unwrap().called_root().name, "ada");
    }
}
