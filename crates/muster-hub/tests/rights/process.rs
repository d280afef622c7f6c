//! The real program as a process, on the data of a stage: killed without a word, started again.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::stage::SOON;

/// A hub that runs.
pub(crate) struct Process {
    child: Child,
    pub(crate) https: SocketAddr,
    pub(crate) mqtt: SocketAddr,
}

impl Process {
    /// Starts it on a data directory, and waits until it listens.
    pub(crate) async fn start(data: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster-hub"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER")) {
            command.env_remove(name);
        }
        command.arg("--config").arg(data.join("hub.toml")).arg("serve");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = timeout(SOON, listening(&mut lines)).await.expect("the hub starts in time");
        let address = |name: &str| {
            let text = line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {line}"));
            text.parse().unwrap()
        };
        let (https, mqtt) = (address("https="), address("mqtt="));
        // Whatever else it says must find a reader, or it would wait.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, https, mqtt }
    }

    /// SIGKILL: no farewell.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

async fn listening(lines: &mut Lines<BufReader<ChildStderr>>) -> String {
    let mut said = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("listening https=") {
            return line;
        }
        said.push(line);
    }
    panic!("the hub ended instead of starting:\n{}", said.join("\n"));
}
