//! The daemon's side of its local socket.

use host::local::{self, Answer};
use tokio::sync::{mpsc, oneshot};

use super::Order;
use super::request::Request;

/// A question for the daemon, and where the answer goes.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Where local clients' commands go.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) queries: mpsc::Sender<Query>,
    pub(super) orders: mpsc::Sender<Order>,
}

impl local::Desk for Desk {
    async fn answer(&self, line: &[u8]) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.queries.send(Query { request: Request::parse(line), answer }).await.ok()?;
        answered.await.ok()
    }

    async fn stop(&self) {
        // Who is gone already has ended.
        let _ = self.orders.send(Order::Stop).await;
    }
}
