//! `ZoneService`.

use sockpilot_policy::fault::Collector;
use sockpilot_proto::{convert::zone_map_from_proto, v1};
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common, Work},
    convert::change::zone_map_to_proto,
    error::of_store,
};
use crate::{
    change::{notes::Notes, zone_map, zones::NAME},
    store::zone,
};

#[tonic::async_trait]
impl v1::zone_service_server::ZoneService for Api {
    async fn get_zone_map(&self, request: Request<v1::GetZoneMapRequest>) -> Result<Response<v1::ZoneMap>, Status> {
        let v1::GetZoneMapRequest {} = request.into_inner();
        let read = self.store.read("get zone map", |conn| Box::pin(zone::get(conn)));
        let map = read.await.map_err(of_store)?;
        Ok(Response::new(zone_map_to_proto(map, Notes::default())))
    }

    async fn update_zone_map(
        &self,
        request: Request<v1::UpdateZoneMapRequest>,
    ) -> Result<Response<v1::ZoneMap>, Status> {
        let (call, message) = Call::begin("UpdateZoneMap", request)?;
        let v1::UpdateZoneMapRequest { zone_map, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        if zone_map.is_none() {
            faults.add_at("zone_map", "is missing; send the whole map");
        }
        let map = zone_map.unwrap_or_default();
        if !map.name.is_empty() && map.name != NAME {
            faults.add_at("zone_map.name", format!("must be {NAME}, or left out; there is but one map"));
        }
        for fault in zone_map_from_proto(&map, "zone_map").err().iter().flat_map(|faults| faults.as_slice()) {
            faults.add_at(&fault.field, fault.description.clone());
        }
        let v1::ZoneMap { name: _, etag, zones, notes: _ } = map;
        let common = Common { etag, reason, validate_only, request_id };
        let work: Work<Vec<v1::Zone>, v1::ZoneMap> = |conn, author, etag, zones| {
            Box::pin(async move {
                let map = zone_map::update(conn, author, etag, zones.clone()).await?;
                let mut notes = Notes::default();
                notes.zone_map(&map.zones);
                Ok(zone_map_to_proto(map, notes))
            })
        };
        call.finish_with(self, Some(zones), common, faults, work).await.map(Response::new)
    }
}
