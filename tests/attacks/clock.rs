//! The clock: time windows go by the system's, and what the hub says of the time moves nothing.

use muster_proto::order::OrderKind;

use crate::ground::Ground;
use crate::hostile::{self, Answer, Signer, hand_over, now};
use crate::table::Table;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const HUB: &str = "a hostile hub";

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    let hub = Signer::hub(ground);
    // An order says that it is this much later, and the window is open only then.
    for (what, ahead) in [
        ("7 days ahead", 7 * DAY + 3 * HOUR),
        ("8 days ahead", 8 * DAY),
        ("1 day ahead", DAY),
        ("7 days back", 3 * HOUR - 7 * DAY),
        ("8 days back", -8 * DAY),
    ] {
        let windows = window(now() + ahead);
        ground.policy(&format!("{}[when]\nwindows = [\"{windows}\"]\nunsynchronised = \"allow\"\n", ground.usual_policy()));
        let answer = hand_over(ground, hub.sign(&dated(hostile::session(ground), now() + ahead)));
        table.row(7, format!("a session dated {what} opens {windows:?}"), HUB, answer.text(), matches!(answer, Answer::Refused(..)));
        let answer = hand_over(ground, hub.sign(&dated(hostile::run(ground, "true"), now() + ahead)));
        table.row(7, format!("a run dated {what} opens {windows:?}"), HUB, answer.text(), matches!(answer, Answer::Refused(..)));
    }
    // The daemon's word of the hub's time is for certificates alone.
    let windows = window(now() + 8 * DAY);
    ground.policy(&format!("{}[when]\nwindows = [\"{windows}\"]\nunsynchronised = \"allow\"\n", ground.usual_policy()));
    let mut handoff = hostile::handoff(ground, hub.sign(&hostile::session(ground)));
    handoff.floor = now() + 8 * DAY;
    let answer = hostile::send(ground, &musterd::handoff::line(&handoff), &[]);
    table.row(
        7,
        "a time of the hub's 8 days ahead, told by the daemon",
        "a daemon taken over",
        answer.text(),
        answer.is_refused("policy_time"),
    );
    // None of that has moved anything: a window that is open now lets in, where the owner lets the clock be as it is.
    ground.policy(&format!("{}[when]\nwindows = [\"{}\"]\nunsynchronised = \"allow\"\n", ground.usual_policy(), window(now())));
    let answer = hand_over(ground, hub.sign(&hostile::session(ground)));
    table.row(7, "all of them together lock everybody out for good", HUB, answer.text(), matches!(answer, Answer::Opened(_)));
    ground.clear();
    // While nobody keeps the clock right, a window refuses, and does not depend on what an order says.
    ground.policy(&format!("{}[when]\nwindows = [\"{}\"]\n", ground.usual_policy(), window(now() + 8 * DAY)));
    for (what, t) in [("now", now()), ("8 days ahead", now() + 8 * DAY)] {
        let answer = hand_over(ground, hub.sign(&dated(hostile::session(ground), t)));
        table.row(
            7,
            format!("a closed window without \"allow\", an order dated {what}"),
            HUB,
            answer.text(),
            matches!(answer, Answer::Refused(..)),
        );
    }
    ground.policy(&ground.usual_policy());
    let (code, said) = ground.owner.clone().does(ground.lab, "echo served");
    table.row(7, "the device's own people are locked out afterwards", HUB, said, code == 0);
}

fn dated(mut order: muster_proto::order::Order, t: i64) -> muster_proto::order::Order {
    order.t = t;
    match &mut order.kind {
        OrderKind::Session { open } => open.t = t,
        OrderKind::Run { start, .. } => (start.t, start.expires) = (t, t + 600_000),
    }
    order
}

/// A window of an hour around this moment, in UTC.
fn window(t: i64) -> String {
    const DAYS: [&str; 7] = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let begin = t - HOUR / 2;
    let day = DAYS[usize::try_from(begin.div_euclid(DAY).rem_euclid(7)).unwrap()];
    let clock = |t: i64| format!("{:02}:{:02}", t.rem_euclid(DAY) / HOUR, t.rem_euclid(HOUR) / 60_000);
    format!("{day} {}-{}", clock(begin), clock(begin + HOUR))
}
