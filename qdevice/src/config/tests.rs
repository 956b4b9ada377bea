use super::*;

fn read(args: &[&str]) -> Result<Invocation, UsageError> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    parse(&args, Places::Haguard)
}

fn options(args: &[&str]) -> Options {
    match read(args).unwrap() {
        Invocation::Run(options) => *options,
        Invocation::Help => panic!("help"),
    }
}

#[test]
fn stock_flags_bundle_repeat_and_ignore_case_in_names() {
    let options = options(
        &["-fddSHEURISTICS_MAX_EXECS=7,ipc_max_clients=0", "-S", "a=b", "x"]
            .map(|arg| if arg == "a=b" { "net_nss_qnetd_cn=Other Name" } else { arg }),
    );
    assert!(options.foreground);
    assert_eq!(options.debug, 2);
    assert_eq!(options.heuristics.execs_max, 7);
    assert_eq!(options.given.socket.clients_max, 0);
    assert_eq!(options.server_name, "Other Name");
    assert_eq!(read(&["-fh"]), Ok(Invocation::Help));
}

#[test]
fn wrong_arguments_are_refused_in_the_stock_words() {
    let said = |args: &[&str]| read(args).unwrap_err().to_string();
    assert_eq!(said(&["-z"]), "invalid option -- 'z'");
    assert_eq!(said(&["-S"]), "option requires an argument -- 'S'");
    assert_eq!(said(&["-S", "foo=1"]), "Unknown option 'foo'");
    assert_eq!(said(&["-Sipc_max_clients"]), "Invalid value '' for option 'ipc_max_clients'");
    assert_eq!(
        said(&["-Sheuristics_use_execvp=maybe"]),
        "Invalid value 'maybe' for option 'heuristics_use_execvp'"
    );
    assert_eq!(
        said(&["--run-dri", "x"]),
        "unrecognized option '--run-dri'; did you mean 'run-dir'?"
    );
    assert_eq!(said(&["-Srun_dir=x"]), "Unknown option 'run_dir'");
}

#[test]
fn every_stock_setting_has_its_least_value() {
    let least = [
        ("local_socket_backlog", 1),
        ("max_cs_try_again", 1),
        ("ipc_max_receive_size", 1024),
        ("ipc_max_send_size", 1024),
        ("heuristics_ipc_max_send_buffers", 10),
        ("heuristics_ipc_max_send_receive_size", 1024),
        ("heuristics_min_timeout", 250),
        ("heuristics_max_timeout", 250),
        ("heuristics_min_interval", 250),
        ("heuristics_max_interval", 250),
        ("heuristics_max_execs", 1),
        ("heuristics_max_processes", 1),
        ("heuristics_kill_list_interval", 250),
        ("net_initial_msg_receive_size", 16),
        ("net_initial_msg_send_size", 16),
        ("net_min_msg_send_size", 16),
        ("net_max_msg_receive_size", 16),
        ("net_max_send_buffers", 2),
        ("net_heartbeat_interval_min", 1),
        ("net_heartbeat_interval_max", 1),
        ("net_min_connect_timeout", 1),
        ("net_max_connect_timeout", 1),
    ];
    for (name, least) in least {
        assert!(read(&["-S", &format!("{name}={least}")]).is_ok(), "{name}");
        assert!(read(&["-S", &format!("{name}={}", least - 1)]).is_err(), "{name}");
    }
}

#[test]
fn flags_stand_over_the_file_and_the_file_over_the_defaults() {
    let options = options(&["--run-dir", "/flag", "--arbiter=[::1]:7", "-Smaster_wins=model"]);
    let text = "run-dir = \"/file\"\nstate_dir = \"/state\"\nipc-max-clients = 3\n";
    let options = options.with_file(Path::new("f"), text).unwrap();
    assert_eq!(options.run_dir, Path::new("/flag"));
    assert_eq!(options.state_dir, Path::new("/state"));
    assert_eq!(options.given.socket.clients_max, 3);
    assert_eq!(options.arbiter, Some(Target { host: "::1".to_owned(), port: 7 }));
    assert_eq!(options.given.notes().len(), 1);
    assert!(!options.tls_given);
    let wrong = |text| Options::default().with_file(Path::new("f"), text).unwrap_err();
    assert_eq!(
        wrong("tls-cart = 1").to_string(),
        "f: Unknown option 'tls-cart'; did you mean 'tls_cert'?"
    );
    assert!(wrong("a = ").to_string().starts_with("f: line 1: "));
}

#[test]
fn under_the_stock_name_lock_and_socket_are_where_its_tools_look() {
    let Ok(Invocation::Run(options)) = parse(&[], Places::Stock) else { panic!("refused") };
    assert_eq!(
        options.local_socket_file(),
        Path::new("/var/run/corosync-qdevice/corosync-qdevice.sock")
    );
    assert_eq!(options.lock_file(), Path::new("/var/run/corosync-qdevice/corosync-qdevice.pid"));
    assert_eq!(options.node_socket_file(), Path::new("/run/haguard/device.sock"));
    assert!(!options.uses_run_dir(), "the stock unit makes no directory of ours");
    let args = ["--host".to_owned(), "node".to_owned()];
    let Ok(Invocation::Run(options)) = parse(&args, Places::Stock) else { panic!("refused") };
    assert!(options.uses_run_dir());
}

#[test]
fn every_setting_has_a_name_of_its_own() {
    let names: Vec<_> = settings::names::<Options>().collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
}
