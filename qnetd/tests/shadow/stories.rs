//! Every story that is told to Debian's corosync-qnetd to document a correction, told once more
//! with the machine of shadow mode looking on: it finds no bug, and each correction that it names
//! is one that the story is there for.

#[path = "../stock_decisions/ffsplit.rs"]
mod ffsplit;
#[path = "../stock_decisions/lms.rs"]
mod lms;
#[path = "../stock_decisions/node.rs"]
mod node;
#[path = "../stock_decisions/ours.rs"]
#[expect(dead_code, reason = "not everything of it is needed here")]
mod ours;
#[path = "../stock_decisions/stock.rs"]
#[expect(dead_code, reason = "not everything of it is needed here")]
mod real;
#[path = "../stock_decisions/say.rs"]
mod say;
#[path = "../stock_decisions/session.rs"]
mod session;
#[path = "watched.rs"]
mod stock;
#[path = "../stock_decisions/story.rs"]
mod story;
#[path = "../stock_decisions/ties.rs"]
mod ties;
#[path = "../stock_decisions/two_node_lms.rs"]
mod two_node_lms;
