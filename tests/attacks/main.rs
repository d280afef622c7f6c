//! The attack suite: what a visitor, a daemon in the wrong hands and a hostile hub can try against a device, tried.
//!
//! Real users, real processes, the real hub and the real command line. Each attack is a row of one table, and each would be seen if it
//! succeeded: a file that changed, a process that lives, a byte that was read. None may succeed.
//! It needs root, because it makes users and becomes them. Without root it fails and says so; nothing is skipped in silence.
//!
//! The laboratory is that of the end-to-end tests. `docs/security.md` names these rows beside the threats that they play.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(unreachable_pub, reason = "one binary; `pub` says what a part of the harness offers to the scenes")]

mod clock;
mod consent;
mod denial;
mod escape;
mod forged;
mod ground;
mod hostile;
mod key;
mod people;
mod policy;
mod relay;
mod table;
mod visitors;

#[expect(dead_code, reason = "the end-to-end tests use all of it")]
#[path = "../e2e/https.rs"]
mod https;
#[expect(dead_code, reason = "the end-to-end tests use all of it")]
#[path = "../e2e/lab.rs"]
mod lab;
#[expect(dead_code, reason = "the end-to-end tests use all of it")]
#[path = "../e2e/netns.rs"]
mod netns;
#[expect(dead_code, reason = "the end-to-end tests use all of it")]
#[path = "../e2e/process.rs"]
mod process;
#[expect(dead_code, reason = "the end-to-end tests use all of it")]
#[path = "../e2e/programs.rs"]
mod programs;
#[path = "../e2e/wait.rs"]
mod wait;
#[expect(dead_code, reason = "the end-to-end tests use all of it")]
#[path = "../e2e/wire.rs"]
mod wire;

/// Rows of the table: a scene that quietly tries less is seen.
const ROWS: usize = 316;

#[test]
fn no_attack_succeeds() {
    let lab = lab::Lab::new();
    let mut ground = ground::Ground::new(&lab);
    let mut table = table::Table::default();
    key::play(&mut ground, &mut table);
    denial::play(&mut ground, &mut table);
    visitors::play(&mut ground, &mut table);
    forged::play(&mut ground, &mut table);
    consent::play(&mut ground, &mut table);
    policy::play(&mut ground, &mut table);
    clock::play(&mut ground, &mut table);
    relay::play(&mut ground, &mut table);
    escape::play(&mut ground, &mut table);
    table.print();
    let succeeded: Vec<String> = table.succeeded();
    assert!(succeeded.is_empty(), "{} attacks succeeded:\n{}", succeeded.len(), succeeded.join("\n"));
    assert_eq!(table.len(), ROWS);
}
