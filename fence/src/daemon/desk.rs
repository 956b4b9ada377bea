//! What the doors (HTTPS, the local socket, the metrics' port) ask the daemon.

use protocol::fence::{Confirmation, GatewayStatus, Outcome, Progress, Request, Testimony};
use protocol::ids::NodeId;
use tokio::sync::{mpsc, oneshot};

/// Progress that may wait for one requester. One that does not read it is left; its job goes on.
const PROGRESS_MAX: usize = 256;

/// Questions of all doors that wait for the daemon.
const QUERIES_MAX: usize = 64;

/// What somebody who was let in wants done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    Fence(Request),
    Confirm(Confirmation),
    Test(NodeId),
}

impl Wish {
    /// The end of a wish that is not taken on.
    pub(super) fn refused(&self, why: &str) -> Progress {
        let nodes: Vec<NodeId> = match self {
            Self::Fence(request) => request.targets.iter().copied().collect(),
            Self::Confirm(confirmation) => vec![confirmation.node],
            Self::Test(node) => vec![*node],
        };
        let refused = |node| (node, Outcome::Refused { why: why.to_owned() });
        Progress::Done { results: nodes.into_iter().map(refused).collect() }
    }
}

/// A question, and where the answer goes.
#[derive(Debug)]
pub(super) enum Query {
    Wish {
        wish: Wish,
        progress: mpsc::Sender<Progress>,
    },
    /// Whether testimonies to its challenge are waited for.
    Testify(Box<Testimony>, oneshot::Sender<bool>),
    Status(oneshot::Sender<GatewayStatus>),
    Metrics(oneshot::Sender<String>),
}

/// A door's way to the daemon.
#[derive(Clone, Debug)]
pub(super) struct Desk(mpsc::Sender<Query>);

impl Desk {
    /// A way, and its end.
    pub(super) fn new() -> (Self, mpsc::Receiver<Query>) {
        let (queries, received) = mpsc::channel(QUERIES_MAX);
        (Self(queries), received)
    }

    /// Has something done. What comes ends with [`Progress::Done`], or without if the gateway ends
    /// first: then nothing is known.
    pub(super) async fn wish(&self, wish: Wish) -> mpsc::Receiver<Progress> {
        let (progress, received) = mpsc::channel(PROGRESS_MAX);
        // A daemon that has ended drops the sender, and with it ends the stream.
        let _ = self.0.send(Query::Wish { wish, progress }).await;
        received
    }

    /// Hears a member's testimony; false if nobody waits for it, `None` as below.
    pub(super) async fn testify(&self, testimony: Testimony) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Query::Testify(Box::new(testimony), answer)).await.ok()?;
        answered.await.ok()
    }

    /// The snapshot; `None` when the daemon is about to end.
    pub(super) async fn status(&self) -> Option<GatewayStatus> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Query::Status(answer)).await.ok()?;
        answered.await.ok()
    }

    /// The numbers; `None` as above.
    pub(super) async fn metrics(&self) -> Option<String> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Query::Metrics(answer)).await.ok()?;
        answered.await.ok()
    }
}
