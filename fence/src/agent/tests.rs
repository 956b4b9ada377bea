use super::*;

fn agent(options: &[(&str, &str)], secrets: &[(&str, &str)]) -> Result<Agent, DeviceError> {
    let options = options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let secrets = secrets.iter().map(|(n, v)| ((*n).to_owned(), Secret::new((*v).into())));
    let program = PathBuf::from("/usr/sbin/fence_x");
    Agent::new(Config { program, options, secrets: secrets.collect() })
}

#[test]
fn an_agent_is_told_the_action_the_options_and_the_passwords() {
    let agent = agent(&[("plug", "7"), ("ip", "192.0.2.1")], &[("password", "se=cret #\"")]);
    let input = agent.unwrap().input("off");
    let text = "action=off\nip=192.0.2.1\nplug=7\npassword=se=cret #\"\n";
    assert_eq!(std::str::from_utf8(&input), Ok(text));
}

#[test]
fn what_cannot_be_told_to_an_agent_is_refused() {
    let refused = |made: Result<Agent, DeviceError>| match made {
        Err(DeviceError::Local(text)) => !text.contains("hunter2"),
        _ => false,
    };
    for name in ["", "a b", "a=b", "#x", "a\nb", "ä", "action", "option"] {
        assert!(refused(agent(&[(name, "1")], &[])), "{name:?}");
        assert!(refused(agent(&[], &[(name, "hunter2")])), "{name:?}");
    }
    for value in ["a\nb", " hunter2", "hunter2\t", "\"hunter2\"", "a\0b", "\x1b"] {
        assert!(refused(agent(&[("plug", value)], &[])), "{value:?}");
        assert!(refused(agent(&[], &[("password", value)])), "{value:?}");
    }
    for name in ["passwd", "password", "snmp_priv_passwd"] {
        assert!(refused(agent(&[(name, "hunter2")], &[])), "{name:?}");
    }
    assert!(refused(agent(&[("key", "1")], &[("key", "hunter2")])));
    for value in ["", "\"", "a\"b\"", "a b"] {
        agent(&[("plug", value), ("password_script", "/x")], &[("password", value)]).unwrap();
    }
}

#[test]
fn a_program_has_an_absolute_path_or_a_bare_name() {
    let made = |program: &str| Agent::new(Config { program: program.into(), ..Config::default() });
    for good in ["/usr/sbin/fence_apc", "fence_apc"] {
        assert!(made(good).is_ok(), "{good:?}");
    }
    for bad in ["", "../fence_apc", "sbin/fence_apc", "./fence_apc", "/"] {
        let refused = made(bad);
        assert!(bad == "/" || refused.is_err(), "{bad:?}");
    }
}

#[test]
fn the_actions_are_found_however_metadata_is_written() {
    let metadata = r#"<?xml version="1.0" ?>
        <resource-agent name="fence_x" shortdesc="x"><actions>
            <action name="on" automatic="0"/><action name="off" />
            <action timeout='5' name = 'status'></action>
            <action
                name="list-status"/>
            <actionable name="no"/><action nam="no"/><action name="n o"/><action name="no
        </actions>"#;
    let actions = Actions::read(metadata);
    let found: Vec<_> = actions.0.iter().map(String::as_str).collect();
    assert_eq!(found, ["list-status", "off", "on", "status"]);
    assert_eq!(actions.missing(&["off", "reboot", "on", "monitor"]), ["reboot", "monitor"]);
    assert_eq!(Actions::read("<action"), Actions::default());
}

#[test]
fn passwords_are_taken_out_of_what_is_printed() {
    let agent = agent(&[], &[("password", "hunter2")]).unwrap();
    let redacted = |text: &str, lost: bool, keep: usize| {
        let mut output = Output { kept: text.into(), lost };
        agent.redact(&mut output, keep);
        String::from_utf8(output.kept).unwrap()
    };
    assert_eq!(redacted("a hunter2 b hunter2hunter2", false, 99), "a [...] b [...][...]");
    // What is left of one at the beginning goes with as much as it is long.
    assert_eq!(redacted("unter2 and more", true, 99), "and more");
    assert_eq!(redacted("0123456789", false, 4), "6789");
}

#[test]
fn a_password_like_its_replacement_or_none_ends_no_run() {
    for (secret, shown) in [(".", "a[...]b"), ("[...]", "a.b"), ("", "a.b")] {
        let agent = agent(&[], &[("password", secret)]).unwrap();
        let mut output = Output { kept: b"a.b".to_vec(), lost: false };
        agent.redact(&mut output, 99);
        assert_eq!(std::str::from_utf8(&output.kept), Ok(shown), "{secret:?}");
    }
}

#[test]
fn off_is_said_in_words() {
    assert!(says_off(b"Status: OFF\n"));
    assert!(says_off(b"warning\n  status: off  \n"));
    for other in ["", "Status: ON", "Status: OFFLINE", "not Status: OFF"] {
        assert!(!says_off(other.as_bytes()), "{other:?}");
    }
}
