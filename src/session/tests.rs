//! The worker's side of a session against a real shell, real sockets and a real policy file, over the test relay.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use muster_link::driver::{Application, Input, Io, LegChange, Output, Refusal};
use muster_link::test_relay::TestRelay;
use muster_proto::id::{SessionId, StreamId};
use muster_proto::session::{Event, Target, Terminal};
use rustix::process::{Pid, test_kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);

type Exits = Rc<RefCell<Vec<(Option<i32>, Option<String>)>>>;

#[derive(Default, Clone)]
struct Visitor(Exits);

impl Application for Visitor {
    fn event(&mut self, _handle: &Handle, event: Event) {
        if let Event::Exit { code, signal, .. } = event {
            self.0.borrow_mut().push((code, signal));
        }
    }
    fn leg(&mut self, _change: LegChange<'_>) {}
}

struct Ends {
    _relay: TestRelay,
    dir: tempfile::TempDir,
    client: Handle,
    exits: Exits,
    server: Server,
}

impl Ends {
    async fn with_policy(policy: &str) -> Self {
        Self::as_worker("musterd", policy).await
    }

    async fn as_worker(worker: &str, policy: &str) -> Self {
        let relay = TestRelay::start().await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, policy).unwrap();
        let id = SessionId::from_random([3; 15]);
        let visitor = serve::Visitor { session: id.clone(), user: "ada@example.com".into(), role: "connect".into(), project: "lab".into() };
        // As root the worker gives nothing away by itself, so the tests' worker takes itself for somebody else.
        let account = Account { name: worker.into(), shell: "/bin/sh".into(), home: dir.path().into(), is_root: false };
        let control = dir.path().join("control.sock");
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("key.pem"), "the device's key").unwrap();
        let server = Server::new(visitor, account, Hidden::below([&state, &state]), Watched::open(path), Clock::default(), control);
        let device = Driver::new(Side::Device, id.clone(), relay.relay("device"), server.clone());
        tokio::task::spawn_local(device.run());
        let exits = Exits::default();
        let client = Driver::new(Side::Client, id, relay.relay("client"), Visitor(Rc::clone(&exits)));
        let handle = client.handle();
        tokio::task::spawn_local(client.run());
        Self { _relay: relay, dir, client: handle, exits, server }
    }

    /// Opens a stream and connects it with a socket, whose other end is given.
    async fn open(&self, target: Target) -> Result<(StreamId, UnixStream), Refusal> {
        let (stream, answer) = self.client.open(target).unwrap();
        answer.await.unwrap()?;
        let (near, inner) = UnixStream::pair().unwrap();
        self.client.attach(stream, Io::unix(inner));
        Ok((stream, near))
    }

    async fn terminal(&self, command: Option<&str>) -> (StreamId, UnixStream) {
        self.open(Target::Terminal(wanted(command))).await.unwrap()
    }
}

fn wanted(command: Option<&str>) -> Terminal {
    Terminal { cols: 97, rows: 31, term: "xterm-256color".into(), user: None, command: command.map(str::to_owned), attach: None }
}

fn on_local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(DEADLINE, test).await.expect("the test's deadline") });
}

async fn condition(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn rest(near: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    near.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_command_has_a_terminal_its_size_and_its_environment_and_its_code_comes_back() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let (_, mut near) = ends.terminal(Some("tty >/dev/null && stty size && echo $TERM $MUSTER_VISITOR && pwd; exit 7")).await;
        let text = rest(&mut near).await;
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines[..3], ["31 97", "xterm-256color ada@example.com", ends.dir.path().to_str().unwrap()]);
        assert_eq!(*ends.exits.borrow(), [(Some(7), None)]);
    });
}

#[test]
fn everything_that_a_process_wrote_comes_before_its_end() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        for _ in 0..5 {
            let (_, mut near) = ends.terminal(Some("seq 1 20000")).await;
            let text = rest(&mut near).await;
            assert!(text.ends_with("19999\r\n20000\r\n"), "{:?}", &text[text.len().saturating_sub(40)..]);
            assert_eq!(text.lines().count(), 20_000);
        }
        assert_eq!(ends.exits.borrow().len(), 5);
    });
}

#[test]
fn a_login_shell_takes_input_resizes_and_ends_with_a_signal() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let (stream, near) = ends.terminal(None).await;
        let (read, mut write) = near.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut until = async |end: &str| loop {
            let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("the shell ended before {end}"));
            if line.trim_end().ends_with(end) && !line.contains("echo") {
                return line;
            }
        };
        write.write_all(b"stty -echo; echo 'ready':$0\n").await.unwrap();
        until("ready:-sh").await;
        ends.client.resize(stream, 120, 40);
        // The size travels ahead of what is typed after it.
        write.write_all(b"stty size\n").await.unwrap();
        until("40 120").await;
        write.write_all(b"exec sleep 100\n").await.unwrap();
        condition("the signal ends it", || {
            ends.client.signal(stream, "TERM");
            !ends.exits.borrow().is_empty()
        })
        .await;
        assert_eq!(ends.exits.borrow()[0], (None, Some("TERM".into())));
    });
}

#[test]
fn a_command_without_a_terminal_passes_bytes_as_they_are_and_sees_the_end_of_its_input() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let target = Target::Terminal(Terminal { cols: 0, rows: 0, ..wanted(Some("cat; tty; exit 3")) });
        let (_, mut near) = ends.open(target).await.unwrap();
        let data: Vec<u8> = (0..=255).cycle().take(500_000).collect();
        let copy = data.clone();
        let (mut read, mut write) = near.split();
        let mut got = Vec::new();
        let (sent, _) = tokio::join!(
            async {
                write.write_all(&copy).await.unwrap();
                write.shutdown().await
            },
            async { read.read_to_end(&mut got).await.unwrap() }
        );
        sent.unwrap();
        assert!(got.starts_with(&data), "the bytes were changed");
        assert_eq!(&got[data.len()..], b"not a tty\n");
        condition("its code comes", || *ends.exits.borrow() == [(Some(3), None)]).await;
    });
}

#[test]
fn a_terminal_does_not_read_the_devices_key() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let at = ends.dir.path().display().to_string();
        let line = format!("cat {at}/state/key.pem; echo key=$?; cat {at}/policy.toml && echo all else is there");
        let target = Target::Terminal(Terminal { cols: 0, rows: 0, ..wanted(Some(&line)) });
        let (_, mut near) = ends.open(target).await.unwrap();
        let mut got = String::new();
        near.read_to_string(&mut got).await.unwrap();
        assert_eq!(got.contains("the device's key"), !crate::guard::is_possible(), "{got}");
        assert!(got.contains("key=1") && got.ends_with("all else is there\n"), "{got}");
    });
}

fn alive(pid: i32) -> bool {
    // A zombie that its new parent has not collected yet is gone for us.
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z"));
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok() && !zombie
}

#[test]
fn a_visitor_who_goes_leaves_no_process_behind() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        // One obeys a hang-up, one ignores it, one is in a group of its own.
        let script = "set -m; sleep 1000 & echo $!; sh -c 'trap \"\" HUP; sleep 1001 & echo $!; wait' & echo $!; wait";
        let (stream, near) = ends.terminal(Some(script)).await;
        let mut lines = BufReader::new(near).lines();
        let mut pids = Vec::new();
        while pids.len() < 3 {
            let line = lines.next_line().await.unwrap().unwrap();
            pids.extend(line.trim().parse::<i32>());
        }
        assert!(pids.iter().all(|pid| alive(*pid)));
        ends.client.reset(stream, code::CANCELLED, "the window was closed");
        condition("all processes end", || !pids.iter().any(|pid| alive(*pid))).await;
        tokio::time::timeout(DEADLINE, ends.server.all_gone()).await.unwrap();
    });
}

#[test]
fn a_background_job_does_not_hold_the_terminal() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let (_, mut near) = ends.terminal(Some("sleep 1000 & echo $!; exit 0")).await;
        let text = rest(&mut near).await;
        let pid = text.trim().parse().unwrap();
        assert_eq!(*ends.exits.borrow(), [(Some(0), None)]);
        condition("the job ends with its terminal", || !alive(pid)).await;
    });
}

#[test]
fn connections_go_where_the_policy_says_and_nowhere_else() {
    on_local(async {
        let socket_dir = tempfile::tempdir().unwrap();
        let allowed = socket_dir.path().join("allowed.sock");
        let ends = Ends::with_policy(&format!("[unix]\nallow = [{:?}]\n", allowed.to_str().unwrap())).await;
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let unix = UnixListener::bind(&allowed).unwrap();
        let port = tcp.local_addr().unwrap().port();

        let (_, mut near) = ends.open(Target::Tcp { host: "localhost".into(), port }).await.unwrap();
        let (mut far, _) = tcp.accept().await.unwrap();
        near.write_all(b"over tcp").await.unwrap();
        let mut got = [0; 8];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"over tcp");

        let (_, mut near) = ends.open(Target::Unix { path: allowed.to_str().unwrap().into() }).await.unwrap();
        let (mut far, _) = unix.accept().await.unwrap();
        far.write_all(b"over unix").await.unwrap();
        drop(far);
        assert_eq!(rest(&mut near).await, "over unix");

        let other = |name: &str| socket_dir.path().join(name).to_str().unwrap().to_owned();
        for (target, code, words) in [
            (Target::Tcp { host: "192.0.2.1".into(), port }, "policy_host", "192.0.2.1"),
            (Target::Unix { path: other("other.sock") }, "policy_unix", "other.sock"),
            (Target::Terminal(Terminal { user: Some("nobody-else".into()), ..wanted(None) }), "policy_run_as", "nobody-else"),
            (Target::Udp { host: "127.0.0.1".into(), port }, code::UNSUPPORTED, "udp"),
            (Target::Get { path: "/etc/passwd".into(), offset: 0 }, code::UNSUPPORTED, "get"),
            (Target::List { path: "/".into() }, code::UNSUPPORTED, "list"),
            (Target::Tcp { host: "127.0.0.1".into(), port: closed_port().await }, code::CONNECTION_REFUSED, "nothing listens"),
        ] {
            let refusal = ends.open(target).await.unwrap_err();
            assert_eq!(refusal.code, code, "{refusal}");
            assert!(refusal.message.contains(words), "{refusal}");
        }
    });
}

async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[test]
fn a_refusal_is_told_to_the_daemon_and_a_changed_policy_counts_at_once() {
    on_local(async {
        let ends = Ends::with_policy("[terminal]\nallow = false\n").await;
        let daemon = UnixListener::bind(ends.dir.path().join("control.sock")).unwrap();
        let refusal = ends.open(Target::Terminal(wanted(None))).await.unwrap_err();
        assert_eq!(refusal.code, "policy_terminal");
        let (mut told, _) = daemon.accept().await.unwrap();
        let line: serde_json::Value = serde_json::from_str(&rest(&mut told).await).unwrap();
        assert_eq!(
            (&line["do"], &line["event"]["kind"], &line["event"]["code"]),
            (&"event".into(), &"policy_refused".into(), &"policy_terminal".into())
        );
        write_policy(ends.dir.path(), "# mended\n");
        ends.terminal(Some("true")).await;
    });
}

fn write_policy(dir: &Path, text: &str) {
    std::fs::write(dir.join("policy.toml"), text).unwrap();
}

#[test]
fn a_worker_that_runs_as_root_gives_a_shell_only_where_the_policy_names_root() {
    on_local(async {
        let ends = Ends::as_worker("root", "").await;
        let refusal = ends.open(Target::Terminal(wanted(Some("true")))).await.unwrap_err();
        assert_eq!(refusal.code, "policy_root");
        assert!(refusal.message.contains("users = [\"root\"]"), "{refusal}");
        write_policy(ends.dir.path(), "[terminal]\nusers = [\"root\"]\n");
        ends.terminal(Some("true")).await;
    });
}

#[test]
fn the_number_of_streams_is_bounded_by_the_policy() {
    on_local(async {
        let ends = Ends::with_policy("[limits]\nstreams = 2\n").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let (_one, _two) = (ends.open(target.clone()).await.unwrap(), ends.open(target.clone()).await.unwrap());
        assert_eq!(ends.open(target).await.unwrap_err().code, code::LIMIT);
    });
}

#[test]
fn an_idle_session_ends_when_the_policy_says_so() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let (_, mut near) = ends.terminal(Some("echo there; cat")).await;
        near.read_exact(&mut [0; 7]).await.unwrap();
        let limits = Limits { idle_s: Some(1), ..crate::policy::Policy::parse("").unwrap().limits() };
        tokio::time::timeout(DEADLINE, keep_limits(ends.client.clone(), limits)).await.unwrap();
        condition("the stream is cut", || ends.client.streams() == 0).await;
    });
}

#[test]
fn input_and_output_may_be_separate_descriptors() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let (stream, answer) = ends.client.open(Target::Terminal(wanted(Some("head -n 1")))).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        pipe::non_blocking(&writer.try_clone().unwrap().into()).unwrap();
        ends.client.attach(stream, Io::pair(Input::default(), Output::from_fd(writer.into()).unwrap()));
        ends.client.send(stream, Bytes::from_static(b"typed\n")).await.unwrap();
        answer.await.unwrap().unwrap();
        condition("it ends", || !ends.exits.borrow().is_empty()).await;
        ends.client.finish(stream);
        ends.client.gone(stream).await;
        let mut text = String::new();
        let mut reader = reader;
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "typed\r\ntyped\r\n");
    });
}
