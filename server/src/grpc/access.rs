//! `AccessService`.

use std::time::Duration;

use sockpilot_identity::name::{self, Role};
use sockpilot_policy::{fault::Collector, model::Labels, validate};
use sockpilot_proto::v1::{self, create_token_request::Grant};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Api,
    call::Call,
    convert::access::{bound_to_proto, person_to_proto, revocation_to_proto, role_to_proto, token_to_proto},
    error::{invalid, of_store},
    paging::Page,
};
use crate::{
    auth::{
        caller::{Bound, Caller, Person},
        token,
    },
    change::{access::AccessChange, names},
    store::access::{self, NewToken},
};

const LIFE_MIN: Duration = Duration::from_secs(60);
const LIFE_MAX: Duration = Duration::from_secs(366 * 86_400);
const PERSON_LIFE: Duration = Duration::from_secs(90 * 86_400);
const JOIN_LIFE: Duration = Duration::from_secs(3_600);
const PREFIX_BYTES_MAX: usize = 63;

fn role(number: i32, faults: &mut Collector) -> Role {
    match v1::Role::try_from(number) {
        Ok(v1::Role::Viewer) => Role::Viewer,
        Ok(v1::Role::Operator) => Role::Operator,
        Ok(v1::Role::Admin) => Role::Admin,
        Ok(v1::Role::Unspecified) | Err(_) => {
            faults.add_at("role", "is missing; write ROLE_VIEWER, ROLE_OPERATOR or ROLE_ADMIN");
            Role::Viewer
        }
    }
}

fn bound(bound: Option<v1::Bound>, role: Role, faults: &mut Collector) -> Bound {
    let v1::Bound { name_prefix, node_labels } = bound.unwrap_or_default();
    let node_labels: Labels = node_labels.into_iter().collect();
    faults.field("bound.node_labels", |faults| validate::labels(&node_labels, faults));
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name_prefix.len() > PREFIX_BYTES_MAX || !name_prefix.chars().all(sound) {
        faults.add_at("bound.name_prefix", "is no beginning of a name; use a-z, 0-9 and '-'");
    }
    let bound = Bound { name_prefix, node_labels };
    if role != Role::Operator && !bound.is_none() {
        faults.add_at("bound", "is of operators only; leave it out");
    }
    bound
}

/// `nodes/{node}` or `people/{name}`.
fn somebody(text: &str, faults: &mut Collector) {
    let fault = match text.split_once('/') {
        Some(("nodes", id)) => validate::node_id(id).err(),
        Some(("people", person)) => name::person(person).err(),
        _ => Some(format!("\"{}\" is nobody; write nodes/NODE or people/NAME", validate::shown(text))),
    };
    if let Some(fault) = fault {
        faults.add_at("name", fault);
    }
}

fn person_name(text: &str, faults: &mut Collector) -> String {
    let read = text.strip_prefix("people/").ok_or_else(|| "is no person; write people/NAME".to_owned());
    match read.and_then(name::person) {
        Ok(name) => name,
        Err(fault) => {
            faults.add_at("name", fault);
            String::new()
        }
    }
}

fn token_id(text: &str) -> Option<Uuid> {
    text.strip_prefix("tokens/")?.parse().ok()
}

fn life(life: Option<prost_types::Duration>, default: Duration, faults: &mut Collector) -> Duration {
    let Some(life) = life else { return default };
    match Duration::try_from(life) {
        Ok(life) if (LIFE_MIN..=LIFE_MAX).contains(&life) => life,
        _ => {
            faults.add_at("life", "is no life of a token; write 60s to 31622400s");
            default
        }
    }
}

fn new_token(request: v1::CreateTokenRequest, text: &str, faults: &mut Collector) -> (Option<NewToken>, String) {
    let v1::CreateTokenRequest { grant, life: asked, reason } = request;
    let new = |role, holder, bound, labels, life| {
        Some(NewToken { id: Uuid::now_v7(), hash: token::hash(text), role, holder, bound, labels, life })
    };
    let token = match grant {
        None => {
            faults.add_at("person", "is missing; say person or join");
            None
        }
        Some(Grant::Person(v1::PersonGrant { name: holder, role: number, bound: asked_bound })) => {
            let life = life(asked, PERSON_LIFE, faults);
            faults.field("person", |faults| {
                faults.field("name", |faults| faults.take(name::person(&holder)));
                let role = role(number, faults);
                let bound = bound(asked_bound, role, faults);
                new(Some(role), holder, bound, Labels::new(), life)
            })
        }
        Some(Grant::Join(v1::JoinGrant { node, labels })) => {
            let life = life(asked, JOIN_LIFE, faults);
            let labels: Labels = labels.into_iter().collect();
            faults.field("join", |faults| {
                let id = faults.field("node", |faults| faults.take(names::node(&node))).unwrap_or_default();
                faults.field("labels", |faults| validate::labels(&labels, faults));
                for (key, value) in &labels {
                    if let Err(fault) = name::pinnable(key, value) {
                        faults.add_at("labels", fault);
                    }
                }
                new(None, id, Bound::default(), labels, life)
            })
        }
    };
    (token, reason)
}

#[tonic::async_trait]
impl v1::access_service_server::AccessService for Api {
    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::Caller>, Status> {
        let caller = request.extensions().get::<Caller>();
        let v1::WhoAmIRequest {} = request.get_ref();
        Ok(Response::new(match caller {
            Some(Caller::Person(Person { actor, role, bound, proof: _ })) => {
                v1::Caller { actor: actor.clone(), role: role_to_proto(*role).into(), bound: bound_to_proto(bound) }
            }
            // Without TLS everyone may do everything.
            _ => v1::Caller { actor: String::new(), role: v1::Role::Admin.into(), bound: None },
        }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let (call, message) = Call::begin("CreateToken", request)?;
        let mut faults = Collector::at("");
        let secret = token::of_random(rand::random());
        let (new, reason) = new_token(message, &secret, &mut faults);
        let id = new.as_ref().map(|new| new.id);
        let change = new.map(AccessChange::CreateToken);
        let row = call.finish_access(self, change, reason, faults, move |conn| Box::pin(access::token(conn, id)));
        let token = row.await?.map(token_to_proto);
        Ok(Response::new(v1::CreateTokenResponse { token, secret }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let v1::ListTokensRequest { page_size, page_token } = request.into_inner();
        let mut faults = Collector::at("");
        let page = Page::read(page_size, &page_token, &["tokens"], |key| key.parse::<Uuid>().is_ok(), &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (before, limit) = (page.after.as_deref().and_then(|key| key.parse().ok()), page.limit());
        let read = self.store.read("list tokens", |conn| Box::pin(access::tokens(conn, before, limit)));
        let (rows, next_page_token) = page.finish(read.await.map_err(of_store)?, |row| row.token_id.to_string());
        let tokens = rows.into_iter().map(token_to_proto).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Result<Response<()>, Status> {
        let (call, v1::RevokeTokenRequest { name, reason }) = Call::begin("RevokeToken", request)?;
        let mut faults = Collector::at("");
        let id = token_id(&name);
        if id.is_none() {
            faults.add_at("name", "is no token; write tokens/ID, as ListTokens has it");
        }
        let change = id.map(|id| AccessChange::RevokeToken { id });
        call.finish_access(self, change, reason, faults, |_| Box::pin(async { Ok(()) })).await.map(Response::new)
    }

    async fn update_person(&self, request: Request<v1::UpdatePersonRequest>) -> Result<Response<v1::Person>, Status> {
        let (call, v1::UpdatePersonRequest { person, reason }) = Call::begin("UpdatePerson", request)?;
        let mut faults = Collector::at("");
        let v1::Person { name, role: number, bound: asked } = person.unwrap_or_default();
        let (name, role, bound) = faults.field("person", |faults| {
            let name = person_name(&name, faults);
            let role = role(number, faults);
            (name, role, bound(asked, role, faults))
        });
        let answer = person_to_proto(&name, role, &bound);
        let change = Some(AccessChange::UpdatePerson { name, role, bound });
        call.finish_access(self, change, reason, faults, |_| Box::pin(async { Ok(()) })).await?;
        Ok(Response::new(answer))
    }

    async fn list_people(
        &self,
        request: Request<v1::ListPeopleRequest>,
    ) -> Result<Response<v1::ListPeopleResponse>, Status> {
        let v1::ListPeopleRequest { page_size, page_token } = request.into_inner();
        let mut faults = Collector::at("");
        let page = Page::read(page_size, &page_token, &["people"], |key| name::person(key).is_ok(), &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (after, limit) = (page.after.clone().unwrap_or_default(), page.limit());
        let read =
            self.store.read("list people", |conn| Box::pin(async move { access::people(conn, &after, limit).await }));
        let (rows, next_page_token) = page.finish(read.await.map_err(of_store)?, |(name, ..)| name.clone());
        let people = rows.iter().map(|(name, role, bound)| person_to_proto(name, *role, bound)).collect();
        Ok(Response::new(v1::ListPeopleResponse { people, next_page_token }))
    }

    async fn delete_person(&self, request: Request<v1::DeletePersonRequest>) -> Result<Response<()>, Status> {
        let (call, v1::DeletePersonRequest { name, reason }) = Call::begin("DeletePerson", request)?;
        let mut faults = Collector::at("");
        let change = Some(AccessChange::DeletePerson { name: person_name(&name, &mut faults) });
        call.finish_access(self, change, reason, faults, |_| Box::pin(async { Ok(()) })).await.map(Response::new)
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::Revocation>, Status> {
        let (call, v1::RevokeRequest { name, reason }) = Call::begin("Revoke", request)?;
        let mut faults = Collector::at("");
        somebody(&name, &mut faults);
        let change = Some(AccessChange::Revoke { name: name.clone() });
        shut_out(self, call, change, name, reason, faults).await
    }

    async fn admit(&self, request: Request<v1::AdmitRequest>) -> Result<Response<v1::Revocation>, Status> {
        let (call, v1::AdmitRequest { name, reason }) = Call::begin("Admit", request)?;
        let mut faults = Collector::at("");
        somebody(&name, &mut faults);
        let change = Some(AccessChange::Admit { name: name.clone() });
        shut_out(self, call, change, name, reason, faults).await
    }

    async fn list_revocations(
        &self,
        request: Request<v1::ListRevocationsRequest>,
    ) -> Result<Response<v1::ListRevocationsResponse>, Status> {
        let v1::ListRevocationsRequest { page_size, page_token } = request.into_inner();
        let mut faults = Collector::at("");
        let page = Page::read(page_size, &page_token, &["revocations"], |key| key.contains('/'), &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (after, limit) = (page.after.clone().unwrap_or_default(), page.limit());
        let read = self
            .store
            .read("list revocations", |conn| Box::pin(async move { access::revocations(conn, &after, limit).await }));
        let (rows, next_page_token) = page.finish(read.await.map_err(of_store)?, |row| row.name.clone());
        let revocations = rows.into_iter().map(revocation_to_proto).collect();
        Ok(Response::new(v1::ListRevocationsResponse { revocations, next_page_token }))
    }

    async fn pin_labels(&self, request: Request<v1::PinLabelsRequest>) -> Result<Response<v1::PinnedLabels>, Status> {
        let (call, v1::PinLabelsRequest { node, labels, reason }) = Call::begin("PinLabels", request)?;
        let mut faults = Collector::at("");
        let node_id = faults.field("node", |faults| faults.take(names::node(&node))).unwrap_or_default();
        if node.is_empty() {
            faults.add_at("node", "is missing; write nodes/NODE");
        }
        let answer = v1::PinnedLabels { node, labels: labels.clone() };
        let labels: Labels = labels.into_iter().collect();
        faults.field("labels", |faults| validate::labels(&labels, faults));
        let change = Some(AccessChange::PinLabels { node_id, labels });
        call.finish_access(self, change, reason, faults, |_| Box::pin(async { Ok(()) })).await?;
        Ok(Response::new(answer))
    }
}

async fn shut_out(
    api: &Api,
    call: Call,
    change: Option<AccessChange>,
    name: String,
    reason: String,
    faults: Collector,
) -> Result<Response<v1::Revocation>, Status> {
    let row = call.finish_access(api, change, reason, faults, move |conn| {
        let name = name.clone();
        Box::pin(async move { access::revocation(conn, &name).await })
    });
    Ok(Response::new(row.await?.map(revocation_to_proto).unwrap_or_default()))
}
