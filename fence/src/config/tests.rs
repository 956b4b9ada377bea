use super::*;
use crate::config::device::{Kind, Proof};
use crate::core;
use crate::ipmi::{Privilege, Suite};

/// The least that makes sense.
const LEAST: &str = "\
cluster = \"demo\"
arbiter = \"arbiter.example\"
[devices.ipmi-n1]
kind = \"ipmi\"
address = \"192.0.2.1\"
user = \"haguard\"
password-file = \"ipmi-n1\"
[nodes.1]
levels = [[\"ipmi-n1\"]]
";

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(Path::new("/g"), text).map_err(|error| error.to_string())
}

/// [`LEAST`] with some text replaced.
fn changed(from: &str, to: &str) -> Result<Settings, String> {
    assert!(LEAST.contains(from), "{from}");
    parse(&LEAST.replace(from, to))
}

#[test]
fn the_least_file_has_the_defaults() {
    let settings = parse(LEAST).unwrap();
    assert_eq!(settings.listen.to_string(), "[::]:5413");
    assert_eq!(settings.arbiter.to_string(), "arbiter.example:5403");
    assert_eq!(settings.arbiter_name, "Qnetd Server");
    assert_eq!((settings.metrics, settings.rehearse_every), (None, Duration::from_secs(300)));
    let Kind::Ipmi(ipmi) = &settings.devices["ipmi-n1"].kind else { panic!("no ipmi") };
    assert_eq!(ipmi.address.to_string(), "192.0.2.1:623");
    assert_eq!(ipmi.suites, [Suite::Seventeen, Suite::Three]);
    assert_eq!(ipmi.privilege, Privilege::Administrator);
    assert_eq!(settings.nodes[&NodeId(1)].delay, Delay::Arbiter);
    assert!(!settings.nodes[&NodeId(1)].unfence);
    assert_eq!(settings.warnings, [""; 0]);
    assert_eq!(settings.votes.nodes, [(NodeId(1), 1)].into());
    assert_eq!(settings.votes.arbiter, 1);
}

#[test]
fn votes_are_those_of_the_clusters_own_configuration() {
    let text = LEAST
        .replace("[devices", "arbiter-votes = 3\n[devices")
        .replace("[nodes.1]\n", "[nodes.1]\nvotes = 0\n");
    let votes = parse(&text).unwrap().core().votes;
    assert_eq!((votes.nodes, votes.arbiter), ([(NodeId(1), 0)].into(), 3));
    for wrong in ["-1", "\"1\"", "100001", "1.0"] {
        let text = LEAST.replace("[devices", &format!("arbiter-votes = {wrong}\n[devices"));
        let said = parse(&text).unwrap_err().to_string();
        assert_eq!(said, "/g: 'arbiter-votes' must be a whole number from 0 to 100000", "{wrong}");
    }
}

#[test]
fn the_example_of_the_package_is_read_whole() {
    let text = include_str!("../../../packaging/gateway.toml");
    let settings = parse(text).unwrap();
    let kinds: Vec<&str> = settings.devices.values().map(|device| device.kind.name()).collect();
    for kind in ["ipmi", "redfish", "agent", "watchdog"] {
        assert!(kinds.contains(&kind), "{kind}");
    }
    assert_eq!(settings.warnings, [""; 0]);
}

#[test]
fn the_machine_gets_what_the_levels_name() {
    let text = LEAST.replace(
        "[nodes.1]\n",
        "[devices.dog]\nkind = \"watchdog\"\ntrust-virtual = true\n\
         [devices.spare]\nkind = \"agent\"\nprogram = \"/bin/true\"\noptions = {plug = 3, ssl = true}\n\
         [nodes.2]\nlevels = [\"dog\"]\ndelay = \"random 3s\"\n[nodes.1]\nunfence = true\n",
    );
    let settings = parse(&text).unwrap();
    assert_eq!(settings.warnings, ["device 'spare' is in no node's levels: not used"]);
    let core = settings.core();
    assert_eq!(core.devices.keys().collect::<Vec<_>>(), ["dog", "ipmi-n1"]);
    assert_eq!(core.devices["ipmi-n1"].kind, core::Kind::Power { name: "ipmi" });
    let dog = core::Kind::Watchdog { trust_virtual: true, trust_process: false };
    assert_eq!(core.devices["dog"].kind, dog);
    assert_eq!(core.targets[&NodeId(2)].delay, Delay::Random(Duration::from_secs(3)));
    assert!(core.targets[&NodeId(1)].unfence);
    let Kind::Agent(agent) = &settings.devices["spare"].kind else { panic!("no agent") };
    assert_eq!((agent.options["plug"].as_str(), agent.options["ssl"].as_str()), ("3", "1"));
}

#[test]
fn a_redfish_device_needs_one_proof_of_who_it_is() {
    let redfish = |more: &str| {
        changed("kind = \"ipmi\"\naddress = \"192.0.2.1\"", &format!("kind = \"redfish\"\n{more}"))
    };
    let proof = |settings: Settings| {
        let Kind::Redfish(redfish) = &settings.devices["ipmi-n1"].kind else {
            panic!("no redfish")
        };
        (redfish.address.to_string(), redfish.proof.clone())
    };
    let pin = "ab".repeat(32);
    let pinned = redfish(&format!("url = \"https://bmc/\"\npin-sha256 = \"{pin}\"")).unwrap();
    assert_eq!(proof(pinned), ("bmc:443".to_owned(), Proof::Pinned(vec![[0xab; 32]])));
    let signed = redfish("url = \"https://[fe80::1]:8443\"\nca-file = \"/ca\"").unwrap();
    let authority = Proof::Authority { file: "/ca".into(), name: None };
    assert_eq!(proof(signed), ("[fe80::1]:8443".to_owned(), authority));
    let plain = redfish("url = \"http://bmc\"").unwrap();
    assert!(plain.warnings[0].contains("http:// shows the password"), "{:?}", plain.warnings);
    assert_eq!(proof(plain), ("bmc:80".to_owned(), Proof::Nobodys));
    for (wrong, said) in [
        ("url = \"https://bmc\"", "exactly one of 'pin-sha256' and 'ca-file'"),
        ("url = \"https://bmc\"\npin-sha256 = \"ab\"", "64 hexadecimal digits"),
        ("url = \"http://bmc\"\nca-file = \"/ca\"", "http:// has no certificates"),
        ("url = \"bmc\"", "'url' must be a URL"),
        ("", "'url' is missing"),
    ] {
        let refusal = redfish(wrong).unwrap_err();
        assert!(refusal.contains(said), "{wrong}: {refusal}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (from, to, said) in [
        (
            "arbiter =",
            "arbitre =",
            "/g: 'arbiter' is missing: write arbiter = \"arbiter.example:5403\"",
        ),
        (
            "[devices",
            "metrcs = \"\"\n[devices",
            "/g: unknown key 'metrcs'; did you mean 'metrics'?",
        ),
        (
            "user =",
            "usr = \"x\"\nuser =",
            "/g: [devices.ipmi-n1] unknown key 'usr'; did you mean 'user'?",
        ),
        (
            "levels",
            "leves = 1\nlevels",
            "/g: [nodes.1] unknown key 'leves'; did you mean 'levels'?",
        ),
        (
            "levels",
            "zzzzzzzzz = 1\nlevels",
            "/g: [nodes.1] unknown key 'zzzzzzzzz'; known here: levels, delay, unfence, votes",
        ),
        (
            "\"ipmi\"",
            "\"ipmy\"",
            "/g: [devices.ipmi-n1] there is no kind 'ipmy'; did you mean 'ipmi'?",
        ),
    ] {
        assert_eq!(changed(from, to).unwrap_err(), said);
    }
    assert!(changed("password-file", "password_file").is_ok(), "underscores are hyphens");
}

#[test]
fn nonsense_is_one_line_that_says_where() {
    let node = "[nodes.1]\nlevels = [[\"ipmi-n1\"]]\n";
    for (from, to, said) in [
        ("cluster = \"demo\"", "cluster = \"\"", "/g: 'cluster' must be a text that is not empty"),
        ("cluster", "x = [\ncluster", "/g: line 2: "),
        (
            "[[\"ipmi-n1\"]]",
            "[[\"impi-n1\"]]",
            "there is no device 'impi-n1'; did you mean 'ipmi-n1'?",
        ),
        ("[[\"ipmi-n1\"]]", "[[\"x\"]]", "there is no device 'x': write [devices.x]"),
        ("[[\"ipmi-n1\"]]", "[]", "[nodes.1] 'levels' is missing"),
        ("[[\"ipmi-n1\"]]", "[[]]", "a level without a device proves nothing"),
        ("[[\"ipmi-n1\"]]", "[[\"ipmi-n1\", \"ipmi-n1\"]]", "names a device twice"),
        (node, "", "/g: no node can be fenced"),
        ("[nodes.1]", "[nodes.one]", "[nodes.one] a node is named by its nodeid"),
        ("[nodes.1]", "[nodes.0]", "[nodes.0] a node is named by its nodeid"),
        (node, &format!("{node}[nodes.01]\nlevels = [\"ipmi-n1\"]\n"), "node 1 is there twice"),
        (
            node,
            &format!("{node}[nodes.2]\nlevels = [\"ipmi-n1\"]\n"),
            "is in the levels of nodes 1, 2",
        ),
        ("192.0.2.1", "192.0.2.1:x", "[devices.ipmi-n1] 'address' must be the BMC's HOST"),
        ("user = \"haguard\"\n", "", "[devices.ipmi-n1] 'user' is missing"),
        ("user =", "cipher-suites = [2]\nuser =", "cipher-suites: there is no cipher suite 2"),
        ("user =", "privilege = \"user\"\nuser =", "a mere user may not switch power"),
        ("user =", "quirks = [\"x\"]\nuser =", "quirks: "),
        ("user =", "limit = \"5\"\nuser =", "'limit' must be a duration with its unit"),
        ("user =", "limit = \"1h\"\nuser =", "from 100ms to 2m"),
        ("levels =", "delay = \"soon\"\nlevels =", "'delay' must be \"arbiter\""),
        ("levels =", "unfence = \"yes\"\nlevels =", "'unfence' must be true or false"),
        (
            "password-file =",
            "password-file = \"x\"\npassword_file =",
            "'password-file' is there twice",
        ),
    ] {
        let refusal = changed(from, to).unwrap_err();
        assert!(refusal.contains(said), "{to}: {refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn one_bmc_under_two_names_for_two_nodes_is_pointed_out() {
    let text = LEAST.replace(
        "[nodes.1]",
        "[devices.other]\nkind = \"ipmi\"\naddress = \"192.0.2.1:623\"\nuser = \"x\"\n\
         password-file = \"y\"\n[nodes.2]\nlevels = [[\"other\"]]\n[nodes.1]",
    );
    let settings = parse(&text).unwrap();
    assert_eq!(
        settings.warnings,
        ["devices 'ipmi-n1' and 'other' of different nodes are the same, ipmi at 192.0.2.1:623: \
          cutting one node would cut the other"]
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Settings::read(Path::new("/nowhere/gateway.toml")).unwrap_err().to_string();
    assert_eq!(
        error,
        "/nowhere/gateway.toml: there is no such file: write one, or correct --config"
    );
}
