//! What rules want to know of expressions.

use squawk_syntax::SyntaxNode;
use squawk_syntax::ast::{self, AstNode, BinOp};

use super::{has_word, squeezed};

/// Functions that give one value for the whole statement, or the same for the same arguments: a default made of these is
/// computed once, and no row is written. Anything else is taken to be volatile, as the server's own catalog may say of it.
const STEADY: &[&str] = &[
    "abs",
    "array_append",
    "array_cat",
    "array_fill",
    "cardinality",
    "ceil",
    "chr",
    "coalesce",
    "concat",
    "concat_ws",
    "current_database",
    "current_date",
    "current_schema",
    "current_setting",
    "current_timestamp",
    "current_user",
    "date_part",
    "date_trunc",
    "decode",
    "digest",
    "encode",
    "floor",
    "format",
    "greatest",
    "hstore",
    "int4range",
    "int8range",
    "json_build_array",
    "json_build_object",
    "jsonb_build_array",
    "jsonb_build_object",
    "least",
    "left",
    "length",
    "lower",
    "lpad",
    "make_date",
    "make_interval",
    "make_time",
    "make_timestamp",
    "make_timestamptz",
    "md5",
    "now",
    "nullif",
    "numrange",
    "point",
    "repeat",
    "replace",
    "right",
    "round",
    "row",
    "rpad",
    "session_user",
    "sha256",
    "statement_timestamp",
    "substr",
    "substring",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "to_tsvector",
    "transaction_timestamp",
    "trim",
    "trunc",
    "tsrange",
    "tstzrange",
    "upper",
];

/// The function in an expression that gives each row another value.
pub(super) fn volatile(expression: &SyntaxNode) -> Option<String> {
    expression.descendants().filter_map(ast::CallExpr::cast).find_map(|call| {
        let called = squeezed(call.expr()?.syntax());
        let bare = called.rsplit('.').next().unwrap_or_default().trim_matches('"');
        (!STEADY.contains(&bare)).then_some(called)
    })
}

/// Whether a condition picks a bounded number of rows: a range, a LIMIT, or a key.
pub(super) fn is_bounded(condition: Option<SyntaxNode>) -> bool {
    let Some(condition) = condition else { return false };
    has_word(&condition, "limit")
        || has_word(&condition, "between")
        || has_word(&condition, "current")
        || condition.descendants().filter_map(ast::BinExpr::cast).any(|e| bounds(&e))
}

fn bounds(expression: &ast::BinExpr) -> bool {
    let (Some(left), Some(right)) = (expression.lhs(), expression.rhs()) else { return false };
    match expression.op() {
        Some(BinOp::LAngle(_) | BinOp::Lteq(_) | BinOp::RAngle(_) | BinOp::Gteq(_)) => true,
        Some(BinOp::Eq(_)) => {
            [&left, &right].into_iter().any(is_key) && ![&left, &right].into_iter().all(is_column)
        }
        Some(BinOp::In(_)) => {
            is_key(&left) && matches!(right, ast::Expr::TupleExpr(_) | ast::Expr::ParenExpr(_))
        }
        _ => false,
    }
}

fn is_column(expression: &ast::Expr) -> bool {
    matches!(expression, ast::Expr::NameRef(_) | ast::Expr::FieldExpr(_))
}

/// A column that names one row, or a few.
fn is_key(expression: &ast::Expr) -> bool {
    let name = squeezed(expression.syntax());
    let bare = name.rsplit('.').next().unwrap_or_default();
    is_column(expression)
        && (matches!(bare, "id" | "key" | "code" | "name" | "slug" | "uuid" | "email")
            || bare.ends_with("_id"))
}

/// The column that `CHECK (column IS NOT NULL)` keeps from being null.
pub(super) fn kept_from_null(check: &SyntaxNode) -> Option<String> {
    let text = squeezed(check);
    let mut inner = text.as_str();
    while let Some(stripped) = inner.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
        inner = stripped.trim();
    }
    let column = inner
        .strip_suffix(" is not null")
        .or_else(|| inner.strip_suffix(" notnull"))?
        .trim()
        .trim_matches('"');
    (!column.is_empty() && column.chars().all(|c| c.is_alphanumeric() || c == '_')).then(|| column.to_owned())
}
