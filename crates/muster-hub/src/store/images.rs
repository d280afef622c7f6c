//! Logos of organizations and avatars of teams.

use muster_proto::id::{OrgId, TeamId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::Result;

/// An image that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub media_type: String,
    /// SHA-256 in hexadecimal.
    pub digest: String,
    pub bytes: Vec<u8>,
}

fn image(row: &Row<'_>) -> rusqlite::Result<Image> {
    Ok(Image { media_type: row.get(0)?, digest: row.get(1)?, bytes: row.get(2)? })
}

/// An organization's logo.
pub(crate) fn logo(connection: &Connection, org: &OrgId) -> Result<Option<Image>> {
    let mut statement = connection.prepare_cached("SELECT media_type, digest, image FROM org_logos WHERE org = ?1")?;
    Ok(statement.query_row([org.as_str()], image).optional()?)
}

/// Gives an organization a logo.
pub(crate) fn set_logo(tx: &Transaction<'_>, org: &OrgId, image: &Image) -> Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO org_logos (org, media_type, digest, image) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        org.as_str(),
        image.media_type,
        image.digest,
        image.bytes
    ])?;
    Ok(())
}

/// Takes an organization's logo away, and says whether it had one.
pub(crate) fn remove_logo(tx: &Transaction<'_>, org: &OrgId) -> Result<bool> {
    Ok(tx.prepare_cached("DELETE FROM org_logos WHERE org = ?1")?.execute([org.as_str()])? == 1)
}

/// A team's avatar.
pub(crate) fn avatar(connection: &Connection, org: &OrgId, team: &TeamId) -> Result<Option<Image>> {
    let mut statement = connection.prepare_cached("SELECT media_type, digest, image FROM team_avatars WHERE org = ?1 AND team = ?2")?;
    Ok(statement.query_row([org.as_str(), team.as_str()], image).optional()?)
}

/// Gives a team an avatar.
pub(crate) fn set_avatar(tx: &Transaction<'_>, org: &OrgId, team: &TeamId, image: &Image) -> Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO team_avatars (org, team, media_type, digest, image) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![org.as_str(), team.as_str(), image.media_type, image.digest, image.bytes])?;
    Ok(())
}

/// Takes a team's avatar away, and says whether it had one.
pub(crate) fn remove_avatar(tx: &Transaction<'_>, org: &OrgId, team: &TeamId) -> Result<bool> {
    Ok(tx.prepare_cached("DELETE FROM team_avatars WHERE org = ?1 AND team = ?2")?.execute([org.as_str(), team.as_str()])? == 1)
}
