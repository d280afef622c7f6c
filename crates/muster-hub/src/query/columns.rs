//! The columns of the device list: built-in ones, custom fields, facts and usage; and what kind of value each has.

use muster_proto::Millis;
use muster_proto::api::{Field, FieldKind};

use super::near::hint;
use super::syntax::{Name, Scope, is_keyword};
use super::{QueryError, values};

/// Where a value is to be found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Column {
    /// The display name.
    Name,
    /// The serial number.
    Id,
    /// The uid.
    Uid,
    /// Whether it belongs.
    Admission,
    /// Whether it is there, in three states.
    Presence,
    /// Whether it is there.
    Online,
    /// Entered by hand, without a daemon.
    Manual,
    /// The projects that share it and that the person sees.
    Project,
    /// Its labels.
    Label,
    /// The pairing code that it shows while it waits.
    Code,
    /// Whether another key asks for its place.
    Replacement,
    /// Keys of required fields that are empty.
    Missing,
    /// The daemon's version.
    Agent,
    /// When filed.
    Created,
    /// When first admitted.
    Admitted,
    /// When the hub last heard from it.
    LastSeen,
    /// Since when its presence is what it is.
    Since,
    /// End of its certificate.
    Certificate,
    /// Open sessions.
    Sessions,
    /// Samples that wait on it.
    Spooled,
    /// Memory in use, of all there is.
    Mem,
    /// The fullest mount.
    Disk,
    /// The hottest sensor.
    Temp,
    /// A custom field, by its number in the store.
    Field(i64),
    /// What the device says of itself.
    Fact(Box<str>),
    /// A value of its newest sample.
    Usage(Box<str>),
}

/// What a number counts, and so which units it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nothing in particular.
    Plain,
    /// 0 to 1, also as a percentage.
    Ratio,
    /// Seconds.
    Seconds,
    /// Whatever the unit says.
    Any,
}

/// What kind of value a column has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// An e-mail address; `me` is one's own.
    Person,
    /// One of these.
    Choice(Vec<String>),
    /// Several texts: a comparison is true if it is for one of them.
    List,
    /// Several projects.
    Projects,
    /// A number.
    Number(Unit),
    /// A time.
    Time,
    /// A day.
    Date,
    /// True or false.
    Bool,
    /// Whatever the device said: a text, a number, true or false, or several of them.
    Stated,
}

/// What there is to compare with, for one person at one time.
#[derive(Debug, Clone, Copy)]
pub struct Schema<'a> {
    /// The custom fields, with their numbers.
    pub fields: &'a [(i64, Field)],
    /// The projects that the person sees.
    pub projects: &'a [&'a str],
    /// The person's e-mail address.
    pub me: &'a str,
    /// The time.
    pub now: Millis,
}

type BuiltIn = (&'static str, Column, fn() -> Kind, &'static str);

/// The built-in columns: name, place, kind, and what it is, for the documentation. A second name of the same place is an alias.
pub const BUILT_IN: &[BuiltIn] = &[
    ("name", Column::Name, || Kind::Text, "what the organization calls the device"),
    ("id", Column::Id, || Kind::Text, "its serial number"),
    ("serial", Column::Id, || Kind::Text, "the same"),
    ("uid", Column::Uid, || Kind::Text, "the hub's own name for it"),
    ("admission", Column::Admission, || choice(&["pending", "admitted", "rejected", "revoked"]), "whether it belongs"),
    ("presence", Column::Presence, || choice(&["online", "offline", "never"]), "whether it is there"),
    ("online", Column::Online, || Kind::Bool, "whether it is there"),
    ("manual", Column::Manual, || Kind::Bool, "entered by hand, without a daemon"),
    ("project", Column::Project, || Kind::Projects, "projects that share it"),
    ("projects", Column::Project, || Kind::Projects, "the same"),
    ("label", Column::Label, || Kind::List, "its labels"),
    ("labels", Column::Label, || Kind::List, "the same"),
    ("code", Column::Code, || Kind::Text, "the pairing code that it shows while it waits"),
    ("replacement", Column::Replacement, || Kind::Bool, "whether another key asks for its place"),
    ("missing", Column::Missing, || Kind::List, "keys of required fields that are empty"),
    ("agent", Column::Agent, || Kind::Text, "the daemon's version"),
    ("created", Column::Created, || Kind::Time, "when it was filed"),
    ("admitted", Column::Admitted, || Kind::Time, "when it was first admitted"),
    ("last_seen", Column::LastSeen, || Kind::Time, "when the hub last heard from it"),
    ("since", Column::Since, || Kind::Time, "since when its presence is what it is"),
    ("certificate", Column::Certificate, || Kind::Time, "the end of its certificate"),
    ("sessions", Column::Sessions, || Kind::Number(Unit::Plain), "open sessions"),
    ("spooled", Column::Spooled, || Kind::Number(Unit::Plain), "samples that wait on it"),
    ("mem", Column::Mem, || Kind::Number(Unit::Ratio), "memory in use, of all there is"),
    ("disk", Column::Disk, || Kind::Number(Unit::Ratio), "how full its fullest mount is"),
    ("temp", Column::Temp, || Kind::Number(Unit::Plain), "the hottest sensor, in degrees Celsius"),
];

/// Built-in names for facts and samples.
const STATED: &[(&str, &str, &str)] = &[
    ("hostname", "hostname", "its host name"),
    ("os", "os", "its operating system"),
    ("arch", "arch", "its architecture"),
    ("kernel", "kernel", "its kernel"),
    ("address", "addresses", "its addresses"),
    ("addresses", "addresses", "the same"),
];
const SAMPLED: &[(&str, &str, Unit, &str)] = &[
    ("cpu", "cpu", Unit::Ratio, "processor in use"),
    ("load", "load1", Unit::Plain, "load of the last minute"),
    ("swap", "swap", Unit::Any, "swap in use, in bytes"),
    ("uptime", "uptime", Unit::Seconds, "since its start"),
];

fn choice(of: &[&str]) -> Kind {
    Kind::Choice(of.iter().map(|text| (*text).to_owned()).collect())
}

/// All built-in names, each with what it is.
pub fn built_in() -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    let columns = BUILT_IN.iter().map(|(name, .., what)| (*name, *what));
    columns.chain(STATED.iter().map(|(name, _, what)| (*name, *what))).chain(SAMPLED.iter().map(|(name, .., what)| (*name, *what)))
}

/// Whether a custom field may have this key.
pub fn is_free(key: &str) -> bool {
    !is_keyword(key)
        && !["field", "fact", "usage", "me", "now", "today", "true", "false"].contains(&key)
        && built_in().all(|(name, _)| name != key)
}

impl Column {
    /// Whether only those see it who may view the device: for all others it is absent.
    pub fn is_detail(&self) -> bool {
        use Column as C;
        matches!(self, C::Sessions | C::Spooled | C::Mem | C::Disk | C::Temp | C::Fact(_) | C::Usage(_))
    }

    /// Whether its value changes by itself, without an edit.
    pub fn is_live(&self) -> bool {
        use Column as C;
        matches!(
            self,
            C::Presence | C::Online | C::LastSeen | C::Since | C::Sessions | C::Spooled | C::Mem | C::Disk | C::Temp | C::Usage(_)
        )
    }
}

/// The column of a name.
///
/// # Errors
/// When there is none, with names that are close.
pub fn resolve(name: &Name, schema: &Schema<'_>) -> Result<(Column, Kind), QueryError> {
    let field = || schema.fields.iter().find(|(_, field)| field.key == name.name).map(|(id, field)| (Column::Field(*id), kind_of(field)));
    let keys = schema.fields.iter().map(|(_, field)| field.key.as_str());
    let found = match name.scope {
        Scope::Any => known(&name.name).or_else(field),
        Scope::Field => field(),
        Scope::Fact => Some((Column::Fact(name.name.as_str().into()), Kind::Stated)),
        Scope::Usage => Some((Column::Usage(name.name.as_str().into()), Kind::Number(Unit::Any))),
    };
    found.ok_or_else(|| {
        let near = match name.scope {
            Scope::Field => hint(&name.name, keys),
            _ => hint(&name.name, keys.chain(built_in().map(|(name, _)| name))),
        };
        let more = if near.is_empty() { "; `fact.NAME` and `usage.NAME` name what a device states" } else { "" };
        QueryError::new(name.at, format!("unknown field `{}`{near}{more}", name.name.chars().take(60).collect::<String>()))
    })
}

fn known(name: &str) -> Option<(Column, Kind)> {
    let column = BUILT_IN.iter().find(|(known, ..)| *known == name).map(|(_, column, kind, _)| (column.clone(), kind()));
    let stated = || STATED.iter().find(|(known, ..)| *known == name).map(|(_, fact, _)| (Column::Fact((*fact).into()), Kind::Stated));
    let sampled = || {
        let found = SAMPLED.iter().find(|(known, ..)| *known == name);
        found.map(|(_, column, unit, _)| (Column::Usage((*column).into()), Kind::Number(*unit)))
    };
    column.or_else(stated).or_else(sampled)
}

fn kind_of(field: &Field) -> Kind {
    match field.kind {
        FieldKind::Text => Kind::Text,
        FieldKind::Number => Kind::Number(Unit::Plain),
        FieldKind::Choice => Kind::Choice(field.choices.clone()),
        FieldKind::Date => Kind::Date,
        FieldKind::Person => Kind::Person,
    }
}

/// The value of a day in the store's canonical text, as a time.
pub fn day(text: &str) -> Option<Millis> {
    values::day(text)
}
