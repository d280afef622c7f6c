//! Which identities a session may have: the rights it runs with, the account a visitor becomes, the relay it dials. Pure.

use muster_link::dial::Endpoint;

use super::{OwnUser, Policy, Refusal};
use crate::account::{Account, OUR_USERS, ROOT};

impl Policy {
    /// Whether sessions may run as the user that runs the program.
    ///
    /// # Errors
    /// Where that user can become nobody else and the policy does not ask for it, or where it is root and the policy does not name root.
    pub fn check_rights(&self, is_root: bool) -> Result<(), Refusal> {
        match (is_root, self.own_user) {
            (false, OwnUser::No) => Err(Refusal::new(
                "no_privilege",
                "Nothing on this device can become another user: the service for sessions does not run as root. Start \
                 musterd-session.socket, or `musterd sessiond` as root, or set own_user = true in the policy for a trial.",
            )),
            (true, OwnUser::Yes) => Err(Refusal::new(
                "policy_root",
                "This device's policy lets sessions run as the daemon's own user, and that is root here: write own_user = \"root\" \
                 to allow it, or name the users that visitors become.",
            )),
            _ => Ok(()),
        }
    }

    /// Whether a visitor may become this account, which the policy named; `daemon` is the number of the daemon's user.
    ///
    /// # Errors
    /// For root under another name, and for the users as whom Muster itself runs: their files hold the device's key.
    pub fn check_account(&self, account: &Account, daemon: Option<u32>) -> Result<(), Refusal> {
        let name = &account.name;
        if account.is_root() {
            let message = format!("{name} is root under another name, and this device's policy does not name root.");
            return if name == ROOT { Ok(()) } else { Err(Refusal::new("policy_root", message)) };
        }
        if OUR_USERS.contains(&name.as_str()) || Some(account.uid) == daemon {
            let message = format!(
                "This device's policy makes visitors {name}, the user that Muster itself runs as. Its owner has to name another user."
            );
            return Err(Refusal::new("policy_own_user", message));
        }
        Ok(())
    }

    /// Whether the device may dial this relay: the hub's that it enrolled at, or one under `[relay] hosts`.
    ///
    /// # Errors
    /// For any other, which a hub in the wrong hands could name; and for what is no address.
    pub fn check_relay(&self, relay: &str, hub: &str) -> Result<(), Refusal> {
        let refuse = |why: String| Refusal::new("policy_relay", why);
        let relay: Endpoint = relay.parse().map_err(|error| refuse(format!("The hub named a relay that cannot be dialled: {error}")))?;
        let hub: Endpoint = hub.parse().map_err(|error| refuse(format!("The hub in the anchor file is not valid: {error}")))?;
        let enrolled = relay.host.eq_ignore_ascii_case(&hub.host) && relay.port == hub.port;
        if enrolled || self.relay_hosts.iter().any(|host| host.eq_ignore_ascii_case(&relay.host)) {
            return Ok(());
        }
        let (relay, hub) = (relay.authority(), hub.authority());
        Err(refuse(format!(
            "The hub sends this device to a relay at {relay}, but the device enrolled at {hub}. Its owner can allow that with [relay] hosts."
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::read(text, &|_| Err("no zones here".into())).unwrap()
    }

    #[test]
    fn sessions_run_with_the_rights_that_the_policy_names() {
        let code = |text, is_root| policy(text).check_rights(is_root).err().map(|refusal| refusal.code);
        assert_eq!([code("", true), code("", false)], [None, Some("no_privilege")]);
        assert_eq!([code("own_user = true\n", true), code("own_user = true\n", false)], [Some("policy_root"), None]);
        assert_eq!([code("own_user = \"root\"\n", true), code("own_user = \"root\"\n", false)], [None, None]);
    }

    #[test]
    fn no_visitor_becomes_root_by_another_name_or_muster_itself() {
        let account = |name: &str, uid| Account { name: name.into(), uid, ..Account::own() };
        let code = |name, uid| policy("").check_account(&account(name, uid), Some(990)).err().map(|refusal| refusal.code);
        assert_eq!([code("root", 0), code("toor", 0)], [None, Some("policy_root")]);
        assert_eq!([code("pi", 1000), code("pi", 990)], [None, Some("policy_own_user")]);
        assert_eq!([code("musterd", 1), code("musterd-net", 2)], [Some("policy_own_user"), Some("policy_own_user")]);
    }

    #[test]
    fn a_relay_is_the_hubs_or_one_that_the_owner_names() {
        let refused = |text: &str, relay| policy(text).check_relay(relay, "https://hub.example.com:8443").is_err();
        assert!(!refused("", "wss://HUB.example.com:8443"));
        for other in ["wss://hub.example.com:443", "wss://evil.example.com:8443", "wss://10.0.0.1:8443", "nonsense", ""] {
            assert!(refused("", other), "{other}");
        }
        assert!(!refused("[relay]\nhosts = [\"relay.example.com\"]\n", "wss://Relay.example.com:9"));
        assert!(refused("[relay]\nhosts = [\"relay.example.com\"]\n", "wss://x.relay.example.com:9"));
    }
}
