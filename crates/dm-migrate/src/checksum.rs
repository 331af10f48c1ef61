//! The two checksums of a script.

use sha2::{Digest, Sha384};

/// What tells whether a script is still the one that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksums {
    /// SHA-384 of the file's bytes, hexadecimal: the same that sqlx keeps.
    pub bytes: String,
    /// SHA-384 of the normalised text, hexadecimal: line endings, a byte order mark and blanks at the ends
    /// of lines do not change it.
    pub text: String,
}

impl Checksums {
    /// Of a file's content.
    #[must_use]
    pub fn of(content: &str) -> Self {
        Self { bytes: sha384(content), text: sha384(&normalise(content)) }
    }

    /// Whether a checksum of bytes was taken of this content, whatever its line endings were then.
    #[must_use]
    pub fn is_of(checksum: &str, content: &str) -> bool {
        let unix = content.replace("\r\n", "\n");
        [content.to_owned(), unix.clone(), unix.replace('\n', "\r\n")]
            .iter()
            .any(|text| sha384(text) == checksum)
    }
}

fn sha384(text: &str) -> String {
    hex::encode(Sha384::digest(text))
}

fn normalise(content: &str) -> String {
    let content = content.strip_prefix('\u{FEFF}').unwrap_or(content);
    let mut text: String = content.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_editor_changes_the_bytes_and_not_the_text() {
        let plain = Checksums::of("CREATE TABLE a (b int);\nSELECT 1;\n");
        for same in
            ["\u{FEFF}CREATE TABLE a (b int);\r\nSELECT 1;\r\n", "CREATE TABLE a (b int);  \nSELECT 1;"]
        {
            let other = Checksums::of(same);
            assert_eq!(plain.text, other.text);
            assert_ne!(plain.bytes, other.bytes);
        }
        assert_ne!(plain.text, Checksums::of("CREATE TABLE a (b int);\nSELECT 2;\n").text);
        assert_ne!(plain.text, Checksums::of("CREATE TABLE a (b  int);\nSELECT 1;\n").text);
    }

    #[test]
    fn bytes_are_what_sha384sum_gives() {
        // printf 'SELECT 1;\n' | sha384sum
        let judged = "24454095d8d7876ca8e842f34296ca645c83e0f7b50f048c99db4b2ff4da659267afc4ef3e994f3d74e18c741165d931";
        assert_eq!(Checksums::of("SELECT 1;\n").bytes, judged);
        assert!(Checksums::is_of(&Checksums::of("a\r\nb\r\n").bytes, "a\nb\n"));
        assert!(Checksums::is_of(&Checksums::of("a\nb\n").bytes, "a\r\nb\r\n"));
        assert!(!Checksums::is_of(&Checksums::of("a\nb\n").bytes, "a\nc\n"));
    }
}
