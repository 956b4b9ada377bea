//! A gateway at the real daemon: TLS, its certificate, a call, a proof that outlives the daemon.

use std::collections::BTreeSet;

use protocol::fence::{
    Answer, Ask, Call, FRAME_ANSWER, FRAME_CALL, How, Intent, Nonce, Proof, Refusal, Role, Verdict,
};
use protocol::ids::{BootId, NodeId, RingId};
use protocol::qnet::Deframer;
use protocol::vote::Vote;

use super::arbiter::Arbiter;
use super::client::{
    Client, config_list, echo, init, membership_list, quorum_list, raw, vote_reply,
};
use super::places::Place;
use super::tls::{Secure, Site, secure};

async fn verdict(gateway: &mut Secure, nonce: u128, ask: Ask) -> Verdict {
    let call = Call { nonce: Nonce(nonce), ask };
    gateway.send_bytes(&raw(FRAME_CALL, &call.encode().unwrap())).await;
    let bytes = gateway.receive_bytes().await.unwrap();
    let frame = Deframer::new(1 << 20).feed(&bytes).1.unwrap().unwrap();
    assert_eq!(frame.kind, FRAME_ANSWER);
    let answer = Answer::decode(&frame.body).unwrap();
    assert_eq!(answer.nonce, Nonce(nonce));
    answer.verdict
}

async fn node(arbiter: &Arbiter, site: &Site, id: u32) -> Secure {
    let mut client = secure(arbiter, &site.client("TestCl"), "TestCl").await.unwrap();
    assert_eq!(client.ask(&init(id, RingId::new(1, 5))).await.options.error_code, Some(0));
    client.ask(&config_list(3, &[1, 2])).await;
    client.send(&membership_list(4, RingId::new(1, 5), &[1, 2])).await;
    client
}

async fn told(
    client: &mut Client<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>,
) -> Vote {
    let (seq, vote) = client.vote().await;
    client.send(&vote_reply(seq)).await;
    vote
}

#[tokio::test]
async fn a_gateway_registers_proves_and_is_found_again_after_a_restart() {
    let (files, site) = (Place::new(), Site::new());
    let flags = site.install(files.path());
    let arbiter = Arbiter::start(&flags).await;
    let (mut one, mut two) = (node(&arbiter, &site, 1).await, node(&arbiter, &site, 2).await);
    assert_eq!((told(&mut one).await, told(&mut two).await), (Vote::Ack, Vote::Ack));
    two.send(&membership_list(5, RingId::new(2, 6), &[2])).await;
    one.send(&membership_list(5, RingId::new(1, 6), &[1])).await;
    assert_eq!(told(&mut two).await, Vote::Nack);
    two.send(&quorum_list(6, &[2], false)).await;
    assert_eq!(told(&mut one).await, Vote::Ack);

    let targets = BTreeSet::from([NodeId(2)]);
    let ask = || {
        let targets = targets.clone();
        Ask::Register(Intent { requester: NodeId(1), epoch: None, targets, deadline_ms: 20_000 })
    };
    // A node's certificate is none.
    let mut node = secure(&arbiter, &site.client("TestCl"), "TestCl").await.unwrap();
    let refused = Verdict::Refused(Refusal::NotAGateway);
    assert_eq!(verdict(&mut node, 1, ask()).await, refused);

    let mut gateway = secure(&arbiter, &site.gateway("TestCl"), "TestCl").await.unwrap();
    assert_eq!(gateway.ask(&echo(9)).await.options.seq, Some(9));
    let Verdict::Entitled(attestation) = verdict(&mut gateway, 2, ask()).await else {
        panic!("not entitled")
    };
    assert_eq!(attestation.role, Role::Holder);
    let id = attestation.intent;
    let proof = Proof { node: NodeId(2), boot: BootId::default(), how: How::ReadOff, sent_ms: 0 };
    let off = Ask::Off { intent: id, proof };
    assert_eq!(verdict(&mut gateway, 3, off.clone()).await, Verdict::Noted);
    // What is left of its connection is closed.
    while two.receive_bytes().await.is_some() {}
    let place = arbiter.crash().await;

    let arbiter = Arbiter::start_in(place, &flags).await;
    // Its proof is still known, but nobody is connected who could be entitled.
    let mut one = secure(&arbiter, &site.client("TestCl"), "TestCl").await.unwrap();
    assert_eq!(one.ask(&init(1, RingId::new(1, 6))).await.options.error_code, Some(0));
    let mut gateway = secure(&arbiter, &site.gateway("TestCl"), "TestCl").await.unwrap();
    assert_eq!(verdict(&mut gateway, 4, off).await, Verdict::Noted);
    assert_eq!(verdict(&mut gateway, 5, Ask::Release(id)).await, Verdict::Noted);
    let again = verdict(&mut gateway, 6, Ask::Release(id)).await;
    assert_eq!(again, Verdict::Refused(Refusal::UnknownIntent));
    arbiter.stop().await.unwrap();
}
