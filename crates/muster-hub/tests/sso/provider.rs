//! The real provider: `oidc-provider` from npm, on loopback, one process for each test.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::SOON;

/// What the hub proves itself with.
pub(crate) const SECRET: &str = "a secret of the test, and: of no other";

/// A provider that runs, and dies with this.
pub(crate) struct Provider {
    _child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// `http://127.0.0.1:PORT`
    pub(crate) issuer: String,
}

fn tools() -> PathBuf {
    let place = std::env::var_os("MUSTER_TEST_TOOLS").map(PathBuf::from);
    place.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-tools")).join("sso")
}

impl Provider {
    /// Starts it, with options of `server.mjs`. It serves once [`Self::serve`] told it where the hub is.
    pub(crate) async fn start(options: &[&str]) -> Self {
        let tools = tools();
        assert!(tools.join("installed.json").exists(), "there is no oidc-provider: run scripts/install-test-tools");
        let mut command = Command::new("node");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sso/server.mjs")).arg(tools).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("node runs");
        let input = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = timeout(SOON, lines.next_line()).await.expect("it starts in time").unwrap().expect("it tells its port");
        Self { _child: child, input, lines, issuer: format!("http://127.0.0.1:{port}") }
    }

    /// Registers the hub.
    pub(crate) async fn serve(&mut self, hub: &str) {
        self.input.write_all(format!("{hub}/v1/login/oidc/callback\n").as_bytes()).await.unwrap();
        let ready = timeout(SOON, self.lines.next_line()).await.expect("it serves in time").unwrap();
        assert_eq!(ready.as_deref(), Some("ready"));
    }
}
