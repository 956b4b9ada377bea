//! Who gets in, and what is said to those who say nonsense.

use std::os::unix::fs::PermissionsExt;

use certs::issue::Subject;
use certs::material::Purpose;
use hyper::Method;
use protocol::ids::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Client, Lines, local, outcome, request};
use crate::nameless::nameless;
use crate::site::{CLUSTER, PATIENCE, Site};

#[tokio::test]
async fn who_has_no_certificate_of_the_cluster_does_not_get_past_tls() {
    let site = Site::new("strangers");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    site.issue("other", &Subject::Cluster("OtherCl".to_owned()));
    let elsewhere = Site::new("elsewhere");
    let foreign = elsewhere.load("cluster", Purpose::Client).1;
    let trust = site.load("other", Purpose::Client).0;
    let foreign = certs::tls::gateway_client(&trust, &foreign, &CLUSTER.into()).unwrap();
    for (who, stranger) in [
        ("nobody", Client::with(nameless(), gateway.ports.https)),
        ("another cluster's", Client::new(&site, "other", gateway.ports.https)),
        ("another authority's", Client::with(foreign, gateway.ports.https)),
        ("a gateway's", Client::new(&site, "gateway", gateway.ports.https)),
    ] {
        let body = serde_json::to_vec(&request(&[2])).unwrap();
        let called = stranger.call(Method::POST, "/v1/fence", body).await;
        assert!(called.is_err(), "{who} was answered");
    }
    assert_eq!(arbiter.asked(), [""; 0]);
    assert_eq!(client.get("/v1/status").await.status, 200);
    gateway.stop().await;
}

#[tokio::test]
async fn a_node_speaks_for_itself_only() {
    let site = Site::new("itself");
    let (arbiter, gateway, _) = site.whole(&[(2, "n2")], 1).await;
    site.issue("three", &Subject::Node { cluster: CLUSTER.to_owned(), node: NodeId(3) });
    let three = Client::new(&site, "three", gateway.ports.https);
    let refused = three.post("/v1/fence", &request(&[2])).await;
    assert_eq!(refused.status, 403);
    assert_eq!(
        refused.all().await,
        ["{\"error\":\"the certificate is bound to node 3, the peer says it is node 1\"}"]
    );
    assert_eq!((arbiter.asked().len(), site.count("n2", "off")), (0, 0));
    // A certificate that the cluster shares passes for every node, as in the stock format.
    let shared = Client::new(&site, "cluster", gateway.ports.https);
    let done = shared.fence(&request(&[2])).await;
    assert!(outcome(&done)[&NodeId(2)].proof().is_some(), "{done:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn nonsense_is_answered_with_one_line_that_says_what_is_wrong() {
    let site = Site::new("nonsense");
    let (_arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    let long = vec![b' '; 20_000];
    let unknown = b"{\"requester\":1,\"targets\":[2],\"action\":\"off\",\"reason\":\"\",\"x\":1}";
    let cases: [(Method, &str, &[u8], u16, &str); 9] = [
        (Method::POST, "/v1/fence", b"{", 400, "the body is refused: EOF"),
        (Method::POST, "/v1/fence", b"", 400, "the body is refused: EOF"),
        (Method::POST, "/v1/fence", unknown, 400, "unknown field `x`"),
        (Method::POST, "/v1/fence", &long, 400, "more than 16384 bytes"),
        (Method::POST, "/v1/confirm", b"[]", 400, "the body is refused"),
        (Method::POST, "/v1/test/two", b"", 400, "'two' is no node id"),
        (Method::GET, "/v1/history?since=x", b"", 400, "since is no number"),
        (Method::GET, "/v1/fence", b"", 405, "another method"),
        (Method::GET, "/", b"", 404, "no such path"),
    ];
    for (method, path, body, status, said) in cases {
        let answer = client.call(method, path, body.to_vec()).await.unwrap();
        assert_eq!(answer.status, status, "{path}");
        let lines = answer.all().await;
        assert!(lines.len() == 1 && lines[0].contains(said), "{path}: {lines:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn the_local_socket_has_the_same_words_and_is_its_owners() {
    let site = Site::new("local");
    let (_arbiter, gateway, _) = site.whole(&[(2, "n2")], 1).await;
    let mode = std::fs::metadata(&gateway.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = local(&gateway.socket, "{\"off\":2}").await;
    assert!(refused[0].starts_with("{\"error\":\"the line is refused: "), "{refused:?}");
    let ask = fence::daemon::local::Ask::Fence(request(&[2]));
    let lines = local(&gateway.socket, &serde_json::to_string(&ask).unwrap()).await;
    let progress: Vec<_> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(outcome(&progress)[&NodeId(2)].proof().is_some(), "{progress:?}");
    let history = local(&gateway.socket, "{\"history\":{\"since\":0}}").await;
    assert!(history.iter().any(|line| line.contains("\"proven\"")), "{history:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn the_numbers_are_served_in_plain_text_and_nothing_else_is() {
    let site = Site::new("numbers");
    let (_arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    client.fence(&request(&[2])).await;
    let port = gateway.ports.metrics.unwrap();
    let get = async |path: &str| {
        let mut socket = TcpStream::connect(port).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(ask.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    };
    let text = get("/metrics").await;
    for line in [
        "haguard_gateway_arbiter_connected 1",
        "haguard_gateway_jobs_total{result=\"off\"} 1",
        "haguard_gateway_device_commands_total{device=\"n2\",command=\"off\",result=\"ok\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    assert!(get("/v1/status").await.starts_with("HTTP/1.1 404 "));
    gateway.stop().await;
}

#[tokio::test]
async fn connections_that_only_stand_there_keep_nobody_out() {
    let site = Site::new("crowd");
    let (_arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(gateway.ports.https).await.unwrap());
    }
    let status: Lines = client.get("/v1/status").await;
    assert_eq!(status.status, 200);
    drop(crowd);
    gateway.stop().await;
}
