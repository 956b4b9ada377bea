//! The guard's side of its keeper, the process that holds the watchdog and outlives the guard.
//!
//! A task talks to it, so that a keeper that hangs holds nobody up. A keeper that was told to
//! disarm ends, and the next one is started for the next entitlement.

use std::path::PathBuf;
use std::time::Duration;

use protocol::time::HostInstant;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::keeper::Options;
use crate::keeper::client::{ClientError, KeeperClient};
use crate::keeper::message::{Command, Report, State};

/// Orders that may wait; the keeper takes them at once.
const ORDERS: usize = 64;
/// Reports that may wait.
const EVENTS: usize = 64;
/// The keeper is asked for its state this often.
const ASK: Duration = Duration::from_secs(1);
/// A keeper that takes no order within this is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause before another keeper is started.
const AGAIN: Duration = Duration::from_secs(2);

/// What the keeper does.
#[derive(Debug)]
pub(super) enum Event {
    /// There is another one.
    Ready(State),
    /// It has answered.
    State(State),
    /// It has not done what it was told.
    Refused(String),
    /// It has forced the end.
    Forced(String),
    /// It has disarmed the watchdog and ended.
    Released,
    /// It has ended otherwise, or does not talk.
    Gone(String),
    /// Another one cannot be started.
    Failed(String),
}

/// The keeper.
#[derive(Debug)]
pub(super) struct Keeping {
    orders: Sender<Command>,
    events: Receiver<Event>,
    /// It ends with the value; the keeper does not.
    _task: JoinSet<()>,
}

impl Keeping {
    /// Connects to the keeper of the run directory with its entitlement as it is, or starts one.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(super) async fn start(
        program: PathBuf,
        options: Options,
    ) -> Result<(Self, State), ClientError> {
        let (client, state) = KeeperClient::adopt(&program, &options).await?;
        let (orders, todo) = mpsc::channel(ORDERS);
        let (tell, events) = mpsc::channel(EVENTS);
        let mut task = JoinSet::new();
        task.spawn(keep(program, options, client, todo, tell));
        Ok((Self { orders, events, _task: task }, state))
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// It may pet until then.
    pub(super) fn entitle(&self, until: HostInstant) {
        self.order(Command::Entitle { until });
    }

    /// It may not pet from now on.
    pub(super) fn revoke(&self) {
        self.order(Command::Revoke);
    }

    /// Everything outside has ended: it may disarm.
    pub(super) fn release(&self) {
        self.order(Command::Release);
    }

    /// It may end, if nothing is armed.
    pub(super) fn farewell(&self) {
        self.order(Command::Farewell);
    }

    /// Orders that do not get through let the entitlement run out.
    fn order(&self, command: Command) {
        // The task reports a keeper that takes nothing.
        let _ = self.orders.try_send(command);
    }
}

async fn keep(
    program: PathBuf,
    options: Options,
    mut client: KeeperClient,
    mut todo: Receiver<Command>,
    tell: Sender<Event>,
) {
    loop {
        let Some(mut event) = converse(&mut client, &mut todo, &tell).await else { return };
        drop(client);
        let released = matches!(event, Event::Released);
        client = loop {
            if tell.send(event).await.is_err() {
                return;
            }
            if released && !needed(&mut todo).await {
                return;
            }
            match KeeperClient::adopt(&program, &options).await {
                Ok((client, state)) => {
                    // What was meant for the one before.
                    while todo.try_recv().is_ok() {}
                    if tell.send(Event::Ready(state)).await.is_err() {
                        return;
                    }
                    break client;
                }
                Err(error) => event = Event::Failed(error.to_string()),
            }
            sleep(AGAIN).await;
        };
    }
}

/// Waits until a keeper is needed again; false if nobody will need one.
async fn needed(todo: &mut Receiver<Command>) -> bool {
    loop {
        match todo.recv().await {
            Some(Command::Entitle { .. }) => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

/// How the conversation has ended; none if nobody listens.
async fn converse(
    client: &mut KeeperClient,
    todo: &mut Receiver<Command>,
    tell: &Sender<Event>,
) -> Option<Event> {
    let mut tick = interval(ASK);
    let mut released = false;
    loop {
        let command = tokio::select! {
            report = client.recv() => {
                let event = match report {
                    Ok(Some(Report::State(state))) => Event::State(state),
                    Ok(Some(Report::Refused { reason, .. })) => Event::Refused(reason),
                    Ok(Some(Report::Forced { reason })) => Event::Forced(reason),
                    Ok(Some(
                        Report::Started { .. } | Report::Exited { .. } | Report::StoppedProven,
                    )) => continue,
                    Ok(None) if released => return Some(Event::Released),
                    Ok(None) => return Some(Event::Gone("it has closed the connection".to_owned())),
                    Err(error) => return Some(Event::Gone(error.to_string())),
                };
                tell.send(event).await.ok()?;
                continue;
            }
            command = todo.recv() => command?,
            _ = tick.tick() => Command::Hello,
        };
        released |= matches!(command, Command::Release | Command::Farewell);
        match timeout(PATIENCE, client.send(&command)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if !released => return Some(Event::Gone(error.to_string())),
            // It has ended; what it still had to say is read.
            Ok(Err(_)) => {}
            Err(_) => return Some(Event::Gone("it takes no orders".to_owned())),
        }
    }
}
