//! Remote sessions as things that live by a right: the relay has them, and ends them.

use muster_proto::id::OrgId;
use muster_proto::problem::Problem;
use rusqlite::Connection;

use super::{ByToken, Held, Holder};
use crate::relay::{End, Relay};
use crate::rights::Action;
use crate::store::{self, sessions::SessionRow};

/// The sessions of a relay.
pub struct Sessions(pub Relay);

impl Sessions {
    /// A session as something that lives by a right.
    pub fn held(session: &SessionRow) -> Held {
        Held {
            id: session.id.to_string(),
            org: session.org.clone(),
            project: session.project.clone(),
            uid: session.uid.clone(),
            device_name: session.device_name.clone(),
            email: session.email.clone(),
            token: session.token.clone().map(ByToken::WhileGood),
            needs: Action::Connect,
        }
    }

    /// The end of a session whose right is gone.
    pub fn end(why: &Problem) -> End {
        End::by_hub(&why.code, why.detail.clone())
    }
}

impl Holder for Sessions {
    fn held(&self, _: &Connection, org: Option<&OrgId>) -> store::Result<Vec<Held>> {
        let held = self.0.alive(org).into_iter().map(|alive| Held {
            id: alive.id.into(),
            org: alive.org,
            project: alive.project,
            uid: alive.uid,
            device_name: alive.device_name,
            email: alive.email,
            token: alive.token.map(ByToken::WhileGood),
            needs: Action::Connect,
        });
        Ok(held.collect())
    }

    fn end(&self, held: &Held, why: &Problem) {
        if let Ok(id) = held.id.parse() {
            self.0.end_soon(&id, Self::end(why));
        }
    }
}
