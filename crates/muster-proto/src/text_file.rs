//! A file of text as a person hands it in: CSV, a list of serial numbers, a list of devices.
//!
//! Spreadsheets and editors write UTF-8 with and without a mark, and UTF-16; both are read. Any other encoding would have to be guessed,
//! and a guess puts wrong letters into names, so it is refused with what to do.

use std::borrow::Cow;

/// Why bytes are no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// A workbook or another compressed file.
    #[error("the file is an Excel or ODS workbook or another archive, not text; save it as \"CSV UTF-8\"")]
    Archive,
    /// Neither UTF-8 nor UTF-16.
    #[error("line {line} is not UTF-8 text (perhaps it is Latin-1 or Windows-1252); save the file as \"CSV UTF-8\"")]
    Encoding {
        /// The first such line, from 1.
        line: usize,
    },
    /// It says that it is UTF-16 and is cut or damaged.
    #[error("the file looks like UTF-16, and line {line} is damaged; save it as \"CSV UTF-8\"")]
    Utf16 {
        /// The first such line, from 1.
        line: usize,
    },
    /// Zero bytes in the middle: a picture, a program, UTF-32.
    #[error("the file holds zero bytes, so it is not text that can be read here; save it as \"CSV UTF-8\"")]
    Binary,
}

/// The text of a file, without the mark at its beginning.
///
/// # Errors
/// When it is no text, or in an encoding that would have to be guessed.
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, NotText> {
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x1f\x8b") || bytes.starts_with(b"\xd0\xcf\x11\xe0") {
        return Err(NotText::Archive);
    }
    let text = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Err(NotText::Binary),
        [0xff, 0xfe, rest @ ..] => Cow::Owned(utf16(rest, u16::from_le_bytes)?),
        [0xfe, 0xff, rest @ ..] => Cow::Owned(utf16(rest, u16::from_be_bytes)?),
        // Without a mark: a file of text begins with a plain letter, whose other half is zero.
        [1..=255, 0, 1..=255, 0, ..] => Cow::Owned(utf16(bytes, u16::from_le_bytes)?),
        [0, 1..=255, 0, 1..=255, ..] => Cow::Owned(utf16(bytes, u16::from_be_bytes)?),
        _ => {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            let at = |end: usize| bytes[..end].iter().filter(|byte| **byte == b'\n').count() + 1;
            Cow::Borrowed(std::str::from_utf8(bytes).map_err(|error| NotText::Encoding { line: at(error.valid_up_to()) })?)
        }
    };
    if text.contains('\0') { Err(NotText::Binary) } else { Ok(text) }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, NotText> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut text = String::with_capacity(pairs.len());
    let damaged = |text: &str| NotText::Utf16 { line: text.matches('\n').count() + 1 };
    for read in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        match read {
            Ok(c) => text.push(c),
            Err(_) => return Err(damaged(&text)),
        }
    }
    if rest.is_empty() { Ok(text) } else { Err(damaged(&text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    fn be(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn what_spreadsheets_and_editors_write_is_one_text() {
        let text = "id,name\r\nSN-1,Größe 机 🤖\r\n";
        let mark = |mark: &[u8], rest: Vec<u8>| [mark.to_vec(), rest].concat();
        for bytes in [
            text.as_bytes().to_vec(),
            mark(b"\xef\xbb\xbf", text.as_bytes().to_vec()),
            mark(b"\xff\xfe", le(text)),
            mark(b"\xfe\xff", be(text)),
            le(text),
            be(text),
        ] {
            assert_eq!(decode(&bytes).unwrap(), text, "{:02x?}", &bytes[..6]);
        }
        assert_eq!(decode(b"").unwrap(), "");
        assert_eq!(decode(b"\xff\xfe").unwrap(), "");
    }

    #[test]
    fn what_would_be_a_guess_is_refused_with_its_line() {
        let cut = [&b"\xff\xfe"[..], &le("id\nx"), b"y"].concat();
        let half = [&b"\xff\xfe"[..], &le("id\n"), &0xd83e_u16.to_le_bytes(), &le("x")].concat();
        for (bytes, want) in [
            (&b"id,name\nSN-1,Gr\xf6\xdfe\n"[..], NotText::Encoding { line: 2 }),
            (b"gr\xf6\xdfe,id\n", NotText::Encoding { line: 1 }),
            (&cut, NotText::Utf16 { line: 2 }),
            (&half, NotText::Utf16 { line: 2 }),
            (b"PK\x03\x04 and so on", NotText::Archive),
            (b"\xff\xfe\0\0i\0\0\0", NotText::Binary),
            (b"id\nSN\0-1\n", NotText::Binary),
            (b"\0\x01\x02", NotText::Binary),
        ] {
            assert_eq!(decode(bytes), Err(want), "{bytes:02x?}");
        }
        assert!(NotText::Encoding { line: 2 }.to_string().starts_with("line 2 is not UTF-8 text"));
    }
}
