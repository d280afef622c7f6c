//! A real OpenSSH server on the device's loopback, with keys and a configuration of its own, and a client that knows both.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Lab, SOON, free_port, ok};
use crate::process::Process;
use crate::programs;
use crate::wait::eventually;

/// A server, and the files that a client needs.
pub struct Sshd {
    _server: Process,
    /// Its port on loopback.
    pub port: u16,
    folder: PathBuf,
}

impl Sshd {
    /// Starts one on this machine.
    pub fn start(lab: &Lab) -> Self {
        let folder = lab.folder().join("sshd");
        fs::create_dir_all(&folder).expect("a folder for sshd");
        for name in ["host", "user"] {
            let key = folder.join(name);
            ok(Command::new(programs::system("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", ""]).arg("-f").arg(&key));
        }
        fs::copy(folder.join("user.pub"), folder.join("authorized_keys")).expect("authorized_keys");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("a private folder");
        // Debian's sshd wants this folder even where it does not use it.
        let _ = fs::create_dir_all("/run/sshd");
        let port = free_port();
        let at = folder.display();
        let sftp = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"].into_iter().find(|path| Path::new(path).exists());
        fs::write(
            folder.join("config"),
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nPidFile none\nAuthorizedKeysFile {at}/authorized_keys\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPrintMotd no\n\
                 Subsystem sftp {}\n",
                sftp.unwrap_or("internal-sftp")
            ),
        )
        .expect("sshd's configuration");
        let mut command = lab.marked(&programs::system("sshd"));
        command.args(["-D", "-e", "-f"]).arg(folder.join("config"));
        let server = Process::start("sshd", lab.folder(), command);
        eventually("sshd listens", SOON, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { _server: server, port, folder }
    }

    /// A client's configuration: the `Host` block that `muster ssh-config` wrote, then this test's keys.
    pub fn client_config(&self, block: &str) -> PathBuf {
        let path = self.folder.join("client");
        let user = ok(Command::new("id").arg("-un"));
        let at = self.folder.display();
        let text = format!(
            "{block}\nHost *\n  User {}\n  IdentityFile {at}/user\n  IdentitiesOnly yes\n  BatchMode yes\n  LogLevel ERROR\n\
             \x20 StrictHostKeyChecking no\n  UserKnownHostsFile {at}/known_hosts\n",
            String::from_utf8_lossy(&user.stdout).trim()
        );
        fs::write(&path, text).expect("the client's configuration");
        path
    }

    /// The options that make a plain `ssh` use this test's keys.
    pub fn options(&self) -> Vec<String> {
        let at = self.folder.display();
        [
            format!("IdentityFile={at}/user"),
            "IdentitiesOnly=yes".into(),
            "BatchMode=yes".into(),
            "LogLevel=ERROR".into(),
            "StrictHostKeyChecking=no".into(),
            format!("UserKnownHostsFile={at}/known_hosts"),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }
}
