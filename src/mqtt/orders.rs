//! What the hub says on `down/`: parsed, checked against our own uid, and handed to whom it concerns.
//!
//! Nothing here acts by itself. What does not parse is logged and ignored: a newer hub may know more than we do.

use std::time::{Duration, Instant};

use muster_proto::Millis;
use muster_proto::limits::PAYLOAD_MAX;
use muster_proto::mqtt::{AdmissionNotice, ConfigWish, SessionOrder, decode};
use muster_proto::run::RunOrder;
use muster_proto::topic::{Down, Topic};

use super::End;
use crate::daemon::{Daemon, Pace};
use crate::log::{debug, info, warn};
use crate::state::Enrolled;

/// Longest watch that one wish gives: as long as the hub may ask for.
const WATCH_MAX: Duration = Duration::from_secs(600);

/// How the broker had kept a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// For whoever subscribes: it may have been said long ago.
    pub(super) retained: bool,
    /// It is void after this.
    pub(super) expires_in: Option<Duration>,
}

/// Takes one message.
pub(super) fn take(daemon: &Daemon, enrolled: &Enrolled, topic: &str, payload: &[u8], kept: Kept) -> Result<(), End> {
    let down = match topic.parse() {
        Ok(Topic::Down(uid, down)) if uid == enrolled.identity.uid => down,
        _ => {
            warn!("a message on the topic {topic:?} is not for this device; ignored");
            return Ok(());
        }
    };
    match down {
        Down::Session => match decode::<SessionOrder>(payload, PAYLOAD_MAX) {
            Ok(SessionOrder::Unknown) => debug!("a session order of a later version; ignored"),
            Ok(order) => {
                if let SessionOrder::Open(signed) = &order
                    && let Ok(order) = signed.read()
                {
                    daemon.hub_told(order.t);
                }
                daemon.order(order);
            }
            Err(error) => warn!("a session order is ignored: {error}"),
        },
        Down::Config => match decode::<ConfigWish>(payload, PAYLOAD_MAX) {
            Ok(wish) => take_wish(daemon, &wish, kept.retained),
            Err(error) => warn!("a configuration wish is ignored: {error}"),
        },
        Down::Admission => match decode::<AdmissionNotice>(payload, PAYLOAD_MAX) {
            Ok(notice) => return take_notice(daemon, enrolled, notice),
            Err(error) => warn!("an admission notice is ignored: {error}"),
        },
        Down::Run(run) => match RunOrder::decode(payload) {
            Ok(RunOrder::Unknown) => debug!("an order of a later version for run {run}; ignored"),
            Ok(order) => {
                match &order {
                    RunOrder::Start(signed) => {
                        if let Ok(order) = signed.read() {
                            daemon.hub_told(order.t);
                        }
                    }
                    RunOrder::Cancel { t, .. } => daemon.hub_told(*t),
                    RunOrder::Unknown => {}
                }
                daemon.order_run(run, order, kept.expires_in);
            }
            Err(error) => warn!("an order for run {run} is ignored: {error}"),
        },
    }
    Ok(())
}

fn take_wish(daemon: &Daemon, wish: &ConfigWish, retained: bool) {
    daemon.hub_told(wish.now);
    let pace = pace(daemon, wish, retained);
    daemon.pace.send_if_modified(|known| {
        let changed = *known != pace;
        *known = pace;
        changed
    });
}

/// The hub's wish within the device's bounds: never more often than the configuration says, but for a watch with an end.
fn pace(daemon: &Daemon, wish: &ConfigWish, retained: bool) -> Pace {
    let seconds = |wish: Option<u32>| Duration::from_secs(u64::from(wish.unwrap_or(0).min(3600)));
    let sample_every = daemon.config.sample_every.max(seconds(wish.sample_every_s));
    let publish_every = daemon.config.publish_every.max(seconds(wish.usage_every_s)).max(sample_every);
    let watch_until = watch_left(wish, retained, daemon.clock.now()).map(|left| Instant::now() + left);
    Pace { sample_every, publish_every, watch_until }
}

/// How long a watch goes on. What the hub says now needs no clock but the hub's own, wrong or not;
/// how old a retained wish is, only ours can tell.
fn watch_left(wish: &ConfigWish, retained: bool, our_now: Millis) -> Option<Duration> {
    let now = if retained { wish.now.max(our_now) } else { wish.now };
    let left = u64::try_from(wish.watch_until?.saturating_sub(now)).ok().filter(|left| *left > 0)?;
    Some(Duration::from_millis(left).min(WATCH_MAX))
}

fn take_notice(daemon: &Daemon, enrolled: &Enrolled, notice: AdmissionNotice) -> Result<(), End> {
    match notice {
        AdmissionNotice::Renew => daemon.renew.notify_one(),
        AdmissionNotice::Room => daemon.has_room(),
        AdmissionNotice::Revoked { reason } => {
            daemon.end_sessions("the device was revoked");
            return Err(End::Revoked(reason));
        }
        AdmissionNotice::Named { uid, org, name, now } => {
            daemon.hub_told(now);
            if uid != enrolled.identity.uid || org != enrolled.identity.org {
                warn!("a name for another device ({uid} of {org}); ignored");
            } else if name != enrolled.identity.name {
                info!("the organization calls this device {name:?} now");
                // Read again: the certificate may have been renewed since this link began.
                let renamed = daemon.state.enrolled().and_then(|current| match current.filter(|current| current.identity.uid == uid) {
                    Some(current) => daemon.state.change_enrolled(&current, |current| current.identity.name = name),
                    None => Ok(false),
                });
                if let Err(error) = renamed {
                    warn!("{error}");
                }
            }
        }
        AdmissionNotice::Unknown => debug!("an admission notice of a later version; ignored"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_lasts_as_the_hub_says_whatever_the_clocks_say_and_an_old_one_is_over() {
        let minute = |said_at| ConfigWish { watch_until: Some(said_at + 60_000), now: said_at, ..ConfigWish::default() };
        let s = |seconds| Some(Duration::from_secs(seconds));
        const NOW: Millis = 1_800_000_000_000;
        // Just said, by a hub whose clock was set back, is right, or is ahead.
        for said_at in [NOW - 3_600_000, NOW, NOW + 3_600_000] {
            assert_eq!(watch_left(&minute(said_at), false, NOW), s(60));
        }
        assert_eq!(watch_left(&minute(NOW - 20_000), true, NOW), s(40));
        assert_eq!(watch_left(&minute(NOW - 60_000), true, NOW), None);
        assert_eq!(watch_left(&minute(NOW + 20_000), true, NOW), s(60), "our clock is behind");
        let long = ConfigWish { watch_until: Some(Millis::MAX), now: Millis::MIN, ..ConfigWish::default() };
        assert_eq!(watch_left(&long, false, NOW), Some(WATCH_MAX));
        assert_eq!(watch_left(&ConfigWish::default(), false, NOW), None);
    }
}
