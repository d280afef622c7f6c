//! The bytes of runs, frozen: orders and reports, both ways; what is refused; what fits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use muster_proto::api::{RunLine, RunPiece};
use muster_proto::limits::{PAYLOAD_MAX, RUN_MESSAGE_MAX, RUN_OUTPUT_MAX, RUN_PIECE_MAX, RUN_REPORTS_MAX, RUN_TIMEOUT_MAX_S};
use muster_proto::mqtt::{decode, encode};
use muster_proto::order::{Order, OrderKind, SignedOrder};
use muster_proto::run::{RunCommand, RunEnd, RunOrder, RunOutcome, RunOutput, RunReport, RunReportKind, RunStart, RunStream, RunUsed};
use proptest::prelude::*;

#[track_caller]
fn order(text: &str, value: &RunOrder) {
    assert_eq!(String::from_utf8(encode(value)).unwrap(), text);
    assert_eq!(&RunOrder::decode(text.as_bytes()).unwrap(), value, "{text}");
}

#[track_caller]
fn started(text: &str, value: &RunStart) {
    assert_eq!(String::from_utf8(encode(value)).unwrap(), text);
    assert_eq!(&decode::<RunStart>(text.as_bytes(), PAYLOAD_MAX).unwrap(), value, "{text}");
}

/// A start as it travels inside its signed order.
fn signed(start: RunStart) -> SignedOrder {
    let kind = OrderKind::Run { run: "raaaaaaaaaaaaaaa".parse().unwrap(), start };
    let order = Order { device: "daaaaaaaaaaaaaaa".parse().unwrap(), device_key: String::new(), t: 5, kind };
    SignedOrder::new(&order.to_bytes(), b"", b"")
}

#[track_caller]
fn report(text: &str, n: u64, kind: RunReportKind) {
    let value = RunReport { n, t: 5, kind };
    assert_eq!(String::from_utf8(encode(&value)).unwrap(), text);
    assert_eq!(RunReport::decode(text.as_bytes()).unwrap(), value, "{text}");
}

fn start() -> RunStart {
    RunStart {
        command: RunCommand::Argv(vec!["df".into(), "-h".into()]),
        run_as: None,
        cwd: None,
        env: [].into(),
        timeout_s: 60,
        output_max: 1024,
        user: "a@b".into(),
        project: "lab".parse().unwrap(),
        role: "operate".into(),
        t: 5,
        expires: 600_005,
    }
}

#[test]
fn orders() {
    started(
        r#"{"command":{"argv":["df","-h"]},"timeout_s":60,"output_max":1024,"user":"a@b","project":"lab","role":"operate","t":5,"expires":600005}"#,
        &start(),
    );
    started(
        r#"{"command":{"shell":"df | tail -1"},"run_as":"operator","cwd":"/tmp","env":{"A":"1"},"timeout_s":60,"output_max":1024,"user":"a@b","project":"lab","role":"operate","t":5,"expires":600005}"#,
        &RunStart {
            command: RunCommand::Shell("df | tail -1".into()),
            run_as: Some("operator".into()),
            cwd: Some("/tmp".into()),
            env: [("A".to_owned(), "1".to_owned())].into(),
            ..start()
        },
    );
    let signed = SignedOrder { order: "e30=".into(), signature: "c2ln".into(), certificate: "Y2VydA==".into() };
    order(r#"{"do":"start","order":"e30=","signature":"c2ln","certificate":"Y2VydA=="}"#, &RunOrder::Start(signed));
    order(r#"{"do":"cancel","reason":"enough","t":5}"#, &RunOrder::Cancel { reason: "enough".into(), t: 5 });
    assert_eq!(RunOrder::decode(br#"{"do":"pause","x":1}"#).unwrap(), RunOrder::Unknown);
}

#[test]
fn orders_that_break_a_rule_are_refused() {
    let broken = |change: &dyn Fn(&mut RunStart)| {
        let mut start = start();
        change(&mut start);
        let broken = start.check().unwrap_err();
        assert!(broken.why.starts_with(&format!("{}:", broken.field)), "{broken:?}");
        assert!(signed(start).read().is_err());
        broken.field
    };
    start().check().unwrap();
    assert!(signed(start()).read().is_ok());
    let argv = |argv: &[&str]| RunCommand::Argv(argv.iter().map(|arg| (*arg).to_owned()).collect());
    assert_eq!(broken(&|start| start.command = argv(&[])), "command");
    assert_eq!(broken(&|start| start.command = argv(&["", "x"])), "command");
    assert_eq!(broken(&|start| start.command = argv(&["a\0b"])), "command");
    assert_eq!(broken(&|start| start.command = RunCommand::Argv(vec!["x".to_owned(); 1025])), "command");
    assert_eq!(broken(&|start| start.command = RunCommand::Argv(vec!["x".repeat(24 * 1024)])), "command");
    assert_eq!(broken(&|start| start.command = RunCommand::Shell("  ".into())), "command");
    assert_eq!(broken(&|start| start.command = RunCommand::Shell("x".repeat(24 * 1024 + 1))), "command");
    for user in ["", "-x", "a b", "a:b", "a/b", "ü"] {
        assert_eq!(broken(&|start| start.run_as = Some(user.into())), "run_as", "{user}");
    }
    assert_eq!(broken(&|start| start.cwd = Some("tmp".into())), "cwd");
    for name in ["", "1A", "A B", "A=B", "Ä"] {
        assert_eq!(broken(&|start| drop(start.env.insert(name.into(), "x".into()))), "env", "{name}");
    }
    assert_eq!(broken(&|start| drop(start.env.insert("A".into(), "x\0".into()))), "env");
    assert_eq!(broken(&|start| start.env = (0..65).map(|i| (format!("A{i}"), String::new())).collect()), "env");
    assert_eq!(broken(&|start| drop(start.env.insert("A".into(), "x".repeat(8192)))), "env");
    assert_eq!(broken(&|start| start.timeout_s = 0), "timeout_s");
    assert_eq!(broken(&|start| start.timeout_s = RUN_TIMEOUT_MAX_S + 1), "timeout_s");
    assert_eq!(broken(&|start| start.output_max = RUN_OUTPUT_MAX + 1), "output_max");
}

#[test]
fn reports() {
    report(r#"{"n":0,"t":5,"kind":"accepted"}"#, 0, RunReportKind::Accepted);
    report(r#"{"n":1,"t":5,"kind":"started"}"#, 1, RunReportKind::Started);
    let output = |stream, at, bytes: &[u8]| RunReportKind::Output(RunOutput { stream, at, bytes: bytes.to_vec() });
    report(
        r#"{"n":2,"t":5,"kind":"output","stream":"stdout","at":0,"text":"hällo\n"}"#,
        2,
        output(RunStream::Stdout, 0, "hällo\n".as_bytes()),
    );
    report(r#"{"n":3,"t":5,"kind":"output","stream":"stderr","at":7,"data":"AP+A"}"#, 3, output(RunStream::Stderr, 7, &[0, 255, 128]));
    let end = RunEnd {
        outcome: RunOutcome::Done,
        exit_code: Some(3),
        signal: None,
        code: None,
        message: None,
        stdout: 6,
        stderr: 3,
        dropped: 0,
        used: RunUsed { cpu_us: 1500, mem_byte_ms: 4096, mem_peak: 8192, wall_ms: 12 },
    };
    report(
        r#"{"n":4,"t":5,"kind":"end","outcome":"done","exit_code":3,"stdout":6,"stderr":3,"dropped":0,"used":{"cpu_us":1500,"mem_byte_ms":4096,"mem_peak":8192,"wall_ms":12}}"#,
        4,
        RunReportKind::End(end),
    );
    report(
        r#"{"n":0,"t":5,"kind":"end","outcome":"refused","code":"policy_run","message":"no","stdout":0,"stderr":0,"dropped":0,"used":{"cpu_us":0,"mem_byte_ms":0,"mem_peak":0,"wall_ms":0}}"#,
        0,
        RunReportKind::End(RunEnd::without_process(RunOutcome::Refused, "policy_run", "no")),
    );
    for (text, outcome) in [
        ("failed", RunOutcome::Failed),
        ("cancelled", RunOutcome::Cancelled),
        ("timed_out", RunOutcome::TimedOut),
        ("expired", RunOutcome::Expired),
        ("lost", RunOutcome::Lost),
        ("evaporated", RunOutcome::Unknown),
    ] {
        let found = RunReport::decode(format!(r#"{{"n":0,"t":5,"kind":"end","outcome":"{text}"}}"#).as_bytes()).unwrap();
        assert!(matches!(found.kind, RunReportKind::End(RunEnd { outcome: is, .. }) if is == outcome), "{found:?}");
    }
    assert_eq!(RunReport::decode(br#"{"n":0,"t":5,"kind":"paused"}"#).unwrap().kind, RunReportKind::Unknown);
}

#[test]
fn reports_that_break_a_rule_are_refused() {
    for bad in [
        r#"{"n":-1,"t":5,"kind":"started"}"#.to_owned(),
        format!(r#"{{"n":{RUN_REPORTS_MAX},"t":5,"kind":"started"}}"#),
        r#"{"n":1,"t":5,"kind":"output","stream":"stdout","at":0}"#.into(),
        r#"{"n":1,"t":5,"kind":"output","stream":"stdout","at":0,"text":""}"#.into(),
        r#"{"n":1,"t":5,"kind":"output","stream":"stdout","at":0,"text":"a","data":"AA=="}"#.into(),
        r#"{"n":1,"t":5,"kind":"output","stream":"stdout","at":0,"data":"A"}"#.into(),
        r#"{"n":1,"t":5,"kind":"output","stream":"stdlog","at":0,"text":"a"}"#.into(),
        r#"{"n":1,"t":5,"kind":"output","stream":"stdout","at":9223372036854775808,"text":"a"}"#.into(),
        format!(r#"{{"n":1,"t":5,"kind":"output","stream":"stdout","at":0,"text":"{}"}}"#, "x".repeat(RUN_PIECE_MAX + 1)),
        r#"{"n":1,"t":5,"kind":"end"}"#.into(),
        format!(r#"{{"n":1,"t":5,"kind":"end","outcome":"lost","message":"{}"}}"#, "x".repeat(RUN_MESSAGE_MAX + 1)),
        r#"{"n":1,"t":5,"kind":"end","outcome":"done","used":{"cpu_us":18446744073709551615,"mem_byte_ms":0,"mem_peak":0,"wall_ms":0}}"#
            .into(),
        r#"{"n":1,"t":5,"kind":"end","outcome":"done","exit_code":99999999999}"#.into(),
    ] {
        assert!(RunReport::decode(bad.as_bytes()).is_err(), "{bad:.200}");
    }
    let long = RunEnd::without_process(RunOutcome::Lost, "x", "ü".repeat(RUN_MESSAGE_MAX));
    RunReport::decode(&encode(&RunReport { n: 0, t: 0, kind: RunReportKind::End(long) })).unwrap();
}

#[test]
fn lines_of_output() {
    let piece = RunPiece { n: 7, t: 5, output: RunOutput { stream: RunStream::Stderr, at: 9, bytes: b"x\n".to_vec() } };
    let text = r#"{"n":7,"t":5,"stream":"stderr","at":9,"text":"x\n"}"#;
    assert_eq!(String::from_utf8(encode(&RunLine::Piece(piece.clone()))).unwrap(), text);
    assert_eq!(decode::<RunLine>(text.as_bytes(), PAYLOAD_MAX).unwrap(), RunLine::Piece(piece));
}

proptest! {
    #[test]
    fn any_output_fits_and_comes_back(bytes in proptest::collection::vec(any::<u8>(), 1..2000), repeat in 1usize..17, at in 0u64..1 << 62) {
        let mut bytes = bytes.repeat(repeat);
        bytes.truncate(RUN_PIECE_MAX);
        let report = RunReport {
            n: RUN_REPORTS_MAX - 1,
            t: i64::MAX,
            kind: RunReportKind::Output(RunOutput { stream: RunStream::Stdout, at, bytes }),
        };
        let payload = encode(&report);
        prop_assert!(payload.len() <= PAYLOAD_MAX, "{}", payload.len());
        prop_assert_eq!(RunReport::decode(&payload).unwrap(), report);
    }

    #[test]
    fn text_of_any_kind_fits(text in "[\\x00-\\x7f]{1,1500}", repeat in 20usize..24) {
        let mut bytes = text.repeat(repeat).into_bytes();
        bytes.truncate(RUN_PIECE_MAX);
        let report = RunReport { n: 0, t: 0, kind: RunReportKind::Output(RunOutput { stream: RunStream::Stdout, at: 0, bytes }) };
        let payload = encode(&report);
        prop_assert!(payload.len() <= PAYLOAD_MAX, "{}", payload.len());
        prop_assert_eq!(RunReport::decode(&payload).unwrap(), report);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300, flip in any::<(usize, u8)>()) {
        let _ = (RunOrder::decode(&bytes), RunReport::decode(&bytes));
        let mut good = encode(&RunOrder::Start(signed(start())));
        let at = flip.0 % good.len();
        good[at] ^= flip.1;
        let _ = RunOrder::decode(&good).map(|order| if let RunOrder::Start(signed) = order { drop(signed.read()) });
        let _ = RunOrder::decode(&good[..cut.min(good.len())]);
    }
}
