//! Embeds the files of migrations in a program when it is compiled.
//!
//! A macro of its own kind lists the folder, which `macro_rules!` cannot; it needs nothing but the compiler.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proc_macro::{TokenStream, TokenTree};

/// The files of a folder (relative to the crate's `Cargo.toml`) as `&'static [data_manager::EmbeddedFile]`, in the order of
/// their names: `embed_migrations!("migrations")`.
///
/// An edited file is compiled in anew by itself. For a new one the crate has to be compiled again: put
/// `println!("cargo:rerun-if-changed=migrations");` into its `build.rs`. A file that is not UTF-8 does not compile.
#[proc_macro]
pub fn embed_migrations(input: TokenStream) -> TokenStream {
    let expanded = folder(input).and_then(|folder| list(&folder));
    let text = expanded.unwrap_or_else(|why| format!("::core::compile_error!({why:?})"));
    // Made of quoted literals alone, so it is always a token stream.
    text.parse().unwrap_or_default()
}

fn folder(input: TokenStream) -> Result<PathBuf, String> {
    let wanted = "embed_migrations! takes the name of a folder in quotes: embed_migrations!(\"migrations\")";
    let mut tokens = input.into_iter();
    let (Some(TokenTree::Literal(literal)), None) = (tokens.next(), tokens.next()) else {
        return Err(wanted.into());
    };
    let text = literal.to_string();
    let name = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).filter(|t| !t.contains('\\'));
    let root =
        std::env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set: compile with cargo")?;
    Ok(Path::new(&root).join(name.ok_or(wanted)?))
}

fn list(folder: &Path) -> Result<String, String> {
    let failed = |e: std::io::Error| format!("{} cannot be read: {e}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).map(str::to_owned);
        let (Some(name), Some(path)) = (name, path.to_str().filter(|_| path.is_file())) else { continue };
        if !name.starts_with('.') {
            files.push((name, path.to_owned()));
        }
    }
    files.sort();
    let mut text = String::from("&[");
    for (name, path) in files {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "::data_manager::EmbeddedFile {{ name: {name:?}, content: ::core::include_str!({path:?}) }}, "
        );
    }
    text.push(']');
    Ok(text)
}
