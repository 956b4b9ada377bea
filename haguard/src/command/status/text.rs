//! The picture for people.

use std::fmt::Write as _;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use protocol::status::{ArbiterStatus, NodeStatus, QuorumState};

use super::Picture;
use crate::screen::{Brush, Colour};

/// The whole picture, without an end of line.
pub(super) fn draw(picture: &Picture, brush: Brush) -> String {
    let mut text = String::new();
    if let Some(node) = &picture.node {
        draw_node(&mut text, node, brush);
    }
    if let Some(arbiter) = &picture.arbiter {
        if picture.node.is_some() {
            text.push('\n');
        }
        draw_arbiter(&mut text, arbiter, brush);
    }
    for problem in &picture.problems {
        let _ = writeln!(text, "{}", brush.paint(Colour::Bad, problem));
    }
    text.truncate(text.trim_end().len());
    text
}

fn draw_node(text: &mut String, node: &NodeStatus, brush: Brush) {
    let (colour, state) = match node.state {
        QuorumState::Quorate => (Colour::Good, "quorate"),
        QuorumState::Frozen => (Colour::Waiting, "frozen"),
        QuorumState::Inquorate => (Colour::Bad, "inquorate"),
    };
    let title = format!("node {} of cluster {}: ", node.node, plain(&node.cluster));
    let _ = write!(text, "{}{}", brush.paint(Colour::Title, &title), brush.paint(colour, state));
    if !node.reason.is_empty() {
        let _ = write!(text, " ({})", plain(&node.reason));
    }
    text.push('\n');
    let mut rows = Table::new();
    rows.load_style(NOTHING);
    if node.engine == "corosync" {
        rows.add_row(["engine", "corosync, which this guard watches"]);
    }
    let view = node.view.as_deref().map_or("none".to_owned(), |view| {
        format!("{} of {}, epoch {}", plain(view), ids(&node.members), node.epoch)
    });
    rows.add_row(["view", &view]);
    let votes = &node.votes;
    let votes = format!("{} of {} expected, quorum {}", votes.total, votes.expected, votes.quorum);
    rows.add_row(["votes", &votes]);
    let device = node.qdevice.as_ref().map_or("none".to_owned(), |device| {
        let lease = device.lease_remaining_ms;
        let lease = lease.map(|ms| format!(", lease for {ms} ms")).unwrap_or_default();
        format!(
            "{} {}, vote {}{lease}",
            plain(&device.state),
            plain(&device.arbiter),
            plain(&device.vote)
        )
    });
    rows.add_row(["device", &device]);
    let watchdog = &node.watchdog;
    let armed = if watchdog.armed {
        format!("armed for {} ms", watchdog.remaining_ms)
    } else {
        "not armed".to_owned()
    };
    let name = if watchdog.device.is_empty() { "none" } else { &watchdog.device };
    let watchdog = format!("{} (class {}), {armed}", plain(name), plain(&watchdog.class));
    rows.add_row(["watchdog", &watchdog]);
    for resource in &node.resources {
        let place =
            resource.node.map(|node| format!(" (placed on node {node})")).unwrap_or_default();
        let service = format!("{}: {}{place}", plain(&resource.name), plain(&resource.state));
        rows.add_row(["service", &service]);
    }
    for (peer, status) in &node.peers {
        let contact = match (status.contact, status.silent_ms) {
            (true, _) => "in contact".to_owned(),
            (false, Some(ms)) => format!("silent for {ms} ms"),
            (false, None) => "never heard".to_owned(),
        };
        let note = if status.note.is_empty() || status.note == contact {
            String::new()
        } else {
            format!(", {}", plain(&status.note))
        };
        rows.add_row(["peer", &format!("{peer}: {contact}{note}")]);
    }
    for (lost, wait) in &node.fencing {
        rows.add_row(["recovery", &format!("node {lost}: {}", plain(wait))]);
    }
    for warning in &node.warnings {
        rows.add_row(["warning", &plain(warning)]);
    }
    push(text, &rows);
}

fn draw_arbiter(text: &mut String, arbiter: &ArbiterStatus, brush: Brush) {
    let title = format!("arbiter on {}: ", plain(&arbiter.address));
    let clients = format!("{} clients, TLS {}", arbiter.clients, plain(&arbiter.tls));
    let _ = writeln!(text, "{}{clients}", brush.paint(Colour::Title, &title));
    for (name, cluster) in &arbiter.clusters {
        let name = plain(name);
        let holder = if cluster.holder.is_empty() {
            brush.paint(Colour::Waiting, "nobody has the vote")
        } else {
            brush.paint(Colour::Good, &format!("{} has the vote", ids(&cluster.holder)))
        };
        let algorithm = plain(&cluster.algorithm);
        let _ = writeln!(text, "  cluster {name} ({algorithm}): {holder}, epoch {}", cluster.epoch);
        if let Some(waiting) = &cluster.waiting {
            let limit = cluster.waiting_ms.map(|ms| format!(", at most {ms} ms"));
            let limit = limit.unwrap_or_default();
            let waiting = format!("    waits for {}{limit}", plain(waiting));
            let _ = writeln!(text, "{}", brush.paint(Colour::Waiting, &waiting));
        }
        let mut rows = Table::new();
        rows.load_style(NOTHING);
        rows.set_header(["  node", "address", "TLS", "leases", "ring", "reports", "vote", "holds"]);
        for (node, client) in &cluster.nodes {
            let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
            rows.add_row([
                format!("  {node}"),
                plain(&client.address),
                yes(client.tls),
                yes(client.leases),
                plain(&client.ring_id),
                ids(&client.members),
                client.vote.as_deref().map_or("none".to_owned(), plain),
                client.hold_ms.map_or("-".to_owned(), |ms| format!("{ms} ms")),
            ]);
        }
        push(text, &rows);
    }
    for warning in &arbiter.warnings {
        let _ = writeln!(text, "  warning: {}", plain(warning));
    }
}

fn push(text: &mut String, rows: &Table) {
    for line in rows.lines() {
        let _ = writeln!(text, " {}", line.trim_end());
    }
}

fn ids(nodes: &[u32]) -> String {
    let nodes: Vec<String> = nodes.iter().map(u32::to_string).collect();
    format!("{{{}}}", nodes.join(","))
}

/// Names come from peers: whatever could steer a terminal is left out.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_drawn_with_its_state_and_why() {
        let node = NodeStatus {
            cluster: "demo\x1b[2J".to_owned(),
            node: 2,
            state: QuorumState::Frozen,
            reason: "1 of 2 votes".to_owned(),
            members: vec![1, 2],
            view: Some("1.4/00000000".to_owned()),
            ..NodeStatus::default()
        };
        let picture = Picture { node: Some(node), ..Picture::default() };
        let text = draw(&picture, Brush::for_stdout());
        assert!(text.starts_with("node 2 of cluster demo?[2J: frozen (1 of 2 votes)"), "{text}");
        assert!(text.contains("1.4/00000000 of {1,2}"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
}
