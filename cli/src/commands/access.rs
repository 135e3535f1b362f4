//! Who may do what.

use sockpilot_identity::files::{Existing, Readers};
use sockpilot_identity::name::Role;
use sockpilot_proto::v1::{self, create_token_request::Grant};
use sockpilot_settings::labels::{self, Labels};
use std::collections::HashMap;
use std::time::Duration;

use super::pki::write;
use crate::args::{Access, CreateToken, Format, JoinToken, May};
use crate::client::{self, Client};
use crate::failure::Failure;
use crate::output::{self, print};
use crate::views::access as views;

fn merged(lists: &[Labels]) -> Result<HashMap<String, String>, Failure> {
    Ok(labels::merged(lists.iter().cloned()).map_err(Failure::Input)?.into_iter().collect())
}

fn role(role: Role) -> i32 {
    match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
    }
    .into()
}

fn bound(may: &May) -> Result<Option<v1::Bound>, Failure> {
    let bound = v1::Bound { name_prefix: may.only_names.clone(), node_labels: merged(&may.only_nodes)? };
    Ok((bound != v1::Bound::default()).then_some(bound))
}

fn life(life: Option<Duration>) -> Option<prost_types::Duration> {
    life.and_then(|life| life.try_into().ok())
}

/// Does what is asked for.
pub async fn run(access: &Access, client: &Client, format: Format) -> Result<(), Failure> {
    match access {
        Access::Whoami => {
            let caller = client.call(v1::WhoAmIRequest {}, async |c, q| client::access(c).who_am_i(q).await).await?;
            print(&output::message(format, "Caller", &caller, views::caller))
        }
        Access::CreateToken(CreateToken { name, may, life: asked, to, why }) => {
            let person = v1::PersonGrant { name: name.clone(), role: role(may.role), bound: bound(may)? };
            let reason = why.reason.clone();
            let request = v1::CreateTokenRequest { grant: Some(Grant::Person(person)), life: life(*asked), reason };
            create(client, request, to, format).await
        }
        Access::JoinToken(JoinToken { node, labels, life: asked, to, why }) => {
            let join = v1::JoinGrant { node: node.clone().unwrap_or_default(), labels: merged(labels)? };
            let reason = why.reason.clone();
            let request = v1::CreateTokenRequest { grant: Some(Grant::Join(join)), life: life(*asked), reason };
            create(client, request, to, format).await
        }
        Access::Tokens => {
            let answer = client.tokens().await?;
            print(&output::message(format, "ListTokensResponse", &answer, |a| views::tokens(&a.tokens)))
        }
        Access::RevokeToken { name, why } => {
            let request = v1::RevokeTokenRequest { name: name.clone(), reason: why.reason.clone() };
            client.call(request, async |c, q| client::access(c).revoke_token(q).await).await?;
            print(&format!("{name}: ended\n"))
        }
        Access::SetPerson { name, may, why } => {
            let person = v1::Person { name: format!("people/{name}"), role: role(may.role), bound: bound(may)? };
            let request = v1::UpdatePersonRequest { person: Some(person), reason: why.reason.clone() };
            let person = client.call(request, async |c, q| client::access(c).update_person(q).await).await?;
            print(&output::message(format, "Person", &person, |person| views::people(std::slice::from_ref(person))))
        }
        Access::UnsetPerson { name, why } => {
            let request = v1::DeletePersonRequest { name: format!("people/{name}"), reason: why.reason.clone() };
            client.call(request, async |c, q| client::access(c).delete_person(q).await).await?;
            print(&format!("people/{name}: nothing is said any more\n"))
        }
        Access::People => {
            let answer = client.people().await?;
            print(&output::message(format, "ListPeopleResponse", &answer, |a| views::people(&a.people)))
        }
        Access::Revoke { name, why } => {
            let request = v1::RevokeRequest { name: name.clone(), reason: why.reason.clone() };
            let done = client.call(request, async |c, q| client::access(c).revoke(q).await).await?;
            print(&output::message(format, "Revocation", &done, |done| views::revocations(std::slice::from_ref(done))))
        }
        Access::Admit { name, why } => {
            let request = v1::AdmitRequest { name: name.clone(), reason: why.reason.clone() };
            let done = client.call(request, async |c, q| client::access(c).admit(q).await).await?;
            print(&output::message(format, "Revocation", &done, |done| views::revocations(std::slice::from_ref(done))))
        }
        Access::Revocations => {
            let answer = client.revocations().await?;
            print(&output::message(format, "ListRevocationsResponse", &answer, |a| views::revocations(&a.revocations)))
        }
        Access::Pin { node, labels, why } => {
            let (labels, reason) = (merged(labels)?, why.reason.clone());
            let request = v1::PinLabelsRequest { node: node.clone(), labels, reason };
            let pinned = client.call(request, async |c, q| client::access(c).pin_labels(q).await).await?;
            print(&output::message(format, "PinnedLabels", &pinned, views::pinned))
        }
    }
}

/// The token goes to a file only: what is printed stays in terminals and logs.
async fn create(
    client: &Client,
    request: v1::CreateTokenRequest,
    to: &std::path::Path,
    format: Format,
) -> Result<(), Failure> {
    if to.exists() {
        return Err(Failure::Input(format!("{} is there already; name a new file", to.display())));
    }
    let answer = client.call(request, async |c, q| client::access(c).create_token(q).await).await?;
    write(to, &format!("{}\n", answer.secret), Readers::Owner, Existing::Kept)?;
    let token = answer.token.unwrap_or_default();
    print(&output::message(format, "Token", &token, |token| views::tokens(std::slice::from_ref(token))))
}
