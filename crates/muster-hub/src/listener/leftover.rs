//! The rest of a request's body that nobody read.
//!
//! Closing a connection with unread bytes resets it, and whoever still sends may never see the answer that says why his body is refused.
//! So what is left is read and dropped, within bounds; beyond them the connection closes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

/// Most bytes that are read for nothing: a file that was sent to the wrong place, not a film.
const MOST: usize = 16 * 1024 * 1024;
/// How long that may take.
const LONGEST: Duration = Duration::from_secs(5);

/// A body that its handler reads, and of which this module keeps hold.
#[derive(Clone)]
pub(super) struct Held(Arc<Mutex<Option<Incoming>>>);

impl Held {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the handler did not.
    pub(super) async fn read_rest(&self) {
        let Some(mut body) = self.lock().take().filter(|body| !body.is_end_stream()) else { return };
        let read = async {
            let mut read = 0;
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > MOST {
                    break;
                }
            }
        };
        // Whoever is slower than that loses the connection.
        let _ = timeout(LONGEST, read).await;
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self.lock() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lock().as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
