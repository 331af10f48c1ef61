//! What a program takes of the machine: its own priority, and that of what it starts.

use crate::place::Place;

/// What `/proc/<pid>/stat` says of a process's or thread's niceness: the 19th field, the 17th behind the name.
fn niceness(stat: &str) -> i32 {
    stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()
}

#[test]
fn backups_give_way_unless_told_otherwise() {
    let seen = |settings: &str, flags: &[&str]| -> Vec<i32> {
        let hook = "[backup.hook.look]\nwhen = \"during\"\ncommand = \"cat /proc/$PPID/task/*/stat > seen 2>/dev/null || true\"\n";
        let place = Place::sqlite(&format!("{hook}{settings}"));
        place.succeeds(&["query", "--write", "CREATE TABLE t (x)"]);
        place.succeeds(&[&["backup", "run"], flags].concat());
        let seen = std::fs::read_to_string(place.path("seen")).unwrap();
        seen.lines().map(niceness).collect()
    };
    let own = niceness(&std::fs::read_to_string("/proc/self/stat").unwrap());
    let (low, normal) = (own.max(10), own);
    for (settings, flags, expected) in [
        ("", &[][..], low),
        ("", &["--priority", "normal"], normal),
        ("[backup]\npriority = \"normal\"\n", &[], normal),
        ("[backup]\npriority = \"normal\"\n", &["--priority", "low"], low),
    ] {
        let seen = seen(settings, flags);
        assert!(seen.len() > 1 && seen.iter().all(|n| *n == expected), "{settings}{flags:?}: {seen:?}");
    }
}
