//! `KillSwitchService`.

use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common, Work},
    convert::rollout::{off_to_proto, switch_target},
    error::of_store,
};
use crate::{rollout::kill_switch::set, store::kill_switch};

#[tonic::async_trait]
impl v1::kill_switch_service_server::KillSwitchService for Api {
    async fn set_kill_switch(
        &self,
        request: Request<v1::SetKillSwitchRequest>,
    ) -> Result<Response<v1::KillSwitch>, Status> {
        let (call, message) = Call::begin("SetKillSwitch", request)?;
        let v1::SetKillSwitchRequest { target, off, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let target = switch_target(&target, &mut faults);
        if off && reason.is_empty() {
            faults.add_at("reason", "is missing; say why it is switched off");
        }
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let work: Work<(String, bool), v1::KillSwitch> = |conn, author, _, (target, off)| {
            Box::pin(async move {
                let now = set(conn, author, target, *off).await?;
                Ok(now.map_or_else(|| v1::KillSwitch { target: target.clone(), ..Default::default() }, off_to_proto))
            })
        };
        call.finish_with(self, target.map(|target| (target, off)), common, faults, work).await.map(Response::new)
    }

    async fn list_kill_switches(
        &self,
        request: Request<v1::ListKillSwitchesRequest>,
    ) -> Result<Response<v1::ListKillSwitchesResponse>, Status> {
        let v1::ListKillSwitchesRequest {} = request.into_inner();
        let read = self.store.read("list kill switches", |conn| Box::pin(kill_switch::list(conn)));
        let kill_switches = read.await.map_err(of_store)?.into_iter().map(off_to_proto).collect();
        Ok(Response::new(v1::ListKillSwitchesResponse { kill_switches }))
    }
}
