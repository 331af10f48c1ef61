//! What a statement says, in the words that the rules need. Both readers make it, and only they know a parser.

/// A statement and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) offset: usize,
    pub(crate) end: usize,
    /// As it is written, without the semicolon.
    pub(crate) text: String,
    pub(crate) kind: Kind,
    /// Names in it that the server would cut.
    pub(crate) too_long: Vec<String>,
}

impl Statement {
    /// On one line, cut when long.
    pub(crate) fn brief(&self) -> String {
        let line = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(120) {
            Some((at, _)) => format!("{} …", line.get(..at).unwrap_or_default()),
            None => line,
        }
    }
}

/// A text that is no statement.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    pub(crate) offset: usize,
    pub(crate) message: String,
}

/// A file, read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) statements: Vec<Statement>,
    pub(crate) unreadable: Vec<Unreadable>,
}

/// The sorts of statements that rules tell apart. Names are folded as the server does, `public.` is left out.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Begin,
    Commit,
    Rollback,
    Set {
        name: String,
    },
    CreateTable(Table),
    CreateTableAs {
        table: String,
    },
    AlterTable {
        table: String,
        actions: Vec<Action>,
    },
    CreateIndex {
        name: Option<String>,
        table: String,
        columns: Vec<String>,
        concurrently: bool,
        partial: bool,
    },
    DropIndex {
        names: Vec<String>,
        concurrently: bool,
    },
    Reindex {
        target: String,
        is_index: bool,
        concurrently: bool,
    },
    DropTable {
        names: Vec<String>,
    },
    DropView {
        names: Vec<String>,
    },
    Truncate {
        tables: Vec<String>,
        cascade: bool,
    },
    DropDatabase {
        name: String,
    },
    AddEnumValue {
        of: String,
        value: String,
        positioned: bool,
    },
    Update {
        table: String,
        bounded: bool,
    },
    Delete {
        table: String,
        bounded: bool,
    },
    Insert {
        table: String,
    },
    CopyFrom {
        table: String,
    },
    Refresh {
        view: String,
        concurrently: bool,
    },
    Vacuum {
        tables: Vec<String>,
        full: bool,
    },
    Analyze {
        tables: Vec<String>,
    },
    Cluster {
        table: Option<String>,
    },
    Lock {
        tables: Vec<String>,
        mode: crate::LockMode,
    },
    CreateTrigger {
        name: String,
        table: String,
    },
    DropTrigger {
        name: String,
        table: Option<String>,
    },
    CreatePolicy {
        table: String,
    },
    CreateRule {
        table: String,
    },
    CommentOn {
        table: Option<String>,
    },
    AlterIndex {
        index: String,
        action: IndexAction,
    },
    Pragma {
        name: String,
        assigns: bool,
    },
    Other,
}

/// A table as it is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) temporary: bool,
    pub(crate) columns: Vec<Column>,
    pub(crate) constraints: Vec<Constraint>,
    pub(crate) partition_of: Option<String>,
    pub(crate) inherits: Vec<String>,
}

/// A column as it is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// In lower case, with single blanks.
    pub(crate) data_type: String,
    pub(crate) not_null: bool,
    pub(crate) default: Option<ColumnDefault>,
    pub(crate) primary: bool,
    pub(crate) unique: bool,
    pub(crate) check: bool,
    pub(crate) references: Option<String>,
    pub(crate) generated: Option<Generated>,
}

/// A default, and whether it is computed anew for each row.
#[derive(Clone, Debug)]
pub(crate) struct ColumnDefault {
    pub(crate) text: String,
    /// The function that may give each row another value.
    pub(crate) volatile: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generated {
    Stored,
    Virtual,
    Identity,
}

/// A table's constraint.
#[derive(Clone, Debug)]
pub(crate) struct Constraint {
    pub(crate) name: Option<String>,
    pub(crate) not_valid: bool,
    pub(crate) kind: ConstraintKind,
}

#[derive(Clone, Debug)]
pub(crate) enum ConstraintKind {
    ForeignKey {
        columns: Vec<String>,
        references: String,
    },
    /// The column that it keeps from being null, when that is all that it checks.
    Check {
        not_null: Option<String>,
        text: String,
    },
    NotNull {
        column: String,
    },
    Unique {
        columns: Vec<String>,
        using_index: bool,
    },
    PrimaryKey {
        columns: Vec<String>,
        using_index: bool,
    },
    Exclusion,
}

/// One action of an ALTER TABLE.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    AddColumn(Box<Column>),
    AddConstraint(Constraint),
    Validate {
        constraint: String,
    },
    DropColumn {
        column: String,
    },
    DropConstraint {
        constraint: String,
    },
    SetNotNull {
        column: String,
    },
    DropNotNull {
        column: String,
    },
    SetType {
        column: String,
        data_type: String,
        using: bool,
    },
    RenameTable {
        to: String,
    },
    RenameColumn {
        from: String,
        to: String,
    },
    AttachPartition {
        partition: String,
    },
    DetachPartition {
        partition: String,
        concurrently: bool,
    },
    Inherit {
        parent: String,
    },
    /// Anything else, with the lock that it takes.
    Other {
        mode: crate::LockMode,
        rewrites: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexAction {
    Rename,
    Other,
}

/// A name as the rules compare it: `public` is where everybody is.
pub(crate) fn plain(parts: &[String]) -> String {
    match parts {
        [schema, rest @ ..] if schema == "public" && !rest.is_empty() => rest.join("."),
        all => all.join("."),
    }
}
