//! Counts calls by method and result, and how long they took from the headers of the request to the end of the answer. Until the answer begins
//! a span is around each.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use futures::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use tonic::Code;
use tower::{Layer, Service};
use tracing::{Instrument, Span, field::Empty, info_span};

use super::node::CONNECT;
use crate::{auth::access, metrics::Metrics};

/// Where gRPC says what came of a call: with the headers if there is no answer, else after it.
const STATUS: &str = "grpc-status";

/// See the [module](self).
#[derive(Clone)]
pub struct Meter(pub Metrics);

impl<S> Layer<S> for Meter {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Metered<S> {
        Metered { metrics: self.0.clone(), inner }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub struct Metered<S> {
    metrics: Metrics,
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for Metered<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Send + 'static,
{
    type Response = http::Response<Counted<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut call = Call::of(request.uri().path(), self.metrics.clone());
        let span = info_span!("call", otel.name = call.method, otel.kind = "server", code = Empty);
        let answer = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let answer = answer.await?;
            if call.look(answer.headers()) {
                Span::current().record("code", name(call.code));
            }
            Ok(answer.map(|body| Counted { body, call }))
        };
        Box::pin(answer.instrument(span))
    }
}

/// A call under way; counted when it is dropped.
#[derive(Debug)]
struct Call {
    method: &'static str,
    /// `None`: how long a node stays is no duration of a call.
    began: Option<Instant>,
    /// Nobody has waited for the end of a call that has none.
    code: Code,
    metrics: Metrics,
}

impl Call {
    fn of(path: &str, metrics: Metrics) -> Self {
        let began = (path != CONNECT).then(Instant::now);
        Self { method: access::method(path), began, code: Code::Cancelled, metrics }
    }

    /// Whether the headers say what came of it.
    fn look(&mut self, headers: &http::HeaderMap) -> bool {
        let status = headers.get(STATUS);
        if let Some(status) = status {
            self.code = Code::from_bytes(status.as_bytes());
        }
        status.is_some()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.called(self.method, name(self.code), self.began.map(|began| began.elapsed()));
    }
}

/// An answer whose end is looked at.
#[derive(Debug)]
pub struct Counted<R> {
    body: R,
    call: Call,
}

impl<R: Body + Unpin> Body for Counted<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.look(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// As the specification of gRPC names it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
