//! Where the link is dialled: by which way, and at which host.

use muster_link::dial::Endpoint;

use super::wire::{Wire, WireError, check_host};
use super::{End, Link};
use crate::config::Transport;
use crate::daemon::LinkStatus;
use crate::log::debug;

impl Link<'_> {
    /// Opens a wire: the way that worked before, then the other one.
    pub(super) async fn open(&self) -> Result<(Wire, Endpoint), End> {
        let mqtt = &self.enrolled.identity.mqtt;
        let mut ways: Vec<(&str, bool)> = vec![(&mqtt.url, false)];
        ways.extend(mqtt.websocket.as_deref().map(|url| (url, true)));
        match self.daemon.config.transport {
            Transport::Auto if self.daemon.prefers_websocket() => ways.reverse(),
            Transport::Auto => {}
            Transport::Tcp => ways.retain(|(_, websocket)| !websocket),
            Transport::Websocket => ways.retain(|(_, websocket)| *websocket),
        }
        let mut failure = None;
        for (url, websocket) in ways {
            let endpoint: Endpoint = url.parse().map_err(|error| End::lost(format!("the hub named an unusable MQTT URL: {error}")))?;
            let also = &self.daemon.config.mqtt_hosts;
            check_host(&endpoint, &self.enrolled.hub, also).map_err(End::lost)?;
            self.daemon.set_link_status(LinkStatus::Connecting { url: url.to_owned() });
            debug!("dialling {endpoint}");
            match Wire::open(&self.dialer, &endpoint).await {
                Ok(wire) => {
                    if self.daemon.config.transport == Transport::Auto {
                        self.daemon.remember_transport(websocket);
                    }
                    return Ok((wire, endpoint));
                }
                Err(error) => {
                    debug!("{error}");
                    failure.get_or_insert(error);
                }
            }
        }
        Err(End::Unreached(failure.as_ref().map_or_else(|| "the hub offers no MQTT as WebSocket".to_owned(), WireError::to_string)))
    }
}
