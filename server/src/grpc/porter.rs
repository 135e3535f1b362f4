//! Who calls, whether they may, and how much of it: asked once for each call, before anything else. The services find the [`Caller`]
//! with the request.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Buf;
use futures::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use sockpilot_proto::v1::Access;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;
use tower::{Layer, Service};

use super::{
    CallLimits,
    node::{CONNECT, REPORT_FLOWS},
};
use crate::{
    auth::{
        access::{self, Denied},
        caller::Caller,
        connections::Connection,
        gate::Gate,
        limits::Turn,
        trust::Refused,
    },
    metrics::Metrics,
};

/// Longer than any token.
const BEARER_BYTES_MAX: usize = 16 << 10;

/// See the [module](self).
#[derive(Clone)]
pub struct Porter {
    pub gate: Arc<Gate>,
    pub metrics: Metrics,
    pub limits: CallLimits,
}

impl<S> Layer<S> for Porter {
    type Service = Ported<S>;

    fn layer(&self, inner: S) -> Ported<S> {
        Ported { porter: self.clone(), inner }
    }
}

/// A service behind the porter.
#[derive(Clone)]
pub struct Ported<S> {
    porter: Porter,
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for Ported<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = http::Response<Held<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let (caller, turn, watch) = match self.porter.admit(&request) {
            Ok(admitted) => admitted,
            Err(status) => {
                let refused = status.into_http::<R>().map(|body| Held { body, _turn: None, _watch: None });
                return Box::pin(async { Ok(refused) });
            }
        };
        request.extensions_mut().insert(caller);
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Held { body, _turn: turn, _watch: watch })) })
    }
}

type Admitted = (Caller, Option<Turn>, Option<AbortOnDropHandle<()>>);

impl Porter {
    fn admit<B>(&self, request: &http::Request<B>) -> Result<Admitted, Status> {
        let Some(connection) = request.extensions().get::<Arc<Connection>>() else {
            return Err(Status::internal("a call came in by no door"));
        };
        let path = request.uri().path();
        let access = access::of(path);
        let known =
            bearer(request.headers()).and_then(|bearer| self.gate.caller(connection, bearer, SystemTime::now()));
        let turn = self.turn(connection, &known, path)?;
        self.check_headers(request.headers())?;
        let caller = known.or_else(|refused| {
            self.refuse(connection, path, refused.as_str(), "");
            match access {
                // Health is for everyone, and says nothing of anybody.
                Access::Anyone => Ok(Caller::Nobody),
                _ => Err(unknown(refused)),
            }
        })?;
        access::check(access, &caller).map_err(|denied| {
            self.refuse(connection, path, "role", &caller.key().unwrap_or_default());
            match denied {
                Denied::Unknown => unknown(Refused::NoToken),
                Denied::Forbidden => {
                    Status::permission_denied("you may not do this; ask an administrator of sockpilot")
                }
            }
        })?;
        let timeout = match (access, path) {
            // A stream bounds its silence itself.
            (_, CONNECT) => None,
            (Access::Node, _) => Some(self.limits.node_timeout),
            _ => Some(self.limits.person_timeout),
        };
        let timeout = timeout.filter(|_| turn.is_some());
        Ok((caller, turn, timeout.map(|timeout| self.watch(timeout, connection.cut.clone()))))
    }

    /// Counts the call among those of its caller. Whoever is not known is counted by address, before anything is said to them.
    fn turn(
        &self,
        connection: &Connection,
        known: &Result<Caller, Refused>,
        path: &str,
    ) -> Result<Option<Turn>, Status> {
        let limits = &self.gate.rules.limits;
        let (key, limit) = match known {
            Ok(Caller::Anyone) => return Ok(None),
            Ok(Caller::Nobody) | Err(_) => (Some(connection.address.ip().to_string()), &limits.unknown),
            // A report is large, so few are taken at once; and they leave room for the stream.
            Ok(caller @ Caller::Node(_)) if path == REPORT_FLOWS => {
                (caller.key().map(|key| format!("{key} reports")), &limits.reports)
            }
            Ok(caller @ Caller::Node(_)) => (caller.key(), &limits.node),
            Ok(caller @ Caller::Person(_)) => (caller.key(), &limits.person),
        };
        let turn = key.map(|key| self.gate.limiter.enter(&key, limit)).transpose();
        turn.map_err(|at_limit| {
            self.metrics.refused(at_limit.as_str());
            Status::resource_exhausted("you ask for too much at once; ask again after a while")
        })
    }

    fn check_headers(&self, headers: &http::HeaderMap) -> Result<(), Status> {
        // As HTTP/2 counts them.
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        let max = self.limits.header_bytes_max;
        if bytes <= max {
            return Ok(());
        }
        self.metrics.refused("headers");
        Err(Status::resource_exhausted(format!("the call's headers have {bytes} bytes; the most is {max}")))
    }

    /// A message that does not end and an answer that nobody takes hold their memory: the connection of who goes so slowly is cut.
    fn watch(&self, timeout: Duration, cut: CancellationToken) -> AbortOnDropHandle<()> {
        let metrics = self.metrics.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            sleep(timeout).await;
            metrics.refused("slow");
            cut.cancel();
        }))
    }

    fn refuse(&self, connection: &Connection, method: &str, reason: &'static str, caller: &str) {
        self.metrics.refused(reason);
        let (method, address) = (method.chars().take(100).collect::<String>(), connection.address);
        tracing::warn!(method, %address, caller, reason, "call refused");
    }
}

/// What exactly is wrong is not said to who is not known.
fn unknown(refused: Refused) -> Status {
    match refused {
        Refused::NoRole => Status::permission_denied("you are known, but nobody has said what you may do"),
        _ => Status::unauthenticated("show a certificate or a token that is valid here"),
    }
}

pub(super) fn bearer(headers: &http::HeaderMap) -> Result<Option<&str>, Refused> {
    let Some(value) = headers.get(http::header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.len() <= BEARER_BYTES_MAX);
    let bearer = text.and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    bearer.map(|(_, token)| Some(token.trim())).ok_or(Refused::NoToken)
}

/// An answer; the caller's turn lasts as long as it does.
pub struct Held<R> {
    body: R,
    _turn: Option<Turn>,
    _watch: Option<AbortOnDropHandle<()>>,
}

impl<R: Default> Default for Held<R> {
    fn default() -> Self {
        Self { body: R::default(), _turn: None, _watch: None }
    }
}

impl<R: Body + Unpin> Body for Held<R>
where
    R::Data: Buf,
{
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
