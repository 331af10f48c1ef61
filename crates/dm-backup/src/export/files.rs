//! Which file each member goes to, under a name that any file system takes.

use std::collections::HashSet;

use dm_core::{Layout, MemberKind, MemberSpec, SourceDescription};

use super::ExportedFile;

/// A file and the members that make it, in order.
#[derive(Clone, Debug)]
pub(super) struct FilePlan {
    pub(super) path: String,
    pub(super) kind: MemberKind,
    pub(super) table: Option<String>,
    pub(super) members: Vec<(MemberSpec, u64)>,
}

impl FilePlan {
    pub(super) fn exported(&self) -> ExportedFile {
        ExportedFile {
            path: self.path.clone(),
            kind: self.kind,
            bytes: self.members.iter().map(|(_, size)| size).sum(),
            table: self.table.clone(),
            members: self.members.iter().map(|(m, _)| m.name.clone()).collect(),
        }
    }
}

/// Whether parts of this member may stand one behind the other: text lines may, a format with a head and a tail not.
pub(super) fn is_text_rows(member: &MemberSpec) -> bool {
    member.kind == MemberKind::Rows
        && member.layout == Layout::Stream
        && member.attributes.get("format").and_then(|f| f.as_str()).is_none_or(|f| f == "text")
}

/// Groups the members into files: the parts of a table together, everything else by itself.
pub(super) fn plan(members: &[(MemberSpec, u64)], source: &SourceDescription) -> Vec<FilePlan> {
    let mut sorted: Vec<&(MemberSpec, u64)> = members.iter().collect();
    sorted.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let files = members.iter().filter(|(m, _)| m.kind == MemberKind::File).count();
    let mut taken = HashSet::from(["manifest.json", "readme.txt", "restore.sql"].map(str::to_owned));
    let mut plans: Vec<FilePlan> = Vec::new();
    for (member, size) in sorted {
        let of_table = member.table.as_ref().filter(|_| is_text_rows(member));
        let same_table = |p: &&mut FilePlan| p.kind == MemberKind::Rows && p.table.as_ref() == of_table;
        if of_table.is_some()
            && let Some(plan) = plans.iter_mut().find(same_table)
        {
            plan.members.push((member.clone(), *size));
            continue;
        }
        let wanted = match (of_table, member.kind) {
            (Some(table), _) => format!("data/{}.copy", safe(table)),
            // A database that is one file gets the name that its owner knows it by.
            (None, MemberKind::File) if files == 1 => format!("{}.{}", safe(&source.database), source.engine),
            (None, MemberKind::Rows) => format!("data/{}", safe(&member.name)),
            (None, _) => safe(&member.name),
        };
        plans.push(FilePlan {
            path: unique(wanted, &mut taken),
            kind: member.kind,
            table: member.table.clone(),
            members: vec![(member.clone(), *size)],
        });
    }
    plans
}

/// Letters, digits, `.`, `-` and `_`; everything else becomes `_`. Never hidden, never longer than a file system takes.
fn safe(name: &str) -> String {
    let mut text: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' })
        .take(120)
        .collect();
    if text.is_empty() || text.starts_with('.') {
        text.insert(0, '_');
    }
    text
}

/// The name itself, or with a number: no two files collide, not even where case does not count.
fn unique(wanted: String, taken: &mut HashSet<String>) -> String {
    let mut name = wanted.clone();
    let mut number = 2;
    while !taken.insert(name.to_ascii_lowercase()) {
        let split = wanted.rfind('.').filter(|i| !wanted[*i..].contains('/')).unwrap_or(wanted.len());
        name = format!("{}-{number}{}", &wanted[..split], &wanted[split..]);
        number += 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_climbs_out_hides_or_collides() {
        assert_eq!(safe("../../etc/passwd"), "_.._.._etc_passwd");
        assert_eq!(safe(".bashrc"), "_.bashrc");
        assert_eq!(safe("public.\"we\"\"ird; DROP\""), "public._we__ird__DROP_");
        let mut taken = HashSet::new();
        assert_eq!(unique("data/A.copy".into(), &mut taken), "data/A.copy");
        assert_eq!(unique("data/a.copy".into(), &mut taken), "data/a-2.copy");
        assert_eq!(unique("data/a.copy".into(), &mut taken), "data/a-3.copy");
    }
}
