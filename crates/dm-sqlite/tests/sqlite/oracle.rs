//! The `sqlite3` program as an independent judge.

use std::path::Path;
use std::process::Command;

/// The program's dump of a database; `None`, loudly, where there is no such program.
pub(crate) fn dump(db: &Path) -> Option<String> {
    let output = match Command::new("sqlite3").arg(db).arg(".dump").output() {
        Ok(output) => output,
        Err(e) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI needs the sqlite3 program: {e}");
            eprintln!("SKIPPED: no comparison with the sqlite3 program: {e}");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asserts that both databases dump to the same text, and that it is not an empty one.
pub(crate) fn assert_same(a: &Path, b: &Path) {
    if let (Some(a), Some(b)) = (dump(a), dump(b)) {
        assert!(a.contains("COMMIT"), "{a}");
        assert_eq!(a, b);
    }
}
