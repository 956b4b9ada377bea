use std::net::SocketAddr;

use super::*;

fn read(line: &str) -> Result<Invocation, UsageError> {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse(&args, Places::Haguard)
}

fn options(line: &str) -> Options {
    match read(line).unwrap() {
        Invocation::Run(options) => *options,
        other @ (Invocation::Help | Invocation::Version) => panic!("{other:?}"),
    }
}

fn with_file(line: &str, text: &str) -> Result<Options, String> {
    let read = options(line).with_file(Path::new("/etc/q.toml"), text);
    read.map_err(|error| error.to_string())
}

#[test]
fn without_arguments_tls_is_required_and_the_rest_is_the_stock_daemons() {
    let options = options("");
    assert_eq!(options.core.tls, TlsSupport::Required);
    assert!(options.core.client_cert_required && options.core.dpd_enabled);
    assert_eq!((options.port, options.core.max_clients, options.listen_backlog), (5403, 0, 1024));
    assert_eq!((options.core.heartbeat_min_ms, options.core.heartbeat_max_ms), (1000, 120_000));
    assert_eq!((options.core.max_message_bytes, options.core.max_reply_bytes), (32768, 32768));
    assert_eq!((options.max_client_send_buffers, options.core.dpd_percent), (32, 150));
    assert_eq!(
        (options.given.socket.clients_max, options.given.socket.receive_bytes_max),
        (10, 4096)
    );
    assert_eq!(options.given.socket.send_bytes_max, 10_485_760);
    assert_eq!(options.local_socket_file(), Path::new("/run/haguard/qnetd.sock"));
    assert_eq!(options.tls_warning(), None);
}

#[test]
fn under_the_stock_name_files_are_where_the_stock_tools_look() {
    let Ok(Invocation::Run(options)) = parse(&[], Places::Stock) else { panic!() };
    assert_eq!(options.core.tls, TlsSupport::Required);
    let expected = "/var/run/corosync-qnetd/corosync-qnetd";
    assert_eq!(options.lock_file(), PathBuf::from(format!("{expected}.pid")));
    assert_eq!(options.local_socket_file(), PathBuf::from(format!("{expected}.sock")));
}

#[test]
fn switches_are_bundled_and_values_attached_or_separate() {
    let options = options("-4fdd -p5404 -l example -son -c no -m 7 operand -s off");
    assert_eq!(options.family, Family::V4);
    assert!(options.foreground);
    assert_eq!((options.debug, options.port, options.core.max_clients), (2, 5404, 7));
    assert_eq!(options.listen_address.as_deref(), Some("example"));
    assert_eq!(options.core.tls, TlsSupport::Unsupported);
    assert!(!options.core.client_cert_required);
}

#[test]
fn help_and_version_end_the_reading() {
    assert_eq!(read("-f -h -p 0"), Ok(Invocation::Help));
    assert_eq!(read("-fv"), Ok(Invocation::Version));
    assert!(usage("corosync-qnetd").starts_with(
        "usage: corosync-qnetd [-46dfhv] [-l listen_addr] [-p listen_port] [-s tls]\n"
    ));
}

#[test]
fn refusals_have_the_stock_daemons_words() {
    let cases = [
        ("-x", "invalid option -- 'x'"),
        ("-p", "option requires an argument -- 'p'"),
        ("-p 0", "host port must be in range 1-65535"),
        ("-p 65536", "host port must be in range 1-65535"),
        ("-p 5a", "host port must be in range 1-65535"),
        ("-s required", "tls must be one of on, off, req"),
        ("-c maybe", "client_cert_required should be on/yes/1, off/no/0"),
        ("-m -1", "max clients value -1 is invalid"),
        ("-S foo=1", "Unknown option 'foo'"),
        ("-S port=1", "Unknown option 'port'"),
        (
            "-S heartbeat_min=1",
            "Unknown option 'heartbeat_min'; did you mean \
            'heartbeat_interval_min'?",
        ),
        ("-S listen_backlog=0", "Invalid value '0' for option 'listen_backlog'"),
        ("-S listen_backlog", "Invalid value '' for option 'listen_backlog'"),
        ("-S max_client_send_buffers=1", "Invalid value '1' for option 'max_client_send_buffers'"),
        ("-S max_client_send_size=15", "Invalid value '15' for option 'max_client_send_size'"),
        ("-S ipc_max_receive_size=1023", "Invalid value '1023' for option 'ipc_max_receive_size'"),
        ("-S heartbeat_interval_min=0", "Invalid value '0' for option 'heartbeat_interval_min'"),
        (
            "-S heartbeat_interval_max=4294967296",
            "Invalid value '4294967296' for option 'heartbeat_interval_max'",
        ),
        (
            "-S dpd_interval_coefficient=0.5",
            "Invalid value '0.5' for option 'dpd_interval_coefficient'",
        ),
        (
            "-S dpd_interval_coefficient=nan",
            "Invalid value 'nan' for option 'dpd_interval_coefficient'",
        ),
        ("-S dpd_enabled=zz", "Invalid value 'zz' for option 'dpd_enabled'"),
        ("-S local_socket_umask=9", "Invalid value '9' for option 'local_socket_umask'"),
        ("-S greeting_limit=20", "Invalid value '20' for option 'greeting_limit'"),
        ("--state-dri /x", "unrecognized option '--state-dri'; did you mean 'state-dir'?"),
        ("--tls-ca", "option requires an argument -- 'tls-ca'"),
        ("--listen here", "Invalid value 'here' for option 'listen'"),
    ];
    for (line, expected) in cases {
        assert_eq!(read(line).unwrap_err().to_string(), expected, "{line}");
    }
}

#[test]
fn settings_are_named_in_any_case_and_in_one_list() {
    let options = options(
        "-S HEARTBEAT_Interval_Min=500,,dpd_interval_coefficient=2.25,dpd_enabled=NO \
         -S lock_file=/l,local_socket_file=/s,local_socket_umask=007,local_socket_gid=-1,\
         keep_active_partition_tie_breaker=yes,greeting_limit=300ms",
    );
    assert_eq!((options.core.heartbeat_min_ms, options.core.dpd_percent), (500, 225));
    assert!(!options.core.dpd_enabled && options.core.keep_active_partition);
    assert_eq!((options.lock_file(), options.local_socket_file()), ("/l".into(), "/s".into()));
    assert_eq!((options.given.socket.umask, options.given.socket.group), (Some(7), None));
    assert_eq!(options.core.greeting_limit, Duration::from_millis(300));
}

#[test]
fn settings_without_effect_are_accepted_and_say_so() {
    let options = options("-S cert_nickname=y,dpd_interval=10");
    assert_eq!(options.given.notes().len(), 2);
    assert!(options.given.notes()[0].contains("--tls-cert"), "{:?}", options.given.notes());
}

#[test]
fn a_store_is_a_directory_with_three_files() {
    let keys = |options: &Options| {
        [&options.tls_ca, &options.tls_cert, &options.tls_key].map(|path| path.clone())
    };
    let in_store = |store: &str| {
        ["ca.pem", "arbiter.pem", "arbiter-key.pem"].map(|name| Path::new(store).join(name))
    };
    let moved = options("-S nss_db_dir=/x");
    assert_eq!((keys(&moved), moved.awaits_keys), (in_store("/x"), false));
    let Ok(Invocation::Run(stock)) = parse(&[], Places::Stock) else { panic!("refused") };
    assert_eq!((keys(&stock), stock.awaits_keys), (in_store("/etc/corosync/qnetd/nssdb"), true));
    let args = ["--tls-cert".to_owned(), "/c".to_owned()];
    let Ok(Invocation::Run(named)) = parse(&args, Places::Stock) else { panic!("refused") };
    assert!(!named.awaits_keys, "what is named has to be there");
}

#[test]
fn long_flags_name_places_and_files() {
    let options = options(
        "--state-dir /d --run-dir=/r --tls-ca /a --tls-cert /c --tls-key /k --listen [::1]:0 \
         --config /f",
    );
    assert_eq!(options.state_dir, Path::new("/d"));
    assert_eq!(options.lock_file(), Path::new("/r/qnetd.pid"));
    assert_eq!(options.local_socket_file(), Path::new("/r/qnetd.sock"));
    assert_eq!((&options.tls_ca, &options.tls_cert), (&"/a".into(), &"/c".into()));
    assert_eq!(options.tls_key, Path::new("/k"));
    assert_eq!(options.listen, Some(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0))));
    assert_eq!(options.config_file, Some("/f".into()));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() {
    let text = "port = 1\ntls = \"on\"\nheartbeat-interval-min = 200\ndpd_enabled = false\n\
                dpd-interval-coefficient = 3.5\nstate-dir = \"/s\"\n";
    let options = with_file("-p 2", text).unwrap();
    assert_eq!((options.port, options.core.tls), (2, TlsSupport::Supported));
    assert_eq!((options.core.heartbeat_min_ms, options.core.dpd_percent), (200, 350));
    assert!(!options.core.dpd_enabled);
    assert_eq!(options.state_dir, Path::new("/s"));
    assert!(options.tls_warning().unwrap().contains("-s req"));
}

#[test]
fn a_wrong_file_is_one_line_that_says_what_to_write() {
    let cases = [
        ("prot = 1", "/etc/q.toml: Unknown option 'prot'; did you mean 'port'?"),
        ("port = 0", "/etc/q.toml: host port must be in range 1-65535"),
        ("port = [1]", "/etc/q.toml: 'port' must be a text, a number or true or false"),
        ("max-clients = -1", "/etc/q.toml: max clients value -1 is invalid"),
    ];
    for (text, expected) in cases {
        assert_eq!(with_file("", text).unwrap_err(), expected);
    }
    let broken = with_file("", "port = 1\ntls = \n").unwrap_err();
    assert!(broken.starts_with("/etc/q.toml: line 2: "), "{broken}");
    assert!(!broken.contains('\n'));
}

#[test]
fn vote_hold_is_said_for_all_clusters_and_for_single_ones() {
    let text = "vote-hold = \"double-fault\"\n[cluster.\"db\"]\nvote-hold = \"off\"\n";
    let options = with_file("", text).unwrap();
    assert_eq!(options.core.vote_hold, core::VoteHold::DoubleFault);
    assert_eq!(options.core.clusters[&"db".into()].vote_hold, Some(core::VoteHold::Off));
    let flag = with_file("-S vote_hold=single-fault", text).unwrap();
    assert_eq!(flag.core.vote_hold, core::VoteHold::SingleFault);
    assert_eq!(
        with_file("", "vote-hold = \"on\"").unwrap_err(),
        "/etc/q.toml: vote_hold must be one of single-fault, double-fault, off"
    );
    let wrong = with_file("", "[cluster.db]\nvote-hold = \"on\"").unwrap_err();
    assert!(wrong.starts_with("/etc/q.toml: Invalid value for option 'vote-hold' of "), "{wrong}");
}

#[test]
fn every_setting_has_a_name_of_its_own() {
    let names: Vec<_> = settings::names::<Options>().collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
}
