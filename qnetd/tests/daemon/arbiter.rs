//! Our daemon inside the test.

use std::net::SocketAddr;
use std::sync::Arc;

use qnetd::config::{Invocation, Options, Places, parse};
use qnetd::daemon::{Order, serve};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::places::{Place, soon};

/// Options from flags, with everything in `place`, on a free port of loopback.
pub(crate) fn options(place: &Place, flags: &str) -> Options {
    let (state, run) = (place.text("state"), place.text("run"));
    let fixed = format!("--state-dir {state} --run-dir {run} --listen 127.0.0.1:0 {flags}");
    let args: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
    match parse(&args, Places::Haguard).unwrap() {
        Invocation::Run(options) => *options,
        other @ (Invocation::Help | Invocation::Version) => panic!("{other:?}"),
    }
}

/// A running daemon of ours.
pub(crate) struct Arbiter {
    pub(crate) address: SocketAddr,
    pub(crate) place: Arc<Place>,
    pub(crate) orders: mpsc::Sender<Order>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Arbiter {
    pub(crate) async fn start(flags: &str) -> Self {
        Self::start_in(Arc::new(Place::new()), flags).await
    }

    pub(crate) async fn start_in(place: Arc<Place>, flags: &str) -> Self {
        let options = options(&place, flags);
        let (orders, received) = mpsc::channel(8);
        let (ready, listening) = oneshot::channel();
        let task = tokio::spawn(serve(options, (orders.clone(), received), Some(ready)));
        let Ok(address) = soon("start", listening).await else {
            panic!("no start: {:#}", task.await.unwrap().unwrap_err());
        };
        Self { address, place, orders, task }
    }

    /// Ends it as an operator does.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.orders.send(Order::Stop).await.unwrap();
        self.ended().await
    }

    /// Its end, whoever asked for it.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        soon("end", self.task).await.unwrap()
    }

    /// Ends it between two instructions, as a crash does.
    pub(crate) async fn crash(self) -> Arc<Place> {
        self.task.abort();
        assert!(soon("crash", self.task).await.unwrap_err().is_cancelled());
        self.place
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.place.join("run/qnetd.sock")
    }
}
