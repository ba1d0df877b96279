//! Who may connect to a cluster and what each may do: allow-lists made from what the services declare.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_core::fault::{Code, Effect, Fault, Reason};
use mesh_core::policy::compile::{self, Declaration, Permissions};
use mesh_core::subject::{self, KEEPER, Name};

use super::keys::key_of;
use crate::engine::{AllowResponses, UserEntry};

/// The user of a person at the command line.
pub const OPERATOR: &str = "operator";

/// The user of `mesh` itself, which makes streams and consumers.
pub const MAKER: &str = "mesh";

/// How long after a call its answer may be given. A call's own deadline is far nearer.
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// The users of a cluster.
#[derive(Debug)]
pub(super) struct Users {
    /// For the server.
    pub(super) entries: Vec<UserEntry>,
    /// Where each one's seed lies, by its name.
    pub(super) seeds: BTreeMap<String, PathBuf>,
}

/// A user for each service, one for the operator, one for the keeper and one for `mesh` itself. Seeds lie in `folder`.
pub(super) fn users(declarations: &[Declaration], region: &Name, folder: &Path) -> Result<Users, Fault> {
    let mut users = Users { entries: Vec::new(), seeds: BTreeMap::new() };
    for declaration in declarations {
        let service = declaration.service.as_str();
        if [OPERATOR, MAKER, KEEPER].contains(&service) {
            let message = format!(
                "the mesh file has a service {service:?}, which is the name of a user of mesh itself; name it otherwise"
            );
            return Err(Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidFile, message));
        }
        users.add(service, compile::compile(declaration, region), folder)?;
    }
    users.add(OPERATOR, compile::operator(&name(OPERATOR)?), folder)?;
    users.add(MAKER, maker(&name(MAKER)?), folder)?;
    users.add(KEEPER, compile::keeper(&name(KEEPER)?, region), folder)?;
    Ok(users)
}

impl Users {
    fn add(&mut self, user: &str, permissions: Permissions, folder: &Path) -> Result<(), Fault> {
        let key = key_of(folder, user)?;
        self.entries.push(UserEntry {
            nkey_public: key.public,
            publish_allow: permissions.publish,
            subscribe_allow: permissions.subscribe,
            allow_responses: permissions.may_answer.then_some(AllowResponses { max: 1, expires: ANSWER_TIME }),
        });
        self.seeds.insert(user.to_owned(), key.seed_file);
        Ok(())
    }
}

/// The allow-list of `mesh` itself: it makes and looks at streams and consumers, and reads or sends no message.
fn maker(name: &Name) -> Permissions {
    let inbox = format!("{}.>", subject::inbox_prefix(name));
    let publish = [
        inbox.as_str(),
        "$JS.API.INFO",
        "$JS.API.STREAM.CREATE.*",
        "$JS.API.STREAM.UPDATE.*",
        "$JS.API.STREAM.INFO.*",
        "$JS.API.CONSUMER.CREATE.>",
        "$JS.API.CONSUMER.DURABLE.CREATE.>",
        "$JS.API.CONSUMER.INFO.>",
        "$JS.API.CONSUMER.NAMES.*",
        "$JS.API.CONSUMER.PAUSE.>",
        "$JS.API.CONSUMER.RESET.>",
    ];
    Permissions { publish: publish.map(str::to_owned).into(), subscribe: vec![inbox.clone()], may_answer: false }
}

fn name(text: &str) -> Result<Name, Fault> {
    text.parse().map_err(|error| Fault::invalid(format!("the user's name: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_an_allow_list_and_nobody_may_do_everything() {
        let folder = tempfile::tempdir().unwrap();
        let declarations = [Declaration::new("orders".parse().unwrap())];
        let users = users(&declarations, &"local".parse().unwrap(), folder.path()).unwrap();
        assert_eq!(users.seeds.keys().collect::<Vec<_>>(), ["keeper", "mesh", "operator", "orders"]);
        for entry in &users.entries {
            assert!(!entry.publish_allow.is_empty() && !entry.subscribe_allow.is_empty());
            assert!(entry.publish_allow.iter().chain(&entry.subscribe_allow).all(|subject| subject != ">"));
        }
    }

    #[test]
    fn a_service_can_not_take_the_operators_name() {
        let folder = tempfile::tempdir().unwrap();
        let declarations = [Declaration::new("operator".parse().unwrap())];
        assert!(users(&declarations, &"local".parse().unwrap(), folder.path()).is_err());
    }
}
