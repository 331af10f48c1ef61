//! The reader of PostgreSQL's SQL, over `squawk-syntax`.
//!
//! Why that parser: see ARCHITECTURE.md. It accepts a little more than the server does, and never less; what it lets
//! pass, the shadow database refuses.

mod expressions;
mod tables;

use std::collections::BTreeSet;

use squawk_syntax::ast::{self, AstNode, Stmt};
use squawk_syntax::{SourceFile, SyntaxKind, SyntaxNode};

use crate::LockMode;
use crate::model::{IndexAction, Kind, Script, Statement, Unreadable, plain};

/// The server's NAMEDATALEN, less the closing zero.
pub(crate) const LONGEST_NAME: usize = 63;

/// Reads a text.
pub(crate) fn read(text: &str) -> Script {
    let parse = SourceFile::parse(text);
    let unreadable = parse
        .errors()
        .iter()
        .map(|e| Unreadable { offset: e.range().start().into(), message: lower_first(e.message()) })
        .collect();
    let statements = parse
        .tree()
        .stmts()
        .filter(|stmt| !matches!(stmt, Stmt::EmptyStmt(_)))
        .map(|stmt| statement(&stmt))
        .collect();
    Script { statements, unreadable }
}

/// The tables and views that a text names; `None` when it cannot be read, or runs code that is a string.
pub(crate) fn relations(text: &str) -> Option<BTreeSet<String>> {
    let parse = SourceFile::parse(text);
    if !parse.errors().is_empty() || parse.tree().stmts().any(|s| matches!(s, Stmt::Do(_) | Stmt::Call(_))) {
        return None;
    }
    let names = parse.tree().syntax().descendants().filter_map(|node| match node.kind() {
        SyntaxKind::RELATION_NAME_REF | SyntaxKind::TABLE_NAME_REF | SyntaxKind::VIEW_REF => {
            Some(plain(&parts(&node)))
        }
        _ => None,
    });
    Some(names.collect())
}

fn lower_first(message: &str) -> String {
    let mut characters = message.chars();
    characters.next().map_or_else(String::new, |c| c.to_lowercase().chain(characters).collect())
}

fn statement(stmt: &Stmt) -> Statement {
    let node = stmt.syntax();
    // The node may begin with the comments before it.
    let first = tokens(node).next().map_or_else(|| node.text_range().start(), |t| t.text_range().start());
    let range = node.text_range();
    let text = node.text().slice(first - range.start()..).to_string();
    let too_long = tokens(node)
        .filter(|t| t.kind() == SyntaxKind::IDENT)
        .map(|t| folded(t.text()))
        .filter(|name| name.len() > LONGEST_NAME)
        .collect();
    Statement {
        offset: first.into(),
        end: range.end().into(),
        text: text.trim_end().trim_end_matches(';').trim_end().to_owned(),
        kind: kind(stmt),
        too_long,
    }
}

fn kind(stmt: &Stmt) -> Kind {
    match stmt {
        Stmt::Begin(_) => Kind::Begin,
        Stmt::Commit(ast::Commit::CommitTransaction(_)) => Kind::Commit,
        Stmt::Rollback(ast::Rollback::RollbackTransaction(_)) => Kind::Rollback,
        Stmt::Set(set) => set_kind(set),
        Stmt::CreateTable(create) => Kind::CreateTable(tables::created(create)),
        Stmt::CreateTableAs(create) => Kind::CreateTableAs { table: name(create.table_name()) },
        Stmt::AlterTable(alter) => Kind::AlterTable {
            table: name(alter.table_relation_name().and_then(|r| r.table_name_ref())),
            actions: alter.actions().map(|a| tables::action(&a)).collect(),
        },
        Stmt::CreateIndex(create) => Kind::CreateIndex {
            name: create.index().map(|i| name(Some(i))),
            table: name(create.table_relation_name().and_then(|r| r.table_name_ref())),
            columns: create
                .partition_item_list()
                .map(|list| {
                    list.partition_items().filter_map(|i| i.expr()).map(|e| squeezed(e.syntax())).collect()
                })
                .unwrap_or_default(),
            concurrently: create.concurrently_token().is_some(),
            partial: create.where_clause().is_some(),
        },
        Stmt::DropIndex(drop) => Kind::DropIndex {
            names: names(drop.index_refs()),
            concurrently: drop.concurrently_token().is_some(),
        },
        Stmt::Reindex(reindex) => reindex_kind(reindex),
        Stmt::DropTable(drop) => Kind::DropTable { names: names(drop.table_name_refs()) },
        Stmt::DropView(drop) => Kind::DropView { names: names(drop.view_refs()) },
        Stmt::Truncate(truncate) => Kind::Truncate {
            tables: truncate
                .table_list()
                .map(|list| names(list.table_relation_names().filter_map(|r| r.table_name_ref())))
                .unwrap_or_default(),
            cascade: matches!(truncate.drop_behavior(), Some(ast::DropBehavior::Cascade(_))),
        },
        Stmt::DropDatabase(drop) => Kind::DropDatabase { name: name(drop.database_ref()) },
        Stmt::AlterType(alter) => match alter.action() {
            Some(ast::AlterTypeAction::AddValue(value)) => Kind::AddEnumValue {
                of: name(alter.type_name_ref()),
                value: value.literal().map(|l| squeezed(l.syntax())).unwrap_or_default(),
                positioned: value.value_position().is_some(),
            },
            _ => Kind::Other,
        },
        _ => rows_kind(stmt),
    }
}

/// Statements on rows, and what is left.
fn rows_kind(stmt: &Stmt) -> Kind {
    match stmt {
        Stmt::Update(update) => Kind::Update {
            table: relation(update.relation_name()),
            bounded: expressions::is_bounded(update.where_clause_or_current_of().map(|w| w.syntax().clone())),
        },
        Stmt::Delete(delete) => Kind::Delete {
            table: relation(delete.relation_name()),
            bounded: expressions::is_bounded(delete.where_clause_or_current_of().map(|w| w.syntax().clone())),
        },
        Stmt::Insert(insert) => Kind::Insert { table: name(insert.relation_name_ref()) },
        Stmt::Copy(copy) if matches!(copy.copy_direction(), Some(ast::CopyDirection::CopyFrom(_))) => {
            Kind::CopyFrom { table: name(copy.copy_table().and_then(|t| t.table_name_ref())) }
        }
        Stmt::Refresh(refresh) => Kind::Refresh {
            view: name(refresh.view_ref()),
            concurrently: refresh.concurrently_token().is_some(),
        },
        Stmt::Vacuum(vacuum) => Kind::Vacuum {
            tables: vacuum.table_and_columns_list().map(|list| vacuumed(list.syntax())).unwrap_or_default(),
            full: vacuum.full_token().is_some()
                || vacuum.vacuum_option_list().is_some_and(|o| has_word(o.syntax(), "full")),
        },
        Stmt::Analyze(analyze) => Kind::Analyze { tables: vacuumed(analyze.syntax()) },
        Stmt::Cluster(cluster) => Kind::Cluster { table: cluster.table_name_ref().map(|t| name(Some(t))) },
        Stmt::Lock(lock) => Kind::Lock {
            tables: lock
                .relation_list()
                .map(|list| list.relation_names().map(|r| relation(Some(r))).collect())
                .unwrap_or_default(),
            mode: lock
                .lock_mode_clause()
                .and_then(|c| c.lock_mode())
                .map_or(LockMode::AccessExclusive, lock_mode),
        },
        Stmt::CreateTrigger(create) => Kind::CreateTrigger {
            name: name(create.trigger()),
            table: name(create.on_relation().and_then(|o| o.relation_name_ref())),
        },
        Stmt::DropTrigger(drop) => Kind::DropTrigger {
            name: name(drop.trigger_ref()),
            table: drop.on_relation().and_then(|o| o.relation_name_ref()).map(|r| name(Some(r))),
        },
        Stmt::CreatePolicy(create) => {
            Kind::CreatePolicy { table: name(create.on_table().and_then(|o| o.table_name_ref())) }
        }
        Stmt::CreateRule(create) => {
            Kind::CreateRule { table: first_name(create.syntax(), SyntaxKind::RULE_ON) }
        }
        Stmt::CommentOn(comment) => {
            Kind::CommentOn { table: comment.comment_object().and_then(|o| commented(o.syntax())) }
        }
        Stmt::AlterIndex(alter) => Kind::AlterIndex {
            index: name(alter.index_ref()),
            action: match alter.action().is_some_and(|a| has_word(a.syntax(), "rename")) {
                true => IndexAction::Rename,
                false => IndexAction::Other,
            },
        },
        _ => Kind::Other,
    }
}

fn set_kind(set: &ast::Set) -> Kind {
    match set.set_target() {
        Some(ast::SetTarget::SetConfig(config)) => Kind::Set { name: name(config.config_parameter_ref()) },
        _ => Kind::Other,
    }
}

fn reindex_kind(reindex: &ast::Reindex) -> Kind {
    let by_option = reindex.reindex_option_list().is_some_and(|o| has_word(o.syntax(), "concurrently"));
    match reindex.reindex_target() {
        Some(ast::ReindexTarget::ReindexTargetTable(t)) => Kind::Reindex {
            target: name(t.table_name_ref()),
            is_index: false,
            concurrently: by_option || t.concurrently_token().is_some(),
        },
        Some(ast::ReindexTarget::ReindexTargetIndex(t)) => Kind::Reindex {
            target: name(t.index_ref()),
            is_index: true,
            concurrently: by_option || t.concurrently_token().is_some(),
        },
        Some(other) => Kind::Reindex {
            target: String::new(),
            is_index: false,
            concurrently: by_option || has_word(other.syntax(), "concurrently"),
        },
        None => Kind::Other,
    }
}

fn lock_mode(mode: ast::LockMode) -> LockMode {
    match mode {
        ast::LockMode::AccessShare(_) => LockMode::AccessShare,
        ast::LockMode::RowShare(_) => LockMode::RowShare,
        ast::LockMode::RowExclusive(_) => LockMode::RowExclusive,
        ast::LockMode::ShareUpdateExclusive(_) => LockMode::ShareUpdateExclusive,
        ast::LockMode::Share(_) => LockMode::Share,
        ast::LockMode::ShareRowExclusive(_) => LockMode::ShareRowExclusive,
        ast::LockMode::Exclusive(_) => LockMode::Exclusive,
        ast::LockMode::AccessExclusive(_) => LockMode::AccessExclusive,
    }
}

/// The tables of VACUUM, ANALYZE and their kin.
fn vacuumed(node: &SyntaxNode) -> Vec<String> {
    node.descendants().filter_map(ast::TableNameRef::cast).map(|t| name(Some(t))).collect()
}

/// The table that a comment is on, when it is on a table or one of its columns.
fn commented(object: &SyntaxNode) -> Option<String> {
    let first = tokens(object).next()?.text().to_lowercase();
    let mut parts = parts(object);
    match first.as_str() {
        "table" => {}
        "column" => drop(parts.pop()),
        _ => return None,
    }
    Some(plain(&parts))
}

fn relation(relation: Option<ast::RelationName>) -> String {
    name(relation.and_then(|r| r.relation_name_ref()))
}

fn names<N: AstNode>(nodes: impl Iterator<Item = N>) -> Vec<String> {
    nodes.map(|n| name(Some(n))).collect()
}

/// The name that a node is.
fn name<N: AstNode>(node: Option<N>) -> String {
    node.map(|n| plain(&parts(n.syntax()))).unwrap_or_default()
}

/// The first name within the first child of a kind.
fn first_name(node: &SyntaxNode, of: SyntaxKind) -> String {
    node.descendants()
        .find(|n| n.kind() == of)
        .and_then(|n| n.descendants().find(|n| n.kind() == SyntaxKind::PATH_REF))
        .map(|n| plain(&parts(&n)))
        .unwrap_or_default()
}

/// The words of a node, without blanks and comments.
fn tokens(node: &SyntaxNode) -> impl Iterator<Item = squawk_syntax::SyntaxToken> {
    node.descendants_with_tokens()
        .filter_map(squawk_syntax::SyntaxElement::into_token)
        .filter(|t| !matches!(t.kind(), SyntaxKind::WHITESPACE | SyntaxKind::COMMENT))
}

fn has_word(node: &SyntaxNode, word: &str) -> bool {
    tokens(node).any(|t| t.text().eq_ignore_ascii_case(word))
}

/// The parts of a qualified name: the identifiers around its last run of dots.
fn parts(node: &SyntaxNode) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut joins = false;
    for token in tokens(node) {
        if token.kind() == SyntaxKind::DOT {
            joins = true;
        } else {
            if !std::mem::take(&mut joins) {
                parts.clear();
            }
            parts.push(folded(token.text()));
        }
    }
    parts
}

/// An identifier as the server reads it.
fn folded(text: &str) -> String {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_lowercase(),
    }
}

/// A node's text in lower case with single blanks; strings and quoted names are not told apart.
fn squeezed(node: &SyntaxNode) -> String {
    node.text().to_string().split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}
