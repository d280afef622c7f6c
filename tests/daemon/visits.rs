//! A session from both ends: the real `musterd-session`, with a real shell, sockets and policy, over a relay for tests.
//!
//! The test is the daemon that hands the order over, and the visitor's end of the session.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_link::driver::{Application, Driver, Ended, Handle, Input, Io, LegChange, Output, Refusal};
use muster_link::test_relay::TestRelay;
use muster_proto::id::{SessionId, StreamId};
use muster_proto::mqtt::DeviceEventKind;
use muster_proto::session::{Event, Side, Target, Terminal, code};
use musterd::handoff::{Handoff, Live, Say, line};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::{JoinHandle, LocalSet};

use crate::authority::{Authority, session_order};
use crate::device::{DEADLINE, OWN_USER, lives, signal};
use crate::hub::now;

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
    ended: JoinHandle<Ended>,
    exits: Exits,
    process: Child,
    live: Live,
    said: Said,
}

impl Ends {
    async fn with_policy(policy: &str) -> Self {
        let authority = Authority::new();
        let relay = TestRelay::start_as(authority.relay(), authority.pin).await;
        let dir = tempfile::tempdir().unwrap();
        write_policy(&dir, policy);
        let (certificate, key, digest) = authority.device();
        let anchor = json!({ "hub": format!("https://{}", relay.address()), "pin": authority.pin.to_string(), "key": digest });
        std::fs::write(dir.path().join("hub.json"), anchor.to_string()).unwrap();
        for folder in ["run/live", "state"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let session = SessionId::from_random(random());
        let open = json!({
            "session": session, "relay": format!("wss://{}/v1/sessions/x/device", relay.address()), "ticket": "ticket",
            "user": "ada@example.com", "project": "lab", "role": "connect", "t": now(),
        });
        let handoff = Handoff {
            order: authority.sign(&session_order(&digest, &open)),
            ca: authority.pem.clone(),
            certificate,
            key,
            proxy: None,
            floor: 0,
            log_level: "debug".to_owned(),
            arrival: None,
        };
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_musterd-session"));
        command.arg("serve");
        for (name, file) in [("--policy", "policy.toml"), ("--anchor", "hub.json"), ("--run-dir", "run"), ("--state-dir", "state")] {
            command.arg(name).arg(dir.path().join(file));
        }
        let process = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
        (&ours).write_all(&line(&handoff)).unwrap();
        let mut said = lines(ours);
        let Say::Opened(live) = say(&mut said).await else { panic!("the session was not opened") };
        let exits = Exits::default();
        let client = Driver::new(Side::Client, session, relay.relay("client"), Visitor(Rc::clone(&exits)));
        let handle = client.handle();
        let ended = tokio::task::spawn_local(async { client.run().await.0 });
        Self { _relay: relay, dir, client: handle, ended, exits, process, live, said }
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

    /// A command with pipes and all that it wrote.
    async fn command(&self, text: &str) -> String {
        let target = Target::Terminal(Terminal { cols: 0, rows: 0, ..wanted(Some(text)) });
        let (_, mut near) = self.open(target).await.unwrap();
        rest(&mut near).await
    }

    /// What the privileged part tells the daemon next.
    async fn say(&mut self) -> Say {
        say(&mut self.said).await
    }

    /// A connection to this session's own socket.
    fn connect(&self) -> StdUnixStream {
        StdUnixStream::connect(self.dir.path().join("run/live").join(format!("{}.sock", self.live.name))).unwrap()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // Told to end, it ends what it started.
        signal("TERM", self.process.id());
        let until = Instant::now() + DEADLINE;
        while self.process.try_wait().unwrap().is_none() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

type Said = Lines<BufReader<UnixStream>>;

fn lines(stream: StdUnixStream) -> Said {
    stream.set_nonblocking(true).unwrap();
    BufReader::new(UnixStream::from_std(stream).unwrap()).lines()
}

async fn say(said: &mut Said) -> Say {
    serde_json::from_str(&said.next_line().await.unwrap().unwrap()).unwrap()
}

/// A control group is named after the session, and these tests run beside each other.
fn random() -> [u8; 15] {
    let mut bytes = [0; 15];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).unwrap();
    bytes
}

fn write_policy(dir: &tempfile::TempDir, text: &str) {
    std::fs::write(dir.path().join("policy.toml"), format!("own_user = {OWN_USER}\n{text}")).unwrap();
}

fn wanted(command: Option<&str>) -> Terminal {
    Terminal {
        cols: 97,
        rows: 31,
        term: "xterm-256color".into(),
        user: None,
        command: command.map(str::to_owned),
        attach: None,
        errors: false,
    }
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
fn errors_that_are_fetched_after_the_process_ended_come_with_its_end() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        for settled in [false, true] {
            // What it leaves behind holds both pipes open, so neither of them says that it is over.
            let text = "sleep 600 & echo $$; echo wrong >&2; exit 3";
            let target = Target::Terminal(Terminal { cols: 0, rows: 0, errors: true, ..wanted(Some(text)) });
            let (stream, mut near) = ends.open(target).await.unwrap();
            let mut line = String::new();
            let mut output = BufReader::new(&mut near);
            output.read_line(&mut line).await.unwrap();
            let process = std::path::Path::new("/proc").join(line.trim());
            condition("that it is collected", || !process.exists()).await;
            if settled {
                assert_eq!(rest(&mut near).await, "");
                condition("the end of its output", || ends.exits.borrow().len() == 3).await;
            }
            let (_, mut errors) = ends.open(Target::Errors { of: stream }).await.unwrap();
            assert_eq!(rest(&mut errors).await, "wrong\n", "settled: {settled}");
            // Once for each of its two streams.
            condition("both ends", || ends.exits.borrow().len() == if settled { 4 } else { 2 }).await;
            let again = ends.open(Target::Errors { of: stream }).await.unwrap_err();
            assert_eq!(again.code, code::NOT_FOUND, "{again:?}");
        }
        assert!(ends.exits.borrow().iter().all(|exit| *exit == (Some(3), None)), "{:?}", ends.exits.borrow());
    });
}

#[test]
fn a_command_has_a_terminal_its_size_and_its_environment_and_its_code_comes_back() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let text = "tty >/dev/null && stty size && echo $TERM $MUSTER_VISITOR $MUSTER_SESSION && pwd && echo $HOME; exit 7";
        let (_, mut near) = ends.terminal(Some(text)).await;
        let text = rest(&mut near).await;
        let lines: Vec<&str> = text.split("\r\n").collect();
        let marks = format!("xterm-256color ada@example.com {}", ends.live.name);
        assert_eq!(lines[..2], ["31 97", &marks]);
        assert!(lines[2] == lines[3] && lines[2].starts_with('/'), "at home: {text}");
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
        // A login shell has a hyphen before its name.
        write.write_all(b"stty -echo; case $0 in -*) echo 'log''in';; esac\n").await.unwrap();
        until("login").await;
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
fn a_visitors_process_has_nothing_of_the_session_open_and_its_signals_are_as_usual() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let text =
            ends.command("readlink /proc/self/fd/0 /proc/self/fd/1; ls /proc/$$/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; env").await;
        let mut lines = text.lines();
        assert!(lines.by_ref().take(2).all(|line| line.starts_with("pipe:")), "{text}");
        // The shell's own three, and what it opens for itself above them.
        let open: Vec<u32> = lines.by_ref().map_while(|line| line.parse().ok()).collect();
        assert!(open.len() >= 3 && open.iter().all(|fd| *fd < 3 || *fd >= 10), "{text}");
        for held in ["SigBlk:\t", "SigIgn:\t"] {
            let signals = text.lines().find_map(|line| u64::from_str_radix(line.strip_prefix(held)?, 16).ok()).unwrap();
            // The real-time ones are as these tests were started.
            assert_eq!(signals & 0x7fff_ffff, 0, "{text}");
        }
        for name in ["NOTIFY_SOCKET", "CARGO", "MUSTERD_"] {
            assert!(!text.contains(name), "{name}: {text}");
        }
    });
}

#[test]
fn a_visitor_who_goes_leaves_no_process_behind() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        // One obeys a hang-up, one ignores it, one is in a group of its own.
        let script = "set -m; sleep 1000 & echo $!; sh -c 'trap \"\" HUP; sleep 1001 & echo $!; wait' & echo $!; wait";
        let (stream, near) = ends.terminal(Some(script)).await;
        let pids = numbers(near, 3).await;
        assert!(pids.iter().all(|pid| lives(*pid)));
        ends.client.reset(stream, code::CANCELLED, "the window was closed");
        condition("all processes end", || !pids.iter().any(|pid| lives(*pid))).await;
        // The session goes on.
        assert_eq!(ends.command("echo here").await, "here\n");
    });
}

/// The numbers that are printed first, one a line.
async fn numbers(near: UnixStream, count: usize) -> Vec<u64> {
    let mut lines = BufReader::new(near).lines();
    let mut pids = Vec::new();
    while pids.len() < count {
        let line = lines.next_line().await.unwrap().unwrap();
        pids.extend(line.trim().parse::<u64>());
    }
    pids
}

#[test]
fn a_background_job_does_not_hold_the_terminal() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let (_, mut near) = ends.terminal(Some("sleep 1000 & echo $!; exit 0")).await;
        let text = rest(&mut near).await;
        let pid = text.trim().parse().unwrap();
        assert_eq!(*ends.exits.borrow(), [(Some(0), None)]);
        condition("the job ends with its terminal", || !lives(pid)).await;
    });
}

/// Leaves its terminal in every way, and says its numbers.
const DAEMONS: &str = "setsid sh -c 'trap \"\" HUP TERM; echo $$ >&3; sleep 1000' 3>&1 </dev/null >/dev/null 2>&1 &\n\
     nohup sh -c 'echo $$ >&3; exec sleep 1000' 3>&1 </dev/null >/dev/null 2>&1 &\n sleep 1000";

#[test]
fn the_end_of_the_session_ends_what_left_its_terminal() {
    on_local(async {
        let mut ends = Ends::with_policy("").await;
        let (_, near) = ends.terminal(Some(DAEMONS)).await;
        let pids = numbers(near, 2).await;
        assert!(pids.iter().all(|pid| lives(*pid)));
        ends.client.close(code::DONE, "good-bye");
        condition("all processes end", || !pids.iter().any(|pid| lives(*pid))).await;
        assert!(matches!(ends.say().await, Say::Closed(report) if report.sent > 0));
    });
}

#[test]
fn what_lingers_by_the_policy_goes_on_until_the_device_ends_it() {
    on_local(async {
        let mut ends = Ends::with_policy("linger = true\n").await;
        let (_, near) = ends.terminal(Some(DAEMONS)).await;
        let pids = numbers(near, 2).await;
        ends.client.close(code::DONE, "good-bye");
        assert!(matches!(ends.say().await, Say::Closed(_)));
        assert!(pids.iter().all(|pid| lives(*pid)), "after the session");
        signal("TERM", ends.process.id());
        condition("all processes end", || !pids.iter().any(|pid| lives(*pid))).await;
    });
}

#[test]
fn the_device_ends_a_session_and_the_visitor_reads_why() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let (_, near) = ends.terminal(Some(DAEMONS)).await;
        let pids = numbers(near, 2).await;
        ends.connect().write_all(b"{\"do\":\"end\",\"reason\":\"the robot is needed\"}\n").unwrap();
        condition("the visitor's end", || ends.ended.is_finished()).await;
        condition("all processes end", || !pids.iter().any(|pid| lives(*pid))).await;
        let mut ends = ends;
        let ended = (&mut ends.ended).await.unwrap();
        assert_eq!(ended.message, "the robot is needed");
        assert!(matches!(ends.say().await, Say::Closed(report) if report.reason == "the robot is needed"));
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
            (Target::Terminal(Terminal { user: Some("nobody-else".into()), ..wanted(None) }), "policy_run_as", "do not ask for a user"),
            (Target::Udp { host: "127.0.0.1".into(), port }, code::UNSUPPORTED, "udp"),
            (Target::Get { path: "/etc/passwd".into(), offset: 0 }, code::UNSUPPORTED, "get"),
            (Target::List { path: "/".into() }, code::UNSUPPORTED, "list"),
            (Target::Tcp { host: "127.0.0.1".into(), port: closed_port().await }, code::CONNECTION_REFUSED, "Nothing listens"),
        ] {
            let refusal = ends.open(target).await.unwrap_err();
            assert_eq!(refusal.code, code, "{refusal}");
            assert!(refusal.message.contains(words), "{refusal}");
        }
        // A name in the file system is one thing, who listens there another.
        drop(unix);
        let refusal = ends.open(Target::Unix { path: allowed.to_str().unwrap().into() }).await.unwrap_err();
        assert_eq!(refusal.code, code::CONNECTION_REFUSED);
        std::fs::remove_file(&allowed).unwrap();
        let refusal = ends.open(Target::Unix { path: allowed.to_str().unwrap().into() }).await.unwrap_err();
        assert_eq!(refusal.code, code::NOT_FOUND);
    });
}

async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[test]
fn a_refusal_is_told_to_the_daemon_and_a_changed_policy_counts_at_once() {
    on_local(async {
        let mut ends = Ends::with_policy("[terminal]\nallow = false\n").await;
        let refusal = ends.open(Target::Terminal(wanted(None))).await.unwrap_err();
        assert_eq!(refusal.code, "policy_terminal");
        let Say::Event { t, event: DeviceEventKind::PolicyRefused { session, target, code, message } } = ends.say().await else {
            panic!("no event")
        };
        assert_eq!((session.as_str(), target.as_str(), code.as_str()), (ends.live.name.as_str(), "terminal", "policy_terminal"));
        assert!(message == refusal.message && (now() - t).abs() < 60_000);
        write_policy(&ends.dir, "# mended\n");
        ends.terminal(Some("true")).await;
        std::fs::write(ends.dir.path().join("locked"), "it is on the moon\n").unwrap();
        let refusal = ends.open(Target::Terminal(wanted(None))).await.unwrap_err();
        assert_eq!(refusal.code, "policy_locked");
        assert!(refusal.message.contains("it is on the moon"), "{refusal}");
        std::fs::remove_file(ends.dir.path().join("locked")).unwrap();
        std::fs::remove_file(ends.dir.path().join("policy.toml")).unwrap();
        assert_eq!(ends.open(Target::Terminal(wanted(None))).await.unwrap_err().code, "policy_missing");
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
fn an_idle_session_and_an_old_one_end_when_the_policy_says_so() {
    on_local(async {
        for (limit, words) in [("idle_s = 1", "idle for 1 s"), ("total_s = 1", "after 1 s")] {
            let mut ends = Ends::with_policy(&format!("[limits]\n{limit}\n")).await;
            let (_, mut near) = ends.terminal(Some("echo there; cat")).await;
            near.read_exact(&mut [0; 7]).await.unwrap();
            let ended = (&mut ends.ended).await.unwrap();
            assert_eq!(ended.code, code::POLICY, "{}", ended.message);
            assert!(ended.message.contains(words), "{}", ended.message);
            assert!(matches!(ends.say().await, Say::Closed(report) if report.reason.contains(words)));
        }
    });
}

#[test]
fn input_and_output_may_be_separate_descriptors() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let (stream, answer) = ends.client.open(Target::Terminal(wanted(Some("head -n 1")))).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
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

#[test]
fn errors_of_what_is_no_process_of_the_visitor_are_refused_and_cost_nothing() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (socket, _kept) = ends.open(Target::Tcp { host: "127.0.0.1".into(), port }).await.unwrap();
        let (terminal, _open) = ends.terminal(None).await;
        let together = Target::Terminal(Terminal { cols: 0, rows: 0, ..wanted(Some("sleep 600")) });
        let (together, _running) = ends.open(together).await.unwrap();
        for of in [socket, terminal, together, StreamId(0), StreamId(2), StreamId(u32::MAX)] {
            // More than the streams that are allowed at once: what was refused holds no place.
            for _ in 0..200 {
                let refusal = ends.open(Target::Errors { of }).await.unwrap_err();
                assert_eq!(refusal.code, code::NOT_FOUND, "{of}: {refusal:?}");
            }
        }
        assert_eq!(ends.command("echo works").await, "works\n");
    });
}

#[test]
fn output_and_errors_come_whole_over_a_relay_that_is_lost_on_the_way() {
    on_local(async {
        let ends = Ends::with_policy("").await;
        let text = "i=0; while [ $i -lt 20000 ]; do echo output $i; echo errors $i >&2; i=$((i+1)); done; exit 9";
        let target = Target::Terminal(Terminal { cols: 0, rows: 0, errors: true, ..wanted(Some(text)) });
        let (stream, mut output) = ends.open(target).await.unwrap();
        let (_, mut errors) = ends.open(Target::Errors { of: stream }).await.unwrap();
        let mut first = [0; 4096];
        output.read_exact(&mut first).await.unwrap();
        ends._relay.cut();
        let (rest_of_output, errors) = tokio::join!(rest(&mut output), rest(&mut errors));
        let whole = |name: &str| (0..20_000).map(|i| format!("{name} {i}\n")).collect::<String>();
        assert!(String::from_utf8_lossy(&first).into_owned() + &rest_of_output == whole("output"));
        assert!(errors == whole("errors"));
        condition("both ends", || *ends.exits.borrow() == [(Some(9), None), (Some(9), None)]).await;
    });
}

#[test]
fn the_session_goes_on_without_the_daemon_and_over_a_lost_relay() {
    on_local(async {
        let mut ends = Ends::with_policy("").await;
        // The daemon's connection ends; another attaches.
        ends.said = lines(StdUnixStream::pair().unwrap().0);
        assert_eq!(ends.command("echo one").await, "one\n");
        ends._relay.cut();
        assert_eq!(ends.command("echo two").await, "two\n");
        let daemon = ends.connect();
        (&daemon).write_all(b"{\"do\":\"attach\"}\n").unwrap();
        ends.said = lines(daemon);
        let Say::Opened(live) = ends.say().await else { panic!("it does not answer") };
        assert_eq!((&live.name, live.pid, live.become_user.is_some()), (&ends.live.name, ends.process.id(), true));
        ends.client.close(code::DONE, "good-bye");
        assert!(matches!(ends.say().await, Say::Closed(_)));
    });
}
