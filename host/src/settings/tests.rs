use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Toy {
    given: Given<Self>,
    debug: u8,
    port: u16,
    place: PathBuf,
    file: Option<PathBuf>,
}

impl Options for Toy {
    const SWITCHES: &'static [Switch<Self>] = &[('d', |o| o.debug += 1)];
    const TEXTS: &'static [char] = &['h'];
    const SETTINGS: &'static [Setting<Self>] = &[
        Setting::flag("config", |o, v| path(v).map(|file| o.file = Some(file))),
        Setting::long("run_dir", |o, v| path(v).map(|place| o.place = place)),
        Setting::letter('p', "port", |o, v| number(v, 1..=65535).map(|port| o.port = port)),
        Setting::refusing(|v| format!("{v} is no key"), Setting::long("key", |_, _| None)),
        Setting::unused("old", "take the new one", |_, _| Some(())),
    ];

    fn given(&mut self) -> &mut Given<Self> {
        &mut self.given
    }
}

fn toy() -> Toy {
    let given = Given::new(local::Settings::new(65536));
    Toy { given, debug: 0, port: 1, place: PathBuf::new(), file: None }
}

fn read_line(line: &str) -> Result<(Toy, Option<char>), String> {
    let args: Vec<String> = line.split(' ').map(|arg| arg.replace('_', " ")).collect();
    let mut toy = toy();
    match read(&mut toy, &args) {
        Ok(text) => Ok((toy, text)),
        Err(error) => Err(error.to_string()),
    }
}

fn with_file(line: &str, text: &str) -> Result<Toy, String> {
    let (mut toy, _) = read_line(line).unwrap();
    let table = read_table(Path::new("/f"), text).map_err(|error| error.to_string())?;
    apply_table(&mut toy, Path::new("/f"), table).map_err(|error| error.to_string())?;
    Ok(toy)
}

#[test]
fn letters_are_bundled_with_their_values_attached_or_separate() {
    let (toy, text) =
        read_line("-dd -p7 operand - -d -p 8 -Slock-FILE=/l,,IPC-MAX-CLIENTS=3").unwrap();
    assert_eq!((toy.debug, toy.port, text), (3, 8, None));
    assert_eq!(toy.given.lock_file, Some("/l".into()));
    assert_eq!(toy.given.socket.clients_max, 3);
    assert_eq!(read_line("-dp9 -- -p 0").unwrap().0.port, 9);
    assert_eq!(read_line("-dh -p 0").unwrap().1, Some('h'));
}

#[test]
fn long_flags_take_hyphens_and_an_equals_sign() {
    let (toy, _) = read_line("--run-dir=/a=b --config /c").unwrap();
    assert_eq!((toy.place, toy.file), ("/a=b".into(), Some("/c".into())));
    assert_eq!(read_line("--run-dir /1 --run-dir /2").unwrap().0.place, Path::new("/2"));
}

#[test]
fn what_is_wrong_is_said_in_the_words_of_getopt_and_the_stock_daemons() {
    let cases = [
        ("-x", "invalid option -- 'x'"),
        ("-dp", "option requires an argument -- 'p'"),
        ("-S", "option requires an argument -- 'S'"),
        ("--run-dir", "option requires an argument -- 'run-dir'"),
        ("--run-dri x", "unrecognized option '--run-dri'; did you mean 'run-dir'?"),
        ("--port 7", "unrecognized option '--port'"),
        ("-Sport=7", "Unknown option 'port'"),
        ("-Sipc-max-client=7", "Unknown option 'ipc-max-client'; did you mean 'ipc_max_clients'?"),
        ("-Sipc-max-send-size=1023", "Invalid value '1023' for option 'ipc_max_send_size'"),
        ("-Slocal-socket-umask=1000", "Invalid value '1000' for option 'local_socket_umask'"),
        ("-Slock-file", "Invalid value '' for option 'lock_file'"),
        ("--key 0", "0 is no key"),
        ("-p 0", "Invalid value '0' for option 'port'"),
    ];
    for (line, expected) in cases {
        assert_eq!(read_line(line).unwrap_err(), expected, "{line}");
    }
    let usage = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        read(&mut toy(), &args).unwrap_err().wants_usage()
    };
    assert!(usage(&["-x"]) && usage(&["-p"]) && usage(&["--x"]));
    assert!(!usage(&["-p", "0"]) && !usage(&["-S", "x"]));
}

#[test]
fn an_empty_value_is_a_value_where_the_setting_takes_it() {
    assert_eq!(read_line("-p _").unwrap_err(), "Invalid value ' ' for option 'port'");
    let (toy, _) = read_line("-Slocal-socket-umask=,local-socket-gid=-1").unwrap();
    assert_eq!((toy.given.socket.umask, toy.given.socket.group), (None, None));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() {
    let toy = with_file("-p 2", "port = 3\nrun-dir = \"/f\"\nipc_max_clients = 4\n").unwrap();
    assert_eq!((toy.port, toy.place.as_path()), (2, Path::new("/f")));
    assert_eq!(toy.given.socket.clients_max, 4);
}

#[test]
fn a_wrong_file_is_one_line_that_says_where() {
    let cases = [
        ("prot = 1", "/f: Unknown option 'prot'; did you mean 'port'?"),
        ("config = \"x\"", "/f: Unknown option 'config'"),
        ("port = 0", "/f: Invalid value '0' for option 'port'"),
        ("port = 1.5", "/f: Invalid value '1.5' for option 'port'"),
        ("port = [1]", "/f: 'port' must be a text, a number or true or false"),
        ("[port]", "/f: 'port' must be a text, a number or true or false"),
    ];
    for (text, expected) in cases {
        assert_eq!(with_file("-d", text).unwrap_err(), expected);
    }
    let broken = with_file("-d", "port = 1\n\u{e4} = \n").unwrap_err();
    assert!(broken.starts_with("/f: line 2: ") && !broken.contains('\n'), "{broken}");
}

#[test]
fn a_setting_without_effect_is_noted_once() {
    let toy = with_file("-Sold=1,old=2", "old = 3").unwrap();
    assert_eq!(toy.given.notes(), ["old is not used: take the new one"]);
}
