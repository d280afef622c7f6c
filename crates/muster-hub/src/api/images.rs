//! Logos and avatars: what comes in is known by its first bytes, whatever it claims to be; what goes out is never anything but an image.

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use imagesize::ImageType;
use muster_proto::limits::{IMAGE_MAX, IMAGE_SIDE_MAX};
use muster_proto::problem::Code;

use super::extract::received;
use super::{ApiError, ApiResult};
use crate::random;
use crate::state::AppState;
use crate::store::images::Image;

/// An image as the body of a request.
pub(super) struct ImageBody(pub(super) Image);

impl FromRequest<AppState> for ImageBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let bytes = received(request, state, || format!("an image has at most {} KiB", IMAGE_MAX / 1024)).await?;
        check(&bytes).map(Self)
    }
}

/// Holds bytes to what a logo may be.
fn check(bytes: &[u8]) -> ApiResult<Image> {
    let refuse = |why: String| Err(ApiError::new(Code::Invalid, why));
    let media_type = match imagesize::image_type(bytes) {
        Ok(ImageType::Png) => "image/png",
        Ok(ImageType::Jpeg) => "image/jpeg",
        Ok(ImageType::Webp) => "image/webp",
        _ => return Err(ApiError::new(Code::MediaType, "the body must be a PNG, JPEG or WebP image; its first bytes are of none of them")),
    };
    if bytes.len() > IMAGE_MAX {
        return Err(ApiError::new(Code::TooLarge, format!("an image has at most {} KiB", IMAGE_MAX / 1024)));
    }
    let Ok(size) = imagesize::blob_size(bytes) else {
        return refuse(format!("the image begins like {media_type}, and its header cannot be read: it is cut off or damaged"));
    };
    if !(1..=IMAGE_SIDE_MAX).contains(&size.width) || !(1..=IMAGE_SIDE_MAX).contains(&size.height) {
        return refuse(format!(
            "the image has {} x {} pixels; 1 to {IMAGE_SIDE_MAX} in each direction are allowed",
            size.width, size.height
        ));
    }
    Ok(Image { media_type: media_type.to_owned(), digest: random::to_hex(&random::sha256(bytes)), bytes: bytes.to_vec() })
}

/// Serves an image, or says that the one that the caller has is still the one.
pub(super) fn serve(image: Option<Image>, what: &str, asked: &HeaderMap) -> ApiResult<Response> {
    let image = image.ok_or_else(|| ApiError::new(Code::NotFound, format!("{what} has no image")))?;
    let tag = format!("\"{}\"", image.digest);
    let known = asked
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|given| given.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|given| given == tag || given == "*"));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { image.bytes.into_response() };
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_str(&image.media_type).map_err(|error| ApiError::internal(&error))?;
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).map_err(|error| ApiError::internal(&error))?);
    // It may be kept by whoever was allowed to see it, and is asked for again each time.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("inline"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a PNG of this size.
    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes.extend([8, 6, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn an_image_is_known_by_its_bytes() {
        assert_eq!(check(&png(64, 64)).unwrap().media_type, "image/png");
        assert_eq!(check(&png(2048, 2048)).unwrap().digest.len(), 64);
        let webp = [&b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f"[..], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(check(&webp).unwrap().media_type, "image/webp");
        let jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\0\x0b\x08\0\x10\0\x20\x01\x01\x11\0\xff\xd9";
        assert_eq!(check(jpeg).unwrap().media_type, "image/jpeg");
        for (bytes, code) in [
            (Vec::new(), Code::MediaType),
            (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>".to_vec(), Code::MediaType),
            (b"<html><script>alert(1)</script>".to_vec(), Code::MediaType),
            (b"GIF89a\x01\0\x01\0".to_vec(), Code::MediaType),
            (b"%PDF-1.7".to_vec(), Code::MediaType),
            (b"\x89PNG\r\n\x1a\n".to_vec(), Code::MediaType),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0".to_vec(), Code::Invalid),
            (b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01".to_vec(), Code::Invalid),
            (b"RIFF\0\0\0\0WEBPVP8 ".to_vec(), Code::Invalid),
            (png(2049, 1), Code::Invalid),
            (png(1, u32::MAX), Code::Invalid),
            (png(0, 5), Code::Invalid),
            ([png(5, 5), vec![0; IMAGE_MAX]].concat(), Code::TooLarge),
        ] {
            let Err(error) = check(&bytes) else { panic!("{:?}", &bytes[..bytes.len().min(40)]) };
            assert!(error.0.is(code), "{error}");
        }
    }

    #[test]
    fn damaged_headers_never_panic() {
        let mut seed = 7_u32;
        for start in
            [png(5, 5), b"RIFF\x1a\0\0\0WEBPVP8 ".to_vec(), b"\xff\xd8\xff\xe0\0\x02\xff\xc0".to_vec(), b"RIFF\x1a\0\0\0WEBPVP8X".to_vec()]
        {
            for len in 0..64 {
                let bytes: Vec<u8> = (0..len)
                    .map(|at| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        start.get(at).copied().unwrap_or((seed >> 24) as u8)
                    })
                    .collect();
                let _ = check(&bytes);
            }
        }
    }
}
