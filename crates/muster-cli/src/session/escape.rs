//! The escape character of a raw terminal, as OpenSSH has it: after a line break, `~.` ends the session, `~~` is one tilde.
//!
//! Pure: bytes go in, bytes to send and a wish to end come out.

/// State between two pieces of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// A line begins.
    LineStart,
    /// Somewhere in a line.
    InLine,
    /// After a tilde at the start of a line, which has not been sent.
    Tilde,
}

/// Whether the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    GoOn,
    End,
}

impl Escape {
    /// Appends what is to be sent of `input` to `out`.
    pub(super) fn filter(&mut self, input: &[u8], out: &mut Vec<u8>) -> Wish {
        for &byte in input {
            match (*self, byte) {
                (Self::LineStart, b'~') => {
                    *self = Self::Tilde;
                    continue;
                }
                (Self::Tilde, b'.') => return Wish::End,
                // The first tilde said that the second is meant.
                (Self::Tilde, b'~') => {}
                // No escape after all: the tilde is sent too.
                (Self::Tilde, _) => out.push(b'~'),
                (Self::LineStart | Self::InLine, _) => {}
            }
            out.push(byte);
            *self = if matches!(byte, b'\r' | b'\n') { Self::LineStart } else { Self::InLine };
        }
        Wish::GoOn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pieces: &[&str]) -> (String, Wish) {
        let (mut escape, mut out) = (Escape::LineStart, Vec::new());
        let wish = pieces.iter().map(|piece| escape.filter(piece.as_bytes(), &mut out)).find(|wish| *wish == Wish::End);
        (String::from_utf8(out).unwrap(), wish.unwrap_or(Wish::GoOn))
    }

    #[test]
    fn escapes_count_at_the_start_of_a_line_only() {
        for (pieces, sent, wish) in [
            (&["ls\r"][..], "ls\r", Wish::GoOn),
            (&["~."], "", Wish::End),
            (&["ls\r~."], "ls\r", Wish::End),
            (&["ls\r", "~", "."], "ls\r", Wish::End),
            (&["cd ~.x\r"], "cd ~.x\r", Wish::GoOn),
            (&["~~."], "~.", Wish::GoOn),
            (&["~/bin\r"], "~/bin\r", Wish::GoOn),
            (&["~", "\r~."], "~\r", Wish::End),
            (&["a~.\r"], "a~.\r", Wish::GoOn),
        ] {
            assert_eq!(run(pieces), (sent.to_owned(), wish), "{pieces:?}");
        }
    }
}
