//! Two nodes with two links between them, as real processes: one link is enough, none is a split.

mod common;

use common::site::Site;
use haguard::command::demo::samples::{Record, Sampler, now};
use haguard::command::demo::story::are_one;
use haguard::command::demo::verdict::two_sides;
use protocol::status::{LinkStatus, QuorumState};
use protocol::times;

const CONFIGURATION: &str = "\
totem {
  version: 2
  cluster_name: pair
}
nodelist {
  node {
    nodeid: 1
    ring0_addr: 10.77.0.1
    ring1_addr: 10.77.1.1
  }
  node {
    nodeid: 2
    ring0_addr: 10.77.0.2
    ring1_addr: 10.77.1.2
  }
}
quorum {
  provider: corosync_votequorum
  device {
    model: net
    votes: 1
    net {
      host: 10.77.9.9
      algorithm: ffsplit
      tls: required
    }
  }
}
haguard {
  watchdog: process
}
";
const ADDRESSES: [&str; 5] = ["10.77.0.1", "10.77.0.2", "10.77.1.1", "10.77.1.2", "10.77.9.9"];

/// Drops everything between the nodes on these links.
fn cut(site: &Site, links: &[u8]) {
    let mut script =
        "table inet links {}\ndelete table inet links\ntable inet links {\n chain between {\n  type \
         filter hook output priority 0;\n"
            .to_owned();
    for link in links {
        script += &format!("  ip saddr 10.77.{link}.0/24 ip daddr 10.77.{link}.0/24 drop\n");
    }
    site.nft(&(script + " }\n}\n"));
}

/// What each of the two says of a link to the other.
fn link(record: &Record, node: u32, number: u8) -> Option<&LinkStatus> {
    record.status(node)?.peers.get(&(3 - node))?.links.get(&number)
}

fn links_are(record: &Record, wanted: [bool; 2]) -> bool {
    [1, 2].iter().all(|node| {
        [0, 1].iter().zip(wanted).all(|(number, up)| {
            link(record, *node, *number).is_some_and(|link| link.connected == up)
        })
    })
}

/// Everything that the nodes have said since: they are quorate in one and the same view.
fn view_stays(sampler: &Sampler, view: &str, runs_before: usize) {
    let changes = sampler.read(|record| {
        let others =
            record.runs().iter().skip(runs_before).filter(|run| {
                run.state != QuorumState::Quorate || run.view.as_deref() != Some(view)
            });
        others.cloned().collect::<Vec<_>>()
    });
    assert!(changes.is_empty(), "{changes:?}");
}

async fn stays(site: &mut Site, sampler: &Sampler, wanted: [bool; 2]) {
    // Longer than a silent peer is tolerated.
    let until = now() + times::PEER_LEASE * 5;
    site.wait(sampler, "time to pass", |record| {
        assert!(are_one(record, &[1, 2]), "{:#?}", record.status(1));
        now() > until && links_are(record, wanted)
    })
    .await;
}

#[tokio::test]
async fn one_link_is_enough_for_view_and_quorum_and_none_is_a_split() {
    let addresses = ADDRESSES.iter().map(|address| (*address).to_owned());
    let Some(mut site) = Site::new("links", "pair", CONFIGURATION, addresses) else { return };
    site.run(Some("10.77.9.9"), 2);
    let sampler = site.sampler(2);
    let complete = |record: &Record| {
        are_one(record, &[1, 2])
            && links_are(record, [true, true])
            && record.status(1).is_some_and(|status| status.votes.total == 3)
    };
    site.wait(&sampler, "both links", complete).await;
    let before = sampler.read(|record| record.runs().len());
    let view = sampler.read(|record| record.status(1).unwrap().view.clone()).unwrap();

    for (cut_link, left) in [(0, [false, true]), (1, [true, false])] {
        cut(&site, &[cut_link]);
        let down = |record: &Record| links_are(record, left);
        site.wait(&sampler, "the link is shown as down", down).await;
        stays(&mut site, &sampler, left).await;
        let problem = sampler.read(|record| link(record, 1, cut_link).unwrap().problem.clone());
        assert!(!problem.is_empty(), "nothing is said about link {cut_link}");
        cut(&site, &[]);
        site.wait(&sampler, "both links again", complete).await;
    }
    view_stays(&sampler, &view, before);

    cut(&site, &[0, 1]);
    site.wait(&sampler, "one side is quorate", |record| {
        let states = [1, 2].map(|node| record.status(node).map(|status| status.state));
        let one = |a, b| states == [Some(a), Some(b)];
        one(QuorumState::Quorate, QuorumState::Inquorate)
            && record.status(1).is_some_and(|status| status.members == [1])
    })
    .await;
    cut(&site, &[]);
    site.wait(&sampler, "one view again", complete).await;
    let sides = sampler.read(|record| two_sides(record.runs()));
    assert!(sides.is_empty(), "two sides: {sides:?}");
}
