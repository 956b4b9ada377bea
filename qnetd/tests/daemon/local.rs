//! The local socket and the tool, compared with the stock ones.

use std::path::Path;
use std::process::Command;

use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType};
use protocol::vote::{Heuristics, Vote};
use qnetd::tool::{perform, read_errand};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::arbiter::Arbiter;
use super::client::{Client, config_list, greet, membership_list, quorum_list, vote_reply};
use super::places::soon;
use super::stock::{Stock, TOOL};

/// Sends a line and reads to the end.
pub(crate) async fn ask(socket: &Path, line: &str) -> String {
    soon("local answer", async {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A daemon that closes with something unread resets the connection.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    })
    .await
}

/// Two nodes of one cluster in one view, told that they have the vote, and one node of another
/// cluster that has said nothing yet.
async fn populate(address: std::net::SocketAddr) -> Vec<Client<TcpStream>> {
    let ring = RingId::new(1, 0x2f);
    let mut clients = Vec::new();
    for node in [1, 2] {
        let mut client = Client::connect(address).await;
        greet(&mut client, "TestCl", node, ring).await;
        client.ask(&config_list(3, &[1, 2])).await;
        clients.push(client);
    }
    let mut list = membership_list(4, ring, &[1, 2]);
    list.options.heuristics = Some(Heuristics::Pass);
    for client in &mut clients {
        client.send(&list).await;
    }
    for client in &mut clients {
        let (seq, vote) = client.vote().await;
        assert_eq!(vote, Vote::Ack);
        client.send(&vote_reply(seq)).await;
        let mut option = Message::new(MessageType::SetOption, Some(9));
        option.options.keep_active_partition = Some(true);
        client.ask_for(&option, MessageType::SetOptionReply).await;
        // Our ACK comes after the answer to the list, the stock one before it; after this both
        // have sent the same last.
        let reply =
            client.ask_for(&quorum_list(10, &[1, 2], true), MessageType::NodeListReply).await;
        assert_eq!(reply.options.vote, Some(Vote::NoChange));
    }
    let mut other = Client::connect(address).await;
    greet(&mut other, "Another \"one\"", 7, RingId::new(7, 1)).await;
    clients.push(other);
    clients
}

/// Ports differ between two daemons.
fn without_ports(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(':') {
        Some((rest, port)) if line.contains("ddress:") && port.parse::<u16>().is_ok() => {
            format!("{rest}:PORT\n")
        }
        Some(_) | None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn the_tool_says_byte_for_byte_what_the_stock_one_says() {
    let Some(stock) = Stock::start(&["-s", "off", "-m", "9"]).await else { return };
    let ours = Arbiter::start("-s off -m 9").await;
    let _clients = (populate(stock.address).await, populate(ours.address).await);
    let socket = ours.socket();
    for flags in
        ["-s", "-s -v", "-l", "-l -v", "-lvc TestCl", "-l -c nobody", "-lc Another\\ \"one\""]
    {
        let run = |socket: &Path| {
            // A blank within an argument is written as `\ `.
            let args = flags.replace("\\ ", "\u{1}");
            let args = args.split(' ').map(|arg| arg.replace('\u{1}', " "));
            let socket = socket.to_owned();
            let args: Vec<String> = args.collect();
            tokio::task::spawn_blocking(move || {
                Command::new(TOOL).args(&args).arg("-p").arg(&socket).output().unwrap()
            })
        };
        let expected = run(&stock.socket).await.unwrap();
        let found = run(&socket).await.unwrap();
        assert_eq!(found.status.code(), expected.status.code(), "{flags}");
        let text = |bytes: &[u8]| without_ports(&String::from_utf8_lossy(bytes));
        assert_eq!(text(&found.stdout), text(&expected.stdout), "{flags}");
    }
}

#[tokio::test]
async fn local_commands_are_answered_as_by_the_stock_daemon() {
    let Some(stock) = Stock::start(&["-s", "off"]).await else { return };
    let ours = Arbiter::start("-s off").await;
    let lines = [
        "\n".to_owned(),
        "   \n".to_owned(),
        "\"\"\n".to_owned(),
        "x y\n".to_owned(),
        "a\"b c\"d\n".to_owned(),
        "\"a \\\" \\\\ b\"\n".to_owned(),
        "STATUS Verbose\n".to_owned(),
        "status bogus verbose\n".to_owned(),
        "sta\\tus\n".to_owned(),
        "\tstatus\tverbose\r\n".to_owned(),
        "list cluster\n".to_owned(),
        "list cluster \"x\n".to_owned(),
        "list bogus\n".to_owned(),
        format!("{}\n", "x".repeat(4095)),
        format!("{}\n", "x".repeat(4096)),
        format!("{}\n", "x".repeat(9000)),
    ];
    for line in lines {
        let expected = ask(&stock.socket, &line).await;
        let found = ask(&ours.socket(), &line).await;
        assert_eq!(without_ports(&found), without_ports(&expected), "{line:?}");
    }
}

#[tokio::test]
async fn more_local_clients_than_allowed_are_closed() {
    let ours = Arbiter::start("-s off -S ipc_max_clients=2").await;
    let hold = || async { UnixStream::connect(ours.socket()).await.unwrap() };
    let held = [hold().await, hold().await];
    assert_eq!(ask(&ours.socket(), "").await, "");
    drop(held);
    // The places are free when the daemon has noticed.
    soon("a free place", async { while ask(&ours.socket(), "status\n").await.is_empty() {} }).await;
}

#[tokio::test]
async fn the_tools_shutdown_is_answered_and_ends_the_daemon() {
    let ours = Arbiter::start("-s off").await;
    let socket = ours.socket();
    let args = ["-H".to_owned(), format!("-p{}", socket.display())];
    let errand = read_errand("tool", &args).unwrap();
    let done = tokio::task::spawn_blocking(move || perform("tool", &errand)).await.unwrap();
    assert_eq!(done, Ok(Vec::new()));
    ours.ended().await.unwrap();
    let errand =
        read_errand("tool", &["-s".to_owned(), format!("-p{}", socket.display())]).unwrap();
    let (code, text) = perform("tool", &errand).unwrap_err();
    assert_eq!(code, 3);
    let expected = "tool: Can't connect to qnetd socket (is QNetd running?): \
                    No such file or directory\n";
    assert_eq!(text, expected);
}

#[tokio::test]
async fn haguard_status_is_json_and_warns_of_plain_text() {
    let ours = Arbiter::start("-s off").await;
    let _clients = populate(ours.address).await;
    let answer = ask(&ours.socket(), "haguard-status\n").await;
    let json = answer.strip_prefix("OK\n").unwrap();
    let status: protocol::status::ArbiterStatus = serde_json::from_str(json).unwrap();
    assert_eq!(status.clients, 3);
    assert_eq!(status.clusters["TestCl"].holder, [1, 2]);
    assert_eq!(status.tls, "Unsupported");
    let warned = status.warnings.iter().any(|warning| warning.contains("use -s req"));
    assert!(warned, "{:?}", status.warnings);
}
