//! Roles and the permission check: verb + resource, default deny, forbid wins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Actor, Error, ErrorKind, Result};

/// What is done: a verb of the field on a kind of thing, written `backup:run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// The capability: `backup`, `restore`, `audit` ...
    pub area: &'static str,
    /// The verb: `run`, `list` ...
    pub verb: &'static str,
    /// Whether it changes anything. An auditor's grants never match a changing action.
    pub writes: bool,
}

impl Action {
    /// An action that only reads.
    #[must_use]
    pub const fn read(area: &'static str, verb: &'static str) -> Self {
        Self { area, verb, writes: false }
    }

    /// An action that changes something.
    #[must_use]
    pub const fn write(area: &'static str, verb: &'static str) -> Self {
        Self { area, verb, writes: true }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.area, self.verb)
    }
}

/// What it is done to: a target, a backup, an engine. `*` is everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resource(pub String);

impl Resource {
    /// The resource that stands for the whole system.
    #[must_use]
    pub fn system() -> Self {
        Self("*".into())
    }
}

impl<S: Into<String>> From<S> for Resource {
    fn from(name: S) -> Self {
        Self(name.into())
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of a role: an action pattern (`backup:*`, `*:list`, `*:*`) on a resource pattern (`*`, `orders`, `shop-*`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `area:verb`, each side may be `*`.
    pub action: String,
    /// A resource name; a trailing `*` matches any rest.
    #[serde(default = "everything")]
    pub resource: String,
    /// A forbidding line; it beats every allowing one.
    #[serde(default)]
    pub forbid: bool,
    /// Matches only actions that change nothing.
    #[serde(default)]
    pub read_only: bool,
}

fn everything() -> String {
    "*".into()
}

/// A named list of grants.
pub type Role = Vec<Grant>;

/// The roles that the system knows, and the check.
#[derive(Clone, Debug)]
pub struct Permissions {
    roles: BTreeMap<String, Role>,
}

impl Default for Permissions {
    /// The built-in roles: `viewer`, `operator`, `dpo`, `auditor`, `admin`.
    fn default() -> Self {
        let allow = |action: &str, read_only| Grant {
            action: action.into(),
            resource: "*".into(),
            forbid: false,
            read_only,
        };
        let mut roles = BTreeMap::new();
        roles.insert(
            "viewer".to_owned(),
            vec![allow("*:status", true), allow("*:list", true), allow("*:show", true)],
        );
        roles.insert(
            "operator".to_owned(),
            vec![
                allow("*:*", true),
                allow("backup:run", false),
                allow("backup:verify", false),
                allow("backup:drill", false),
                allow("backup:pin", false),
                allow("backup:unpin", false),
                allow("backup:hold", false),
                allow("log:ship", false),
                allow("log:push", false),
                allow("maintain:*", false),
                allow("alert:*", false),
            ],
        );
        roles.insert(
            "dpo".to_owned(),
            vec![
                allow("*:*", true),
                allow("gdpr:*", false),
                allow("retention:*", false),
                allow("backup:hold", false),
                allow("backup:release", false),
            ],
        );
        roles.insert("auditor".to_owned(), vec![allow("*:*", true)]);
        roles.insert("admin".to_owned(), vec![allow("*:*", false)]);
        Self { roles }
    }
}

impl Permissions {
    /// The built-in roles and these; a custom role of a built-in name replaces it.
    #[must_use]
    pub fn with_roles(roles: impl IntoIterator<Item = (String, Role)>) -> Self {
        let mut all = Self::default();
        all.roles.extend(roles);
        all
    }

    /// The known roles by name.
    #[must_use]
    pub fn roles(&self) -> &BTreeMap<String, Role> {
        &self.roles
    }

    /// Whether the actor may.
    #[must_use]
    pub fn allows(&self, actor: &Actor, action: Action, resource: &Resource) -> bool {
        let mut allowed = false;
        for grant in actor.roles.iter().filter_map(|r| self.roles.get(r)).flatten() {
            if grant_matches(grant, action, resource) {
                if grant.forbid {
                    return false;
                }
                allowed = true;
            }
        }
        allowed
    }

    /// The check that the pipeline makes before every operation.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`], naming actor, action and resource.
    pub fn check(&self, actor: &Actor, action: Action, resource: &Resource) -> Result<()> {
        if self.allows(actor, action, resource) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, format!("{} may not {action} on {resource}", actor.name))
            .with_hint(format!(
                "grant \"{action}\" to one of the actor's roles ({})",
                actor.roles.join(", ")
            )))
    }
}

fn grant_matches(grant: &Grant, action: Action, resource: &Resource) -> bool {
    if grant.read_only && action.writes {
        return false;
    }
    let (area, verb) = grant.action.split_once(':').unwrap_or((grant.action.as_str(), "*"));
    glob(area, action.area) && glob(verb, action.verb) && glob(&grant.resource, &resource.0)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => pattern == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Action = Action::write("backup", "run");
    const LIST: Action = Action::read("backup", "list");

    fn actor(role: &str) -> Actor {
        Actor::local_user("x").with_roles([role])
    }

    #[test]
    fn default_is_deny_and_forbid_wins() {
        let permissions = Permissions::with_roles([(
            "careful".to_owned(),
            vec![
                Grant { action: "backup:*".into(), resource: "*".into(), forbid: false, read_only: false },
                Grant {
                    action: "backup:run".into(),
                    resource: "prod-*".into(),
                    forbid: true,
                    read_only: false,
                },
            ],
        )]);
        assert!(permissions.check(&actor("nobody"), LIST, &"prod-1".into()).is_err());
        assert!(permissions.allows(&actor("careful"), RUN, &"test-1".into()));
        assert!(!permissions.allows(&actor("careful"), RUN, &"prod-1".into()));
        assert!(permissions.allows(&actor("careful"), LIST, &"prod-1".into()));
    }

    #[test]
    fn an_auditor_never_writes() {
        let permissions = Permissions::default();
        assert!(permissions.allows(&actor("auditor"), LIST, &"a".into()));
        assert!(!permissions.allows(&actor("auditor"), RUN, &"a".into()));
        assert!(permissions.allows(&actor("admin"), RUN, &"a".into()));
        assert!(!permissions.allows(&actor("viewer"), RUN, &"a".into()));
    }
}
