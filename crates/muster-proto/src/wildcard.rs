//! Patterns such as `robot-*`, alike wherever a person writes one.

/// A text in which each `*` stands for anything, nothing included. Case does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard(Vec<String>);

impl Wildcard {
    /// The pattern, if there is a `*` in it.
    pub fn parse(text: &str) -> Option<Self> {
        text.contains('*').then(|| Self(text.to_lowercase().split('*').map(str::to_owned).collect()))
    }

    /// Whether a text is the pattern, from its first letter to its last.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let [first, middle @ .., last] = &self.0[..] else { return false };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            let Some(at) = rest.find(part.as_str()) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, yes) in [
            ("robot-*", "robot-7", true),
            ("robot-*", "my-robot-7", false),
            ("*-7", "robot-7", true),
            ("r*t*7", "robot-7", true),
            ("r*t*8", "robot-7", false),
            ("ROBOT-*", "robot-7", true),
            ("*", "", true),
            ("a*a", "a", false),
            ("ü*", "Über", true),
            ("**", "x", true),
        ] {
            assert_eq!(Wildcard::parse(pattern).unwrap().matches(text), yes, "{pattern} {text}");
        }
        assert_eq!(Wildcard::parse("robot-7"), None);
    }
}
