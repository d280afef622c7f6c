//! The language as people use it and as they mistype it; and that no text, however made, panics or takes long.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use muster_proto::api::{Field, FieldKind};
use proptest::prelude::*;

use super::order::{natural, order};
use super::syntax::{Literal, Name, Op, Scope, parse};
use super::*;

struct Fake(BTreeMap<&'static str, Value<'static>>);

impl Row<'static> for Fake {
    fn value(&self, column: &Column) -> Value<'static> {
        let name = match column {
            Column::Field(1) => "site",
            Column::Field(2) => "rack",
            Column::Field(3) => "stage",
            Column::Field(4) => "bought",
            Column::Field(_) => "keeper",
            Column::Fact(name) | Column::Usage(name) => name,
            Column::Name => "name",
            Column::Online => "online",
            Column::Project => "project",
            Column::Label => "label",
            Column::LastSeen => "last_seen",
            Column::Admission => "admission",
            _ => return Value::Absent,
        };
        self.0.get(name).cloned().unwrap_or(Value::Absent)
    }
}

fn fields() -> Vec<(i64, Field)> {
    let kinds = [
        ("site", FieldKind::Text),
        ("rack", FieldKind::Number),
        ("stage", FieldKind::Choice),
        ("bought", FieldKind::Date),
        ("keeper", FieldKind::Person),
    ];
    let field = |(n, (key, kind)): (usize, (&str, FieldKind))| {
        let choices = if kind == FieldKind::Choice { vec!["test".to_owned(), "live".into(), "at rest".into()] } else { Vec::new() };
        let key = key.to_owned();
        let field = Field { title: key.clone(), key, kind, choices, required: false, description: String::new(), created_at: 0 };
        (i64::try_from(n).unwrap() + 1, field)
    };
    kinds.into_iter().enumerate().map(field).collect()
}

/// 2026-11-22T12:00:00Z.
const NOW: i64 = 1_795_348_800_000;

fn with_schema<T>(look: impl FnOnce(&Schema<'_>) -> T) -> T {
    let fields = fields();
    look(&Schema { fields: &fields, projects: &["lab", "yard"], me: "ada@acme.example", now: NOW })
}

fn robot() -> Fake {
    Fake(BTreeMap::from([
        ("name", Value::Text("Robot-7")),
        ("online", Value::Bool(true)),
        ("site", Value::Text("berlin")),
        ("rack", Value::Number(12.0)),
        ("stage", Value::Text("live")),
        ("bought", Value::Time(super::columns::day("2026-11-01").unwrap())),
        ("keeper", Value::Text("ada@acme.example")),
        ("project", Value::List(vec!["lab"])),
        ("label", Value::List(vec!["blue", "spare part"])),
        ("cpu", Value::Number(0.85)),
        ("mem:x y", Value::Number(2.5e9)),
        ("os", Value::Text("Debian 13")),
        ("cores", Value::Number(8.0)),
        ("addresses", Value::List(vec!["10.0.0.7", "fe80::1"])),
        ("battery_ok", Value::Bool(true)),
        ("last_seen", Value::Time(NOW - 30 * 60 * 1000)),
        ("admission", Value::Text("admitted")),
    ]))
}

#[test]
fn what_passes() {
    let row = robot();
    let mut seen = 0;
    for (text, passes) in [
        ("", true),
        ("  ", true),
        (r#"online = true and site = "berlin" and cpu > 0.8"#, true),
        ("online and site=berlin and cpu>80%", true),
        ("not online", false),
        ("online = no", false),
        ("site = Berlin", false),
        ("site ~ BERL", true),
        ("site != bonn", true),
        ("site != berlin", false),
        ("agent != x", true),
        ("agent = x or agent ~ x or agent < x", false),
        ("agent is empty and site is not empty", true),
        ("label = blue", true),
        (r#"label = "spare part""#, true),
        ("label ~ spare", true),
        ("label != blue", false),
        ("label in (red, blue)", true),
        ("label not in (red, blue)", false),
        ("project = lab and not project = yard", true),
        ("project in (yard)", false),
        ("name < robot-10", true),
        ("name >= Robot-7 and name <= Robot-7", true),
        ("rack = 12 and rack >= 12 and rack < 12.5 and rack in (1, 12)", true),
        ("rack != 12", false),
        ("stage = live", true),
        (r#"stage in ("at rest", live)"#, true),
        ("admission = admitted", true),
        ("keeper = me", true),
        (r#"keeper = "me""#, false),
        ("keeper = ADA@acme.example", true),
        ("bought = 2026-11-01", true),
        ("bought > 2026-11-01 or bought < 2026-11-01", false),
        ("bought >= 2026-11-01 and bought <= 2026-11-01", true),
        ("bought > now-90d", true),
        ("last_seen > now-1h", true),
        ("last_seen > now-1min", false),
        ("last_seen = today", true),
        ("last_seen < today", false),
        ("last_seen > yesterday", true),
        ("last_seen < yesterday-1d", false),
        ("last_seen > 2026-11-22T11:29Z and last_seen < 2026-11-22T13:00:00+01:00", true),
        ("last_seen = 2026-11-22T11:30", true),
        (r#"usage."mem:x y" > 2GB"#, true),
        (r#"usage."mem:x y" < 2GiB"#, false),
        ("usage.cpu = 85%", true),
        ("os ~ debian and fact.cores = 8 and fact.cores > 7.5", true),
        ("fact.cores = eight", false),
        ("fact.battery_ok and fact.battery_ok = true", true),
        ("addresses ~ fe80 and address = 10.0.0.7", true),
        ("field.site = berlin", true),
        ("not (site = bonn or site = berlin)", false),
        ("not not online", true),
        ("site = bonn or online and rack = 12", true),
        ("(site = bonn or online) and rack = 11", false),
        ("ONLINE IS EMPTY", false),
    ] {
        // Names of columns are small; the language's own words may be large.
        let text = text.replace("ONLINE", "online");
        let plan = with_schema(|schema| filter(&text, schema)).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(plan.passes(&row), passes, "{text}");
        seen += 1;
    }
    assert!(seen > 50);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, at, why) in [
        ("citty = x", 1, "unknown field `citty`"),
        ("sit = x", 1, "did you mean `site`?"),
        ("online = true and ofline", 19, "unknown field `ofline`; did you mean `online`?"),
        ("site", 1, "`site` is neither true nor false: compare it with something, such as `site ~ \"part\"`"),
        ("site =", 7, "expected a value, found the end of the filter"),
        ("site = and", 8, "put it in quotes if it is the value"),
        ("site == x", 6, "one `=`"),
        ("site = x y", 10, "expected `and`, `or` or the end of the filter, found `y`"),
        ("(site = x", 1, "this `(` is never closed"),
        ("site = x)", 9, "this `)` closes nothing"),
        ("site = \"x", 8, "this text has no end"),
        ("site = 'x'", 8, "double quotes"),
        ("site = \"\\q\"", 9, "an escape is one of"),
        ("a && b", 3, "write `and`"),
        ("not", 4, "expected a column's name, found the end of the filter"),
        ("= x", 1, "expected a column's name, found `=`"),
        ("cpu > 80", 7, "a ratio goes from 0 to 1: write 0.8, or 80%"),
        ("cpu > 2GB", 7, "expected a ratio from 0 to 1"),
        ("cpu ~ 8", 7, "`cpu` is a number and is not compared with `~`"),
        ("site ~ \"\"", 8, "this would match everything; for devices that have any `site`, use `site is not empty`"),
        ("name = *", 8, "this would match everything"),
        ("label = **", 9, "this would match everything"),
        ("fact.os ~ \"\"", 11, "this would match everything"),
        ("rack = x", 8, "expected a number"),
        ("rack = nan", 8, "expected a number"),
        ("stage = liv", 9, "there is no value of `stage` \"liv\"; did you mean `live`?"),
        ("stage < live", 9, "`stage` is a choice"),
        ("admission = admited", 13, "did you mean `admitted`?"),
        ("project = lap", 11, "there is no project \"lap\"; did you mean `lab`?"),
        ("project > lab", 11, "several values"),
        ("last_seen > 1h", 13, "write now-1h"),
        ("last_seen > 2026-02-30", 13, "expected a time"),
        ("bought = tomorrow", 10, "expected a time, such as now-1h"),
        ("online = maybe", 10, "`online` is true or false, not \"maybe\""),
        ("online > true", 10, "true or false"),
        ("site in berlin", 9, "expected `(` and a list of values"),
        ("site in ()", 10, "expected a value, found `)`"),
        ("site in (a b)", 12, "expected `,` or `)`"),
        ("site is full", 9, "expected `empty` or `not empty`"),
        ("fact. = x", 7, "expected a name behind the point"),
        ("site = \u{7}", 8, "a control character (U+0007)"),
        ("grün = x", 1, "unknown field `grün`"),
        ("site = grün and stage = x", 25, "no value of `stage`"),
    ] {
        let error = with_schema(|schema| filter(text, schema)).err().unwrap_or_else(|| panic!("{text} is right"));
        assert!(error.at == at && error.why.contains(why), "{text}: {error}");
    }
}

#[test]
fn bounds() {
    let too_long = format!("site = {}", "x".repeat(TEXT_MAX));
    let deep = format!("{}online{}", "(".repeat(1000), ")".repeat(1000));
    let nots = "not ".repeat(1000) + "online";
    let many = vec!["a = b"; 600].join(" or ");
    let listed = format!("rack in ({})", vec!["1"; 300].join(","));
    for text in [too_long, deep, nots, many, listed] {
        let error = parse(&text).unwrap_err();
        assert!(error.why.contains("at most"), "{error}");
    }
    assert!(parse(&format!("{}online{}", "(".repeat(DEPTH_MAX), ")".repeat(DEPTH_MAX))).is_ok());
}

#[test]
fn orders() {
    with_schema(|schema| {
        let by = order("-cpu, name", schema).unwrap();
        let row = robot();
        assert_eq!(by.iter().map(|by| by.key(&row)).collect::<Vec<_>>(), [Key::Number(0.85), Key::Text("Robot-7")]);
        assert_eq!(by[0].compare(&Key::Number(0.9), &Key::Number(0.1)), Ordering::Less);
        // What is absent comes last either way.
        for by in [&by[0], &by[1]] {
            assert_eq!(by.compare(&Key::Absent, &Key::Number(1.0)), Ordering::Greater);
        }
        let stage = order("stage", schema).unwrap();
        assert_eq!(stage[0].key(&row), Key::Number(1.0));
        assert!(by[0].is_live() && !stage[0].is_live());
        for (text, at, why) in
            [("-cpi", 2, "did you mean `cpu`?"), ("name,,id", 6, "expected a column's name"), ("name,-", 7, "expected a column's name")]
        {
            let error = order(text, schema).unwrap_err();
            assert!(error.at == at && error.why.contains(why), "{text}: {error}");
        }
        assert!(order(&["name"; 9].join(","), schema).is_err());
    });
}

#[test]
fn natural_order() {
    let mut names =
        ["robot-10", "robot-2", "edge", "robot", "Robot-1", "9", "99999999999999999999999", "robot-02", "Äffin", "zebra", "robot-2b"];
    names.sort_by(|a, b| natural(a, b));
    assert_eq!(
        names,
        ["9", "99999999999999999999999", "edge", "robot", "Robot-1", "robot-02", "robot-2", "robot-2b", "robot-10", "zebra", "Äffin"]
    );
}

#[test]
fn no_text_keeps_the_hub_busy() {
    // As slow as it gets: as many comparisons as fit, over as many rows as a large list has.
    let text = vec!["site~zz"; TERMS_MAX].join(" or ");
    let begun = Instant::now();
    let plan = with_schema(|schema| filter(&text, schema)).unwrap();
    let row = robot();
    let passed = (0..10_000).filter(|_| plan.passes(&row)).count();
    assert_eq!(passed, 0);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

fn name() -> impl Strategy<Value = Name> {
    let word = "[a-z_][a-z0-9_]{0,8}".prop_filter("a word of the language", |word| !syntax::is_keyword(word));
    prop_oneof![
        word.prop_map(|name| Name { scope: Scope::Any, name, at: 0 }),
        ("\\PC{0,8}", prop_oneof![Just(Scope::Fact), Just(Scope::Usage), Just(Scope::Field)]).prop_map(|(name, scope)| Name {
            scope,
            name,
            at: 0
        }),
    ]
}

fn literal() -> impl Strategy<Value = Literal> {
    let word = "[a-zA-Z0-9%:@./+-]{1,10}".prop_filter("a word of the language", |word| !syntax::is_keyword(word));
    prop_oneof![
        word.prop_map(|text| Literal { text, quoted: false, at: 0 }),
        any::<String>().prop_map(|text| Literal { text: text.chars().take(20).collect(), quoted: true, at: 0 }),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    let op = prop_oneof![
        Just(Op::Is),
        Just(Op::IsNot),
        Just(Op::Below),
        Just(Op::AtMost),
        Just(Op::Above),
        Just(Op::AtLeast),
        Just(Op::Contains)
    ];
    let leaf = prop_oneof![
        name().prop_map(Expr::True),
        (name(), op, literal()).prop_map(|(name, op, value)| Expr::Compare(name, op, value)),
        (name(), any::<bool>(), prop::collection::vec(literal(), 1..4)).prop_map(|(name, not, values)| Expr::In { name, not, values }),
        (name(), any::<bool>()).prop_map(|(name, not)| Expr::Empty { name, not }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|expr| Expr::Not(Box::new(expr))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_parsed_to_the_same(expr in expr()) {
        let text = expr.to_string();
        if text.len() <= TEXT_MAX {
            prop_assert_eq!(parse(&text), Ok(Some(expr)), "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = with_schema(|schema| { let _ = order(&text, schema); filter(&text, schema).map(|plan| plan.passes(&robot())) });
    }

    #[test]
    fn no_shuffled_words_panic(words in prop::collection::vec(prop_oneof![
        Just("and"), Just("or"), Just("not"), Just("("), Just(")"), Just("in"), Just("is"), Just("empty"), Just(","), Just("="), Just("!="),
        Just("~"), Just("<="), Just("site"), Just("cpu"), Just("online"), Just("last_seen"), Just("\"x\""), Just("80%"), Just("now-1h"),
        Just("2026-11-22T25:61"), Just("fact."), Just("usage.\"a b\""), Just("-"), Just("1e999"), Just("now+1e300w"), Just("\"\\u{110000}\""),
    ], 0..40)) {
        let text = words.join(" ");
        if let Ok(plan) = with_schema(|schema| filter(&text, schema)) {
            plan.passes(&robot());
            let parsed = parse(&text).unwrap();
            if let Some(expr) = parsed {
                prop_assert_eq!(parse(&expr.to_string()), Ok(Some(expr)));
            }
        }
    }

    #[test]
    fn natural_order_is_total(a in "[aAbB0-2é-]{0,6}", b in "[aAbB0-2é-]{0,6}", c in "[aAbB0-2é-]{0,6}") {
        prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
        prop_assert_eq!(natural(&a, &b) == Ordering::Equal, a == b);
        if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
            prop_assert!(natural(&a, &c).is_le());
        }
    }

    #[test]
    fn keys_come_back_as_they_were(bits in any::<u64>(), text in any::<String>(), time in any::<i64>()) {
        for key in [Key::Number(f64::from_bits(bits)), Key::Text(&text), Key::Time(time), Key::Bool(true), Key::Absent] {
            let json = serde_json::to_string(&key.keep()).unwrap();
            let back: order::Kept = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(key.keep(), back);
        }
    }
}
