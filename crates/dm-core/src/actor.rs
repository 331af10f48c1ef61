//! Who acts.

use serde::{Deserialize, Serialize};

/// Who asked for an operation, as it will stand in the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// `user:alice`, `schedule:nightly`, `service:billing`.
    pub name: String,
    /// The roles the actor holds.
    pub roles: Vec<String>,
}

impl Actor {
    /// A person at this machine. Holds the role `admin` unless the configuration says otherwise.
    pub fn local_user(name: impl AsRef<str>) -> Self {
        Self { name: format!("user:{}", name.as_ref()), roles: vec!["admin".into()] }
    }

    /// The program that embeds the library.
    pub fn service(name: impl AsRef<str>) -> Self {
        Self { name: format!("service:{}", name.as_ref()), roles: vec!["admin".into()] }
    }

    /// The same with these roles instead.
    #[must_use]
    pub fn with_roles<I: IntoIterator<Item = S>, S: Into<String>>(mut self, roles: I) -> Self {
        self.roles = roles.into_iter().map(Into::into).collect();
        self
    }
}
