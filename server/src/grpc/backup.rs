//! `BackupService`.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use prost::Message;
use sockpilot_proto::v1::{self, restore_backup_request::Part};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Api,
    call::{Call, Common},
    convert::backup::items,
    error::{invalid_field, of_store},
};
use crate::change::restore::export;

/// Largest backup, so that a server has room for it.
const BACKUP_BYTES_MAX: usize = 256 << 20;

#[tonic::async_trait]
impl v1::backup_service_server::BackupService for Api {
    type ExportBackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupItem, Status>> + Send>>;

    async fn export_backup(
        &self,
        request: Request<v1::ExportBackupRequest>,
    ) -> Result<Response<Self::ExportBackupStream>, Status> {
        let v1::ExportBackupRequest {} = request.into_inner();
        let bytes_max = i64::try_from(BACKUP_BYTES_MAX).unwrap_or(i64::MAX);
        let read = self.store.read("export backup", |conn| Box::pin(async move { export(conn, bytes_max).await }));
        let items = items(read.await.map_err(of_store)?);
        Ok(Response::new(stream::iter(items).map(Ok).boxed()))
    }

    async fn restore_backup(
        &self,
        request: Request<Streaming<v1::RestoreBackupRequest>>,
    ) -> Result<Response<v1::RestoreBackupResponse>, Status> {
        let (metadata, extensions, mut parts) = request.into_parts();
        let first = parts.message().await?.unwrap_or_default();
        let Some(Part::Header(v1::RestoreHeader { reason, validate_only })) = first.part.clone() else {
            return Err(invalid_field("header", "is missing; send it first, and then the items"));
        };
        let call = Call::of_stream("RestoreBackup", (metadata, &extensions), &first)?;
        let (mut items, mut bytes) = (vec![], 0);
        while let Some(v1::RestoreBackupRequest { part }) = parts.message().await? {
            match part {
                Some(Part::Item(item)) => {
                    bytes += item.encoded_len();
                    items.push(item);
                }
                Some(Part::Header(_)) => return Err(invalid_field("header", "is sent twice; send it once, first")),
                // `assemble` says so, with its place.
                None => items.push(v1::BackupItem::default()),
            }
            if bytes > BACKUP_BYTES_MAX {
                let most = BACKUP_BYTES_MAX >> 20;
                return Err(invalid_field("items", format!("have more than {most} MiB; leave out old revisions")));
            }
        }
        let common = Common { reason, validate_only, ..Common::default() };
        call.finish_restore(self, items, common).await.map(Response::new)
    }
}
