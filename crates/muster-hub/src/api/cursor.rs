//! Cursors: the place in a list where its next page begins. Opaque, versioned, and bound to the list that gave them.
//!
//! A cursor gives no right: every page is checked like the first. The digest only makes sure that a cursor of another list, of
//! another filter or order, of another version, or one that was cut on the way is refused and not misread.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_proto::problem::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ApiError, ApiResult};
use crate::random;

/// Changes when the meaning of a cursor does.
const VERSION: u8 = 1;
/// Bytes of the digest: chance never hits.
const DIGEST: usize = 12;
/// Longest cursor that is looked at.
const TEXT_MAX: usize = 8 * 1024;

/// Makes a cursor of a list. `list` names it, with all that its rows and their order depend on.
pub(crate) fn make<T: Serialize>(list: &str, place: &T) -> String {
    let place = serde_json::to_vec(place).expect("places have text keys and no fallible serializer");
    let mut bytes = vec![VERSION];
    bytes.extend(digest(list, &place));
    bytes.extend(place);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The place that a cursor of this list names.
///
/// # Errors
/// `invalid` for anything but a cursor that [`make`] made for this very list.
pub(crate) fn read<T: DeserializeOwned>(list: &str, text: &str) -> ApiResult<T> {
    let bytes = Some(text).filter(|text| text.len() <= TEXT_MAX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let place = bytes.as_deref().and_then(|bytes| match bytes {
        [VERSION, rest @ ..] => rest.split_at_checked(DIGEST).filter(|(told, place)| *told == digest(list, place)),
        _ => None,
    });
    place.and_then(|(_, place)| serde_json::from_slice(place).ok()).ok_or_else(|| {
        let why = "cursor: it is not one that this list gave for this filter and order; ask for the first page again, without a cursor";
        ApiError::new(Code::Invalid, why)
    })
}

/// [`read`] of a cursor that may not be there.
///
/// # Errors
/// As [`read`].
pub(crate) fn maybe<T: DeserializeOwned>(list: &str, text: Option<&str>) -> ApiResult<Option<T>> {
    text.filter(|text| !text.is_empty()).map(|text| read(list, text)).transpose()
}

fn digest(list: &str, place: &[u8]) -> [u8; DIGEST] {
    let mut bytes = Vec::with_capacity(list.len() + place.len() + 1);
    bytes.extend_from_slice(list.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(place);
    let whole = random::sha256(&bytes);
    std::array::from_fn(|n| whole[n])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_list_that_made_a_cursor_takes_it() {
        let cursor = make("acme audit", &17_i64);
        assert_eq!(read::<i64>("acme audit", &cursor).ok(), Some(17));
        assert_eq!(maybe::<i64>("acme audit", None).ok(), Some(None));
        assert!(read::<i64>("acme sessions", &cursor).is_err());
        assert!(read::<String>("acme audit", &cursor).is_err());
        let mut wrong = 0;
        for at in 0..cursor.len() {
            for other in ["A", "b", "_", "", "%", "ü"] {
                let mut bent = cursor.clone();
                bent.replace_range(at..=at, other);
                // The last letter has bits to spare, which the decoder refuses unless they are zero.
                if bent != cursor {
                    assert!(read::<i64>("acme audit", &bent).is_err(), "{bent}");
                    wrong += 1;
                }
            }
        }
        assert!(wrong > 100);
        for garbage in ["17", "0", "null", "AQ", "\u{0}", &*"A".repeat(100_000)] {
            assert!(read::<i64>("acme audit", garbage).is_err(), "{garbage:.20}");
        }
    }
}
