//! Every refusal and every warning, by its text, its line, and what to do.

use std::time::Duration;

use node::conf::{ConfErrors, Engine, Level, Options, Warning, load};

const TOTEM: &str = "totem {\nversion: 2\ncluster_name: c\n}\n";
const TWO: &str =
    "node {\nnodeid: 1\nring0_addr: 192.0.2.1\n}\nnode {\nnodeid: 2\nring0_addr: 192.0.2.2\n}\n";
const NET: &str = "model: net\nnet {\nhost: 192.0.2.9\ntls: required\n}\n";

/// A file whose totem section is on lines 1 to 4, nodelist from 5, quorum behind it.
fn file(nodes: &str, quorum: &str) -> String {
    format!("{TOTEM}nodelist {{\n{nodes}}}\nquorum {{\nprovider: corosync_votequorum\n{quorum}}}\n")
}

fn device(votes: &str, net: &str) -> String {
    format!("device {{\nmodel: net\n{votes}net {{\nhost: 192.0.2.9\ntls: required\n{net}}}\n}}\n")
}

fn errors(text: &str) -> ConfErrors {
    errors_with(text, &Options::default())
}

fn errors_with(text: &str, options: &Options) -> ConfErrors {
    match load("c.conf", text.as_bytes(), options) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors,
    }
}

fn warnings(text: &str) -> Vec<Warning> {
    match load("c.conf", text.as_bytes(), &Options::default()) {
        Ok(loaded) => loaded.warnings,
        Err(errors) => panic!("refused:\n{errors}\n{text}"),
    }
}

/// The file is refused for exactly one reason, told in exactly this line.
#[track_caller]
fn refused(text: &str, message: &str) {
    assert_eq!(errors(text).to_string(), format!("c.conf{message}"));
}

#[track_caller]
fn advised(text: &str, part: &str) {
    let warnings = warnings(text);
    let found = warnings.iter().find(|warning| warning.text.contains(part));
    assert_eq!(found.map(|warning| warning.level), Some(Level::Advice), "{warnings:?}");
}

#[test]
fn the_plain_file_behind_these_tests_is_accepted() {
    assert!(
        load("c", file(TWO, &device("votes: 1\n", "")).as_bytes(), &Options::default()).is_ok()
    );
}

#[test]
fn totem_is_refused_without_name_or_version_and_with_plain_text() {
    refused(
        &file(TWO, "").replace("cluster_name: c\n", ""),
        ":1: totem.cluster_name is missing; give the cluster a name",
    );
    refused(
        &file(TWO, "").replace("version: 2\n", ""),
        ":1: totem.version is missing; write `version: 2`",
    );
    let with = |line: &str| file(TWO, "").replace("version: 2\n", &format!("version: 2\n{line}"));
    for line in [
        "secauth: off\n",
        "crypto_cipher: none\n",
        "crypto_hash: none\n",
        "crypto_hash: sha256\n",
        "secauth: on\ncrypto_cipher: none\n",
    ] {
        let text = errors(&with(line)).to_string();
        assert!(text.contains("the builtin engine always encrypts"), "{line}{text}");
    }
    for line in ["secauth: on\n", "secauth: off\ncrypto_cipher: aes256\ncrypto_hash: sha256\n"] {
        warnings(&with(line));
    }
}

#[test]
fn words_and_numbers_out_of_range_are_named_with_what_is_wanted() {
    let totem =
        |line: &str| file(TWO, "").replace("version: 2\n", &format!("version: 2\n{line}\n"));
    for (line, wanted) in [
        ("version: 1", "2"),
        ("transport: tcp", "knet or udpu or udp"),
        ("link_mode: both", "passive or active or rr"),
        ("ip_version: 4", "ipv4 or ipv6 or ipv4-6 or ipv6-4"),
        ("secauth: yes", "on or off"),
        ("crypto_cipher: 3des", "none or aes128 or aes192 or aes256"),
        ("crypto_hash: crc", "none or md5 or sha1 or sha256 or sha384 or sha512"),
        ("config_version: -1", "a number from 0 to 18446744073709551615"),
        ("token: 1s", "a number from 0 to 4294967295"),
        ("clear_node_high_bit: 1", "yes or no"),
        ("window_size: many", "a number"),
    ] {
        let (key, value) = line.split_once(": ").unwrap();
        refused(&totem(line), &format!(":3: totem.{key}: {value:?} is refused; give {wanted}"));
    }
    let quorum = |line: &str| file(TWO, &format!("{line}\n"));
    for (line, wanted) in [
        ("two_node: yes", "0 or 1"),
        ("wait_for_all: 2", "0 or 1"),
        ("expected_votes: 0", "a number from 1 to 4294967295"),
        ("expected_votes: +3", "a number from 1 to 4294967295"),
        ("auto_tie_breaker_node: 1 x", "lowest, highest, or node ids with blanks between them"),
        ("auto_tie_breaker_node: 0", "lowest, highest, or node ids with blanks between them"),
        ("last_man_standing_window:", "a number from 0 to 4294967295"),
    ] {
        let (key, value) = line.split_once(':').unwrap();
        let (key, value) = (format!("quorum.{key}"), value.trim());
        refused(&quorum(line), &format!(":17: {key}: {value:?} is refused; give {wanted}"));
    }
    refused(
        &file(TWO, "").replace("corosync_votequorum", "ykd"),
        ":16: quorum.provider: \"ykd\" is refused; give corosync_votequorum",
    );
}

#[test]
fn interfaces_have_links_0_to_7_and_ports_1_to_65535() {
    let with = |line: &str| {
        file(TWO, "").replace("version: 2\n", &format!("version: 2\ninterface {{\n{line}\n}}\n"))
    };
    for (line, wanted) in [
        ("linknumber: 8", "a number from 0 to 7"),
        ("mcastport: 0", "a number from 1 to 65535"),
        ("mcastport: 65536", "a number from 1 to 65535"),
        ("knet_link_priority: 256", "a number from 0 to 255"),
        ("knet_transport: tcp", "udp or sctp"),
        ("ttl: 256", "a number from 0 to 255"),
    ] {
        let (key, value) = line.split_once(": ").unwrap();
        let path = format!("totem.interface.{key}");
        refused(&with(line), &format!(":4: {path}: {value:?} is refused; give {wanted}"));
    }
    advised(&with("linknumber: 3"), "interface of link 3: no node has ring3_addr");
}

#[test]
fn nodes_need_distinct_ids_names_and_addresses() {
    refused(
        &file("", ""),
        ":5: there is no node; add a `node {` section for each node to `nodelist {`",
    );
    refused(TOTEM, ": there is no node; add a `node {` section for each node to `nodelist {`");
    refused(
        &file(&TWO.replace("nodeid: 2", "nodeid: 1"), ""),
        ":10: nodeid 1 is used by two nodes; give each node its own",
    );
    refused(
        &file(&TWO.replace("nodeid: 2", "nodeid: 0"), ""),
        ":10: node id 0 is reserved; give the node an id from 1 to 4294967295",
    );
    refused(
        &file(&TWO.replace("nodeid: 2", "nodeid: 4294967296"), ""),
        ":11: nodelist.node.nodeid: \"4294967296\" is refused; give a number from 1 to 4294967295",
    );
    refused(
        &file(&TWO.replace("nodeid: 2\nring0_addr: 192.0.2.2", "ring0_addr: host"), ""),
        ":10: a node has no nodeid, and it derives only from an IPv4 ring0_addr; add `nodeid: N`",
    );
    refused(
        &file(&TWO.replace("ring0_addr: 192.0.2.2\n", ""), ""),
        ":10: node 2 has no address; add `ring0_addr: ADDRESS`",
    );
    refused(
        &file(&TWO.replace("192.0.2.2", "192.0.2.1"), ""),
        ":12: address \"192.0.2.1\" is given to nodes 1 and 2; each needs its own",
    );
    refused(
        &file(&TWO.replace("nodeid", "name: x\nnodeid"), ""),
        ":11: the name \"x\" is given to nodes 1 and 2; each needs its own",
    );
    refused(
        &file(&TWO.replace("ring0_addr: 192.0.2.2", "ring1_addr: 192.0.2.2"), ""),
        ":10: nodes 1 and 2 share no link; give both a ringX_addr with the same X",
    );
    refused(
        &format!("{}nodelist {{\n}}\n", file(TWO, "")),
        ":18: a second nodelist; put all nodes into one",
    );
    refused(
        &file(&TWO.replace("nodeid: 2", "nodeid: 2\nring8_addr: 192.0.2.3"), ""),
        ":12: ring8_addr names a link beyond 7; links are numbered 0 to 7",
    );
    let many = |count: u32| {
        let node = |id| format!("node {{\nnodeid: {id}\nring0_addr: 192.0.2.{id}\n}}\n");
        file(&(1..=count).map(node).collect::<String>(), "")
    };
    warnings(&many(16));
    refused(
        &many(17),
        ":5: 17 nodes, and the builtin engine runs at most 16; run corosync as engine",
    );
}

#[test]
fn node_ids_derive_from_the_ring0_address() {
    let nodes = "node {\nring0_addr: 200.0.0.1\n}\n";
    let id =
        |text: &str| load("c", text.as_bytes(), &Options::default()).unwrap().conf.nodes[0].id.0;
    assert_eq!(id(&file(nodes, "")), 0xc800_0001);
    let cleared = file(nodes, "").replace("version: 2\n", "version: 2\nclear_node_high_bit: yes\n");
    assert_eq!(id(&cleared), 0x4800_0001);
}

#[test]
fn addresses_must_be_usable_and_of_the_right_family() {
    for address in ["192.0.2.256", "0.0.0.0", "::", "239.0.0.1", "a b", "fe80:::1", "-x"] {
        let text = file(&TWO.replace("192.0.2.2", address), "");
        refused(
            &text,
            &format!(
                ":12: nodelist.node.2.ring0_addr: {address:?} is no usable address or host name; \
                 correct it"
            ),
        );
    }
    let text = file(&TWO.replace("192.0.2.2", "2001:db8::2"), "");
    warnings(&text);
    refused(
        &text.replace("version: 2\n", "version: 2\nip_version: ipv4\n"),
        ":13: nodelist.node.2.ring0_addr: \"2001:db8::2\" is not of the family that \
         totem.ip_version demands; change either",
    );
    let twice =
        TWO.replace("ring0_addr: 192.0.2.2", "ring0_addr: 192.0.2.2\nring1_addr: 192.0.2.2");
    let twice = twice.replace("ring0_addr: 192.0.2.1", "ring0_addr: 192.0.2.1\nring1_addr: b");
    advised(&file(&twice, ""), "links 0 and 1 have one address and fail together");
    refused(
        &file(&twice, "").replace(
            "version: 2\n",
            "version: 2\ninterface {\nlinknumber: 1\nmcastport: 5405\n}\n",
        ),
        ":18: node 2 has links 0 and 1 on one address and port; change one",
    );
    let less =
        TWO.replace("ring0_addr: 192.0.2.1", "ring0_addr: 192.0.2.1\nring3_addr: 198.51.100.1");
    advised(&file(&less, ""), "node 2 has no ring3_addr, which other nodes have");
}

#[test]
fn votes_must_exist_and_be_small_enough_to_add() {
    let votes = |votes: &str| TWO.replace("nodeid", &format!("quorum_votes: {votes}\nnodeid"));
    refused(
        &file(&votes("0"), ""),
        ":5: no node has a vote; give at least one node quorum_votes of 1 or more",
    );
    refused(
        &file(&votes("4294967295"), ""),
        ":17: the votes add up to more than 1000000; use small numbers",
    );
    advised(&file(TWO, "expected_votes: 1\n"), "expected_votes 1 is below the 2 votes");
    advised(&file(TWO, ""), "2 votes and no quorum device");
    advised(&format!("{TOTEM}nodelist {{\n{TWO}}}\n"), "quorum.provider is missing");
}

#[test]
fn features_of_votequorum_that_cannot_run_together_are_refused() {
    let with_device = |line: &str| file(TWO, &format!("{line}\n{}", device("votes: 1\n", "")));
    for feature in ["two_node", "last_man_standing", "allow_downscale", "auto_tie_breaker"] {
        refused(
            &with_device(&format!("{feature}: 1")),
            &format!(":17: {feature} and a quorum device cannot run together; remove {feature}"),
        );
    }
    refused(
        &file(TWO, "two_node: 1\nauto_tie_breaker: 1\n"),
        ":17: two_node and auto_tie_breaker cannot run together; remove one of them",
    );
    refused(
        &file(&TWO.replace("nodeid: 2", "nodeid: 2\nquorum_votes: 2"), "two_node: 1\n"),
        ":18: two_node needs exactly two nodes with one vote each; remove two_node",
    );
    advised(&file(TWO, "two_node: 1\n"), "stays inquorate until the lost one is confirmed off");
    let text = errors(&file(TWO, "last_man_standing: 1\n")).to_string();
    assert!(text.starts_with("c.conf:17: last_man_standing would shrink expected votes"), "{text}");
    let text = errors(&file(TWO, "allow_downscale: 1\n")).to_string();
    assert!(text.starts_with("c.conf:17: allow_downscale would shrink expected votes"), "{text}");
}

#[test]
fn an_auto_tie_breaker_needs_known_nodes_and_with_odd_votes_wait_for_all() {
    let three = format!("{TWO}node {{\nnodeid: 3\nring0_addr: 192.0.2.3\n}}\n");
    refused(
        &file(&three, "auto_tie_breaker: 1\n"),
        ":21: auto_tie_breaker with an odd number of votes needs wait_for_all; write \
         `wait_for_all: 1` or remove auto_tie_breaker",
    );
    warnings(&file(&three, "auto_tie_breaker: 1\nwait_for_all: 1\n"));
    warnings(&file(TWO, "auto_tie_breaker: 1\nauto_tie_breaker_node: 2 1\n"));
    refused(
        &file(TWO, "auto_tie_breaker: 1\nauto_tie_breaker_node: 1 7\n"),
        ":18: auto_tie_breaker_node names node 7, which is not in the nodelist; correct it",
    );
    advised(&file(TWO, "auto_tie_breaker_node: 1\n"), "has no effect without");
}

#[test]
fn a_device_needs_a_model_a_host_and_known_words() {
    refused(
        &file(TWO, &device("votes: 1\n", "").replace("model: net\n", "")),
        ":17: quorum.device has no model; write `model: net`, or remove the section",
    );
    refused(
        &file(TWO, &device("votes: 1\n", "").replace("model: net", "model: disk")),
        ":18: quorum.device.model: \"disk\" is refused; give net",
    );
    refused(
        &file(TWO, &device("votes: 1\n", "").replace("host: 192.0.2.9\n", "")),
        ":17: quorum.device.net.host is missing; name the arbiter's host",
    );
    refused(
        &file(TWO, &device("votes: 1\n", "").replace("192.0.2.9", "arbiter:5403")),
        ":21: quorum.device.net.host: \"arbiter:5403\" is no usable address or host name; correct \
         it",
    );
    for (line, wanted) in [
        ("port: 0", "a number from 1 to 65535"),
        ("port: 65536", "a number from 1 to 65535"),
        ("tls: maybe", "yes or no or required"),
        ("algorithm: FFSPLIT", "ffsplit or lms or 2nodelms or test"),
        ("tie_breaker: 0", "lowest, highest or a node id"),
        ("tie_breaker: middle", "lowest, highest or a node id"),
        ("tie_breaker: 4294967296", "lowest, highest or a node id"),
        ("connect_timeout: 999", "a number from 1000 to 120000"),
        ("connect_timeout: 120001", "a number from 1000 to 120000"),
        ("force_ip_version: 5", "0 or 4 or 6"),
        ("keep_active_partition_tie_breaker: 2", "yes or no"),
    ] {
        let (key, value) = line.split_once(": ").unwrap();
        let text = file(TWO, &device("votes: 1\n", &format!("{line}\n")));
        let text = if key == "tls" { text.replace("tls: required\n", "") } else { text };
        let at = if key == "tls" { 22 } else { 23 };
        let path = format!("quorum.device.net.{key}");
        refused(&text, &format!(":{at}: {path}: {value:?} is refused; give {wanted}"));
    }
    for (line, wanted) in [
        ("timeout: 1", "a number from 2 to 6000000"),
        ("timeout: 6000001", "a number from 2 to 6000000"),
        ("sync_timeout: 18000001", "a number from 2 to 18000000"),
    ] {
        let (key, value) = line.split_once(": ").unwrap();
        let text = file(TWO, &device(&format!("votes: 1\n{line}\n"), ""));
        let path = format!("quorum.device.{key}");
        refused(&text, &format!(":20: {path}: {value:?} is refused; give {wanted}"));
    }
}

#[test]
fn bool_words_are_taken_in_any_case() {
    for word in ["YES", "On", "1"] {
        warnings(&file(
            TWO,
            &device("votes: 1\n", &format!("keep_active_partition_tie_breaker: {word}\n")),
        ));
    }
}

#[test]
fn device_votes_follow_the_algorithm_and_votequorum() {
    refused(&file(TWO, &device("", "")), ":17: ffsplit needs `votes: 1` in quorum.device; add it");
    refused(
        &file(TWO, &device("votes: 2\n", "")),
        ":19: ffsplit needs `votes: 1` in quorum.device; it says 2",
    );
    refused(
        &file(&TWO.replace("nodeid: 2", "nodeid: 2\nquorum_votes: 3"), &device("votes: 1\n", "")),
        ":10: ffsplit needs one vote for each node, and node 2 has 3; set it to 1",
    );
    let lms = "algorithm: lms\n";
    refused(
        &file(TWO, &format!("expected_votes: 3\n{}", device("", lms))),
        ":18: quorum.device.votes must be given when quorum.expected_votes is; add it",
    );
    refused(
        &file(&TWO.replace("nodeid: 2", "nodeid: 2\nquorum_votes: 3"), &device("", lms)),
        ":18: quorum.device.votes must be given when not every node has one vote; add it",
    );
    refused(
        &file(TWO, &device("votes: 0\n", lms)),
        ":19: the quorum device has no vote; set quorum.device.votes to 1 or more",
    );
    refused(
        &file(TWO, &format!("expected_votes: 2\n{}", device("votes: 1\n", ""))),
        ":17: expected_votes 2 less the device's 1 leaves fewer than 2; raise expected_votes, or \
         remove it to have it computed",
    );
    warnings(&file(TWO, &format!("expected_votes: 3\n{}", device("votes: 1\n", ""))));
    advised(&file(TWO, &device("votes: 4\n", lms)), "one vote less than the nodes");
    let one = "node {\nnodeid: 1\nring0_addr: 192.0.2.1\n}\n";
    advised(&file(one, &device("votes: 1\n", "")), "can only take quorum away");
    let three = format!("{TWO}node {{\nnodeid: 3\nring0_addr: 192.0.2.3\n}}\n");
    advised(&file(&three, &device("votes: 1\n", "")), "made for an even number");
    refused(
        &file(&three, &device("votes: 1\n", "algorithm: 2nodelms\n")),
        ":27: algorithm 2nodelms needs exactly two nodes, not 3; use ffsplit or lms",
    );
    refused(
        &file(TWO, &device("votes: 1\n", "tie_breaker: 3\n")),
        ":23: quorum.device.net.tie_breaker names node 3, which is not in the nodelist",
    );
}

#[test]
fn the_test_algorithm_needs_its_switch() {
    let text = file(TWO, &device("votes: 1\n", "algorithm: test\n"));
    let message = errors(&text).to_string();
    assert!(message.starts_with("c.conf:23: algorithm test gives several sides"), "{message}");
    let options = Options { test_algorithm: true, ..Options::default() };
    assert!(load("c", text.as_bytes(), &options).is_ok());
}

#[test]
fn a_stock_device_must_not_outlast_the_watchdog_in_a_sync() {
    let text = file(TWO, &device("votes: 1\n", ""));
    let engine = Engine::Corosync { stock_device: true };
    let options = Options { engine, ..Options::default() };
    let message = errors_with(&text, &options).to_string();
    assert!(message.contains("30000 ms is above the watchdog's 5000 ms"), "{message}");
    let longer = Options { watchdog: Duration::from_secs(30), ..options };
    assert!(load("c", text.as_bytes(), &longer).is_ok());
    let own = Options { engine: Engine::Corosync { stock_device: false }, ..options };
    assert!(load("c", text.as_bytes(), &own).is_ok());
}

#[test]
fn a_clamped_heartbeat_and_optional_tls_are_pointed_out() {
    advised(&file(TWO, &device("votes: 1\ntimeout: 1000\n", "")), "clamped to 1000 ms");
    advised(&file(TWO, &device("votes: 1\ntimeout: 200000\n", "")), "clamped to 120000 ms");
    let optional = file(TWO, &device("votes: 1\n", "")).replace("tls: required\n", "");
    advised(&optional, "write `tls: required`");
}

#[test]
fn heuristics_have_ranges_names_and_a_number_of_commands() {
    let with = |lines: &str| {
        file(TWO, &format!("device {{\nvotes: 1\n{NET}heuristics {{\n{lines}}}\n}}\n"))
    };
    for (line, wanted) in [
        ("mode: sometimes", "yes or no or sync"),
        ("timeout: 999", "a number from 1000 to 120000"),
        ("sync_timeout: 120001", "a number from 1000 to 120000"),
        ("interval: 999", "a number from 1000 to 3600000"),
        ("interval: 3600001", "a number from 1000 to 3600000"),
    ] {
        let (key, value) = line.split_once(": ").unwrap();
        let path = format!("quorum.device.heuristics.{key}");
        refused(
            &with(&format!("{line}\n")),
            &format!(":25: {path}: {value:?} is refused; give {wanted}"),
        );
    }
    for mode in ["on", "sync"] {
        refused(
            &with(&format!("mode: {mode}\n")),
            ":24: heuristics have no exec_NAME; add one, or write `mode: off`",
        );
    }
    let execs =
        |count: usize| (0..count).map(|n| format!("exec_{n}: /bin/true\n")).collect::<String>();
    warnings(&with(&format!("mode: on\n{}", execs(32))));
    refused(
        &with(&format!("mode: on\n{}", execs(33))),
        ":24: 33 heuristics commands, and at most 32 run; merge some into a script",
    );
    for name in ["", "a.b"] {
        refused(
            &with(&format!("exec_{name}: /bin/true\n")),
            &format!(
                ":25: exec_{name}: the name must be letters, digits, '_', '-' or '/'; rename it"
            ),
        );
    }
    refused(
        &with("exec_a:\n"),
        ":25: exec_a: the command is empty; give an absolute path and its arguments",
    );
    advised(&with("mode: on\nexec_a: ping x\n"), "does not begin with an absolute path");
}

#[test]
fn the_haguard_section_has_one_service_that_can_run() {
    let with = |lines: &str| format!("{}haguard {{\n{lines}}}\n", file(TWO, ""));
    refused(
        &with("watchdog: softdog\n"),
        ":19: haguard.watchdog: \"softdog\" is refused; give process, off or a device's absolute \
         path",
    );
    refused(
        &with("trust_process_watchdog: perhaps\n"),
        ":19: haguard.trust_process_watchdog: \"perhaps\" is refused; give yes or no",
    );
    advised(&with("trust_process_watchdog: yes\n"), "no effect without `watchdog: process`");
    warnings(&with("watchdog: process\ntrust_process_watchdog: yes\n"));
    let service = |lines: &str| with(&format!("service {{\n{lines}}}\n"));
    refused(
        &service("command: /bin/x\n"),
        ":19: the service has no name; write `name: NAME` with letters, digits, '_', '-' or '.'",
    );
    for name in ["a b", "../x", ".."] {
        let text = errors(&service(&format!("name: {name}\ncommand: /bin/x\n"))).to_string();
        assert!(text.contains("the service has no name"), "{text}");
    }
    refused(
        &service("name: web\n"),
        ":19: service \"web\" has no command; write `command: /path/of/program ARGUMENTS`",
    );
    refused(
        &service("name: web\ncommand:\n"),
        ":21: haguard.service.command: \"\" is refused; give a text",
    );
    refused(
        &service("name: web\ncommand: /bin/x\nprefer: 3\n"),
        ":22: service.prefer names node 3, which is not in the nodelist; correct it",
    );
    refused(
        &service("name: web\ncommand: /bin/x\nprefer: first\n"),
        ":22: haguard.service.prefer: \"first\" is refused; give a node id",
    );
    let two = "service {\nname: a\ncommand: /a\n}\nservice {\nname: b\ncommand: /b\n}\n";
    refused(&with(two), ":23: a second service; one guarded command can be given");
}

#[test]
fn unknown_keys_and_sections_are_warned_about_by_name_and_line() {
    let text = "totem {\nversion: 2\ncluster_name: c\nlink_mod: rr\n\
        interface {\nlinknumber: 0\nxyzzy: 1\n}\n}\n\
        nodelist {\nnode {\nnodeid: 1\nring0_addr: 192.0.2.1\nringx_addr: a\nvotes: 2\n}\n}\n\
        quorum {\nprovider: corosync_votequorum\nwait_forall: 1\n}\n\
        logging {\ndebgu: on\n}\nstray: 1\nsuper {\n}\nhaguard {\nservices {\n}\n}\n";
    let warnings = warnings(text);
    let unknown = warnings.iter().filter(|warning| warning.level == Level::Unknown);
    let unknown: Vec<_> = unknown.map(ToString::to_string).collect();
    let tail = "it has no effect; remove it or correct its name";
    assert_eq!(
        unknown,
        [
            "line 23: logging.debgu: unknown key, it has no effect; did you mean debug?".to_owned(),
            format!("line 25: stray: unknown key, {tail}"),
            format!("line 26: super: unknown section, {tail}"),
            format!("line 7: totem.interface.xyzzy: unknown key, {tail}"),
            "line 4: totem.link_mod: unknown key, it has no effect; did you mean link_mode?"
                .to_owned(),
            "line 14: nodelist.node.ringx_addr: unknown key, it has no effect".to_owned(),
            format!("line 15: nodelist.node.votes: unknown key, {tail}"),
            "line 20: quorum.wait_forall: unknown key, it has no effect; did you mean \
             wait_for_all?"
                .to_owned(),
            "line 29: haguard.services: unknown section, it has no effect; did you mean service?"
                .to_owned(),
        ]
    );
}

#[test]
fn known_but_unused_keys_are_listed_quietly_and_their_kinds_still_checked() {
    let text = file(TWO, "leaving_timeout: 5\n").replace(
        "version: 2\n",
        "version: 2\nkeyfile: /etc/corosync/authkey\nknet_mtu: 1400\n\
             token: 5000\ntransport: udpu\nlink_mode: rr\n",
    );
    let warnings =
        warnings(&format!("{text}system {{\nsched_rr: yes\n}}\nresources {{\nsystem {{\n}}\n}}\n"));
    let unused = warnings.iter().filter(|warning| warning.level == Level::Unused);
    let unused: Vec<_> = unused.map(|warning| warning.text.as_str()).collect();
    assert_eq!(
        unused,
        [
            "system.sched_rr: known, and not used",
            "resources: known section, and not used",
            "totem.keyfile: known, and not used",
            "totem.knet_mtu: known, and not used",
            "quorum.leaving_timeout: known, and not used",
            "totem.token: known, and not used: beats have their own times",
            "totem.transport: known, and not used: nodes speak QUIC over udp",
            "totem.link_mode: known, and not used: it counts as passive",
        ]
    );
    refused(
        &format!("{}system {{\nsched_rr: maybe\n}}\n", file(TWO, "")),
        ":19: system.sched_rr: \"maybe\" is refused; give yes or no",
    );
}

#[test]
fn the_last_of_repeated_keys_stands_and_sections_of_one_name_are_one() {
    let text = format!(
        "{}quorum {{\nwait_for_all: 1\nwait_for_all: 0\n}}\n",
        file(TWO, "wait_for_all: 1\n")
    );
    let loaded = load("c", text.as_bytes(), &Options::default()).unwrap();
    assert!(!loaded.conf.wait_for_all());
    let again = loaded.warnings.iter().filter(|warning| warning.text.contains("given again"));
    assert_eq!(again.map(|warning| warning.line).collect::<Vec<_>>(), [Some(20), Some(21)]);
}

#[test]
fn all_problems_of_a_file_are_told_at_once_and_a_flood_is_counted() {
    let text = errors(&file(&TWO.replace("nodeid: 2", "nodeid: 1"), "two_node: 3\n")).to_string();
    assert_eq!(text.lines().count(), 2, "{text}");
    let flood: String = (0..500).map(|n| format!("service {{\nname: {n}\n")).collect::<String>()
        + &"}\n".repeat(500);
    let deep = errors(&flood).to_string();
    assert!(deep.contains("nest deeper than 16"), "{deep}");
    let interfaces = "interface {\nlinknumber: 9\n}\n".repeat(500);
    let text = file(TWO, "").replace("version: 2\n", &format!("version: 2\n{interfaces}"));
    let message = errors(&text).to_string();
    assert_eq!(message.lines().count(), 101);
    assert!(message.ends_with("and 400 more; correct the lines above first"), "{message}");
}

#[test]
fn broken_syntax_is_told_with_its_line() {
    refused(&file(TWO, "device {\n"), ":15: section \"quorum\" is never closed; add its '}'");
    refused(
        &format!("{TOTEM}nodelist\n"),
        ":5: neither `key: value` nor `section {` nor '}'; put '#' before a comment",
    );
}
