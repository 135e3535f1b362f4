//! `RolloutPlanService`.

use serde_json::Value;
use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common, Work},
    error::{invalid, invalid_field, of_store},
    paging::Page,
};
use crate::{
    change::{author::Author, difference::Difference, json, plan::ChangeRefusal},
    rollout::{
        begin::refusal,
        plans::{self, COLLECTION, built_in, plan_name, read, read_settings},
    },
    store::{Error, Result as Stored, audit, connection::PgConnection, control, rollout_plan, same_etag},
};

/// Reads a plan with the name that it is to have.
fn checked(plan: Option<v1::RolloutPlan>, id: &str, faults: &mut Collector) -> Option<v1::RolloutPlan> {
    let Some(mut plan) = plan else {
        faults.add_at("plan", "is missing; send the whole document");
        return None;
    };
    if plan.name.is_empty() && !id.is_empty() {
        plan.name = format!("{COLLECTION}{id}");
    }
    faults.field("plan", |faults| {
        faults.field("name", |faults| faults.take(plan_name(&plan.name)));
        read(&plan, faults);
    });
    if !id.is_empty() && plan.name != format!("{COLLECTION}{id}") {
        faults.add_at("plan_id", format!("says {id} but plan.name says {}; leave one of them out", plan.name));
    }
    Some(plan)
}

fn shown(plan: &v1::RolloutPlan) -> Value {
    json::shown("RolloutPlan", &plans::plain(plan.clone()))
}

/// Stores a plan as its next revision.
async fn store(
    conn: &mut PgConnection,
    author: &Author,
    method: &str,
    (plan, creates, allow_missing): (&v1::RolloutPlan, bool, bool),
) -> Stored<v1::RolloutPlan> {
    control::lock(&mut *conn).await?;
    let before = match rollout_plan::get(&mut *conn, &plan.name).await {
        Ok(before) => Some(before),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    match &before {
        Some(_) if creates => {
            return Err(Error::Refused { name: plan.name.clone(), refusal: ChangeRefusal::Exists });
        }
        Some(before) => same_etag(&plan.name, &plan.etag, &before.etag)?,
        None if !creates && !allow_missing => return Err(Error::NotFound { name: plan.name.clone() }),
        None => {}
    }
    if let Some(before) = before.as_ref().filter(|before| shown(before) == shown(plan)) {
        return Ok(before.clone());
    }
    let revision = before.as_ref().map_or(1, |before| before.revision + 1);
    let stored = v1::RolloutPlan { revision, creator: author.actor(), create_time: None, ..plan.clone() };
    rollout_plan::put(&mut *conn, &stored).await?;
    let difference = Difference::between(&before.as_ref().map_or(Value::Null, shown), &shown(plan));
    audit::note(&mut *conn, author, method, (&plan.name, revision.cast_signed()), difference).await?;
    rollout_plan::get(conn, &plan.name).await
}

#[tonic::async_trait]
impl v1::rollout_plan_service_server::RolloutPlanService for Api {
    async fn create_rollout_plan(
        &self,
        request: Request<v1::CreateRolloutPlanRequest>,
    ) -> Result<Response<v1::RolloutPlan>, Status> {
        let (call, message) = Call::begin("CreateRolloutPlan", request)?;
        let v1::CreateRolloutPlanRequest { plan, plan_id, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let plan = checked(plan, &plan_id, &mut faults);
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let work: Work<v1::RolloutPlan, v1::RolloutPlan> = |conn, author, _, plan| {
            Box::pin(async move { store(conn, author, "CreateRolloutPlan", (plan, true, true)).await })
        };
        call.finish_with(self, plan, common, faults, work).await.map(Response::new)
    }

    async fn get_rollout_plan(
        &self,
        request: Request<v1::GetRolloutPlanRequest>,
    ) -> Result<Response<v1::RolloutPlan>, Status> {
        let v1::GetRolloutPlanRequest { name } = request.into_inner();
        let name = plan_name(&name).map_err(|why| invalid_field("name", why))?;
        let read = self.store.read("get plan", |conn| Box::pin(async move { rollout_plan::get(conn, &name).await }));
        read.await.map(Response::new).map_err(of_store)
    }

    async fn list_rollout_plans(
        &self,
        request: Request<v1::ListRolloutPlansRequest>,
    ) -> Result<Response<v1::ListRolloutPlansResponse>, Status> {
        let v1::ListRolloutPlansRequest { page_size, page_token } = request.into_inner();
        let mut faults = Collector::at("");
        let page = Page::read(page_size, &page_token, &[COLLECTION], |key| plan_name(key).is_ok(), &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (after, limit) = (page.after.clone().unwrap_or_default(), page.limit());
        let read = self
            .store
            .read("list plans", |conn| Box::pin(async move { rollout_plan::list(conn, &after, limit).await }));
        let (plans, next_page_token) = page.finish(read.await.map_err(of_store)?, |plan| plan.name.clone());
        Ok(Response::new(v1::ListRolloutPlansResponse { plans, next_page_token }))
    }

    async fn update_rollout_plan(
        &self,
        request: Request<v1::UpdateRolloutPlanRequest>,
    ) -> Result<Response<v1::RolloutPlan>, Status> {
        let (call, message) = Call::begin("UpdateRolloutPlan", request)?;
        let v1::UpdateRolloutPlanRequest { plan, allow_missing, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let plan = checked(plan, "", &mut faults).map(|plan| (plan, allow_missing));
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let work: Work<(v1::RolloutPlan, bool), v1::RolloutPlan> = |conn, author, _, (plan, allow_missing)| {
            Box::pin(async move { store(conn, author, "UpdateRolloutPlan", (plan, false, *allow_missing)).await })
        };
        call.finish_with(self, plan, common, faults, work).await.map(Response::new)
    }

    async fn delete_rollout_plan(
        &self,
        request: Request<v1::DeleteRolloutPlanRequest>,
    ) -> Result<Response<()>, Status> {
        let (call, message) = Call::begin("DeleteRolloutPlan", request)?;
        let v1::DeleteRolloutPlanRequest { name, etag, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let name = faults.field("name", |faults| faults.take(plan_name(&name)));
        if name.as_ref().is_some_and(|name| built_in().iter().any(|plan| plan.name == *name)) {
            faults.add_at("name", "is there from the start, and cannot be deleted; update it instead");
        }
        let common = Common { etag, reason, validate_only, request_id };
        let work: Work<String, ()> = |conn, author, etag, name| {
            Box::pin(async move {
                control::lock(&mut *conn).await?;
                let plan = rollout_plan::get(&mut *conn, name).await?;
                same_etag(name, etag, &plan.etag)?;
                if rollout_plan::settings(&mut *conn).await?.message.default_plan == *name {
                    return Err(refusal(name, "is the fleet's default; make another one that first".to_owned()));
                }
                rollout_plan::delete(&mut *conn, name).await?;
                let difference = Difference::between(&shown(&plan), &Value::Null);
                let about = (name.as_str(), plan.revision.cast_signed());
                audit::note(conn, author, "DeleteRolloutPlan", about, difference).await
            })
        };
        call.finish_with(self, name, common, faults, work).await.map(Response::new)
    }

    async fn get_rollout_settings(
        &self,
        request: Request<v1::GetRolloutSettingsRequest>,
    ) -> Result<Response<v1::RolloutSettings>, Status> {
        let v1::GetRolloutSettingsRequest {} = request.into_inner();
        let read = self.store.read("get rollout settings", |conn| Box::pin(rollout_plan::settings(conn)));
        read.await.map(|settings| Response::new(settings.message)).map_err(of_store)
    }

    async fn update_rollout_settings(
        &self,
        request: Request<v1::UpdateRolloutSettingsRequest>,
    ) -> Result<Response<v1::RolloutSettings>, Status> {
        let (call, message) = Call::begin("UpdateRolloutSettings", request)?;
        let v1::UpdateRolloutSettingsRequest { settings, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        if settings.is_none() {
            faults.add_at("settings", "is missing; send the whole document");
        }
        let settings = settings.unwrap_or_default();
        faults.field("settings", |faults| read_settings(&settings, faults));
        let common = Common { etag: settings.etag.clone(), reason, validate_only, request_id };
        let work: Work<v1::RolloutSettings, v1::RolloutSettings> =
            |conn, author, etag, settings| Box::pin(async move { put(conn, author, etag, settings).await });
        call.finish_with(self, Some(settings), common, faults, work).await.map(Response::new)
    }
}

async fn put(
    conn: &mut PgConnection,
    author: &Author,
    etag: &str,
    settings: &v1::RolloutSettings,
) -> Stored<v1::RolloutSettings> {
    control::lock(&mut *conn).await?;
    let before = rollout_plan::settings(&mut *conn).await?.message;
    same_etag(plans::SETTINGS, etag, &before.etag)?;
    if !settings.default_plan.is_empty() {
        rollout_plan::get(&mut *conn, &settings.default_plan).await?;
    }
    rollout_plan::put_settings(&mut *conn, settings).await?;
    let after = rollout_plan::settings(&mut *conn).await?.message;
    let shown = |settings: &v1::RolloutSettings| {
        json::shown("RolloutSettings", &v1::RolloutSettings { etag: String::new(), ..settings.clone() })
    };
    let difference = Difference::between(&shown(&before), &shown(&after));
    audit::note(conn, author, "UpdateRolloutSettings", (plans::SETTINGS, 0), difference).await?;
    Ok(after)
}
