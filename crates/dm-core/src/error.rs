//! The one error at the ports.

use std::error::Error as StdError;
use std::fmt;

use crate::EngineKind;

/// Result of every port.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about a failure. A kind exists only where a caller acts differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request or the configuration is wrong; asking again without a change is pointless.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The thing to be made exists already, or a destination is not empty.
    AlreadyExists,
    /// The other side could not be reached, or the connection was lost.
    Unreachable,
    /// The other side refused: credentials, privileges, or our own access rules.
    Denied,
    /// The engine or store cannot do this; the message names the alternative.
    Unsupported,
    /// Somebody else changed the state that the request relied on (a stale plan, a lost lease).
    Conflict,
    /// Somebody else is using it just now; later is fine.
    Busy,
    /// Stored data is not what was written: a digest, a format or a structure does not hold.
    Corrupt,
    /// Disk, memory or a quota is used up.
    Exhausted,
    /// The caller cancelled.
    Interrupted,
    /// The deadline passed.
    Timeout,
    /// A confirmation is needed and there was nobody to ask.
    ConfirmationNeeded,
    /// A check ran and found problems.
    CheckFailed,
    /// Some parts were done, others were not; the message says which.
    Partial,
    /// A defect of this program or an answer nobody expected.
    Internal,
}

/// Did anything happen? A retry is safe only when this is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing was changed.
    #[default]
    None,
    /// Everything asked for was done, the failure came after.
    Applied,
    /// A part was done.
    Partial,
    /// Nobody knows: for example a connection lost during COMMIT.
    Unknown,
}

/// An opaque error with its kind, its place and its effect.
///
/// `Display` gives one lowercase sentence without the source; binaries print the chain of sources and the
/// [`hint`](Error::hint) — the way out — at the edge.
#[derive(thiserror::Error)]
#[error("{inner}")]
pub struct Error {
    inner: Box<Inner>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

struct Inner {
    kind: ErrorKind,
    effect: Effect,
    message: String,
    operation: Option<&'static str>,
    engine: Option<EngineKind>,
    subject: Option<String>,
    hint: Option<String>,
}

impl Error {
    /// Makes an error of a kind with a message (lowercase, no final stop, no secret).
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let inner = Box::new(Inner {
            kind,
            effect: Effect::None,
            message: message.into(),
            operation: None,
            engine: None,
            subject: None,
            hint: None,
        });
        Self { inner, source: None }
    }

    /// An [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// An [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// An [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// An [`ErrorKind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// An [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// An [`ErrorKind::Interrupted`].
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    /// Says what is known of the effect.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.inner.effect = effect;
        self
    }

    /// Names the operation, for example `"backup run"`. The innermost name is kept.
    #[must_use]
    pub fn in_operation(mut self, operation: &'static str) -> Self {
        self.inner.operation.get_or_insert(operation);
        self
    }

    /// Names the engine. The innermost is kept.
    #[must_use]
    pub fn on_engine(mut self, engine: EngineKind) -> Self {
        self.inner.engine.get_or_insert(engine);
        self
    }

    /// Names what it was about: a table, an object key, a backup. The innermost is kept.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.inner.subject.get_or_insert_with(|| subject.into());
        self
    }

    /// Gives the way out, in words a person can act on.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What is known of the effect.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.inner.effect
    }

    /// The operation, where it was named.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.inner.operation
    }

    /// The engine, where there was one.
    #[must_use]
    pub fn engine(&self) -> Option<EngineKind> {
        self.inner.engine
    }

    /// What it was about.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.inner.subject.as_deref()
    }

    /// The way out.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.inner.hint.as_deref()
    }

    /// The error and its causes in one line, each said once: for records and reports, where nobody walks the sources.
    #[must_use]
    pub fn full_message(&self) -> String {
        let mut text = self.to_string();
        let mut source = StdError::source(self);
        while let Some(cause) = source {
            let said = cause.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            source = cause.source();
        }
        text
    }

    /// Whether the same call may be made again: the failure is of the passing sort and nothing happened.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Unreachable | ErrorKind::Busy | ErrorKind::Timeout)
            && self.inner.effect == Effect::None
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("effect", &self.inner.effect)
            .field("operation", &self.inner.operation)
            .field("engine", &self.inner.engine)
            .field("subject", &self.inner.subject)
            .field("message", &self.inner.message)
            .field("hint", &self.inner.hint)
            .field("source", &self.source)
            .finish()
    }
}
