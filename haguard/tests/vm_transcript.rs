//! The transcript of `cargo bench -p haguard --bench vm` in `docs/` says what `docs/vm.md` claims
//! from it: every case is there, and its event times have the order that it is about.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::collections::BTreeMap;

const TRANSCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/vm-transcript.txt");
const CASES: &str = include_str!("vm/cases.rs");

/// What a line of a case says, with its seconds from the fault on.
#[derive(Clone, Debug, PartialEq)]
enum Line {
    Event { at: f64, machine: u32, name: String },
    From { at: f64, machine: u32, epoch: u64 },
    Until { at: f64, machine: u32, epoch: u64 },
}

/// A case by the words of the transcript.
#[derive(Clone, Debug, Default)]
struct Case {
    fault: Option<f64>,
    lines: Vec<Line>,
    result: String,
}

impl Case {
    fn event(&self, machine: u32, wanted: &str) -> Option<f64> {
        self.lines.iter().find_map(|line| match line {
            Line::Event { at, machine: of, name } => {
                (*of == machine && name == wanted && *at >= 0.0).then_some(*at)
            }
            Line::From { .. } | Line::Until { .. } => None,
        })
    }

    /// Runs of the service in order: machine, epoch, first and last line.
    fn runs(&self) -> Vec<(u32, u64, f64, f64)> {
        let mut runs: Vec<(u32, u64, f64, f64)> = Vec::new();
        for line in &self.lines {
            match line {
                Line::From { at, machine, epoch } => runs.push((*machine, *epoch, *at, *at)),
                Line::Until { at, machine, epoch } => {
                    let open =
                        runs.iter_mut().rev().find(|run| (run.0, run.1) == (*machine, *epoch));
                    open.unwrap_or_else(|| panic!("an end without a beginning: {line:?}")).3 = *at;
                }
                Line::Event { .. } => {}
            }
        }
        runs
    }
}

fn line(text: &str) -> Line {
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words[0].parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("{text:?}"));
    let machine = |word| u32::try_from(number(word)).unwrap();
    match &words[1..] {
        ["machine", id, "event", name, ..] => {
            Line::Event { at, machine: machine(id), name: (*name).to_owned() }
        }
        ["machine", id, "serves", "epoch", epoch, "from"] => {
            Line::From { at, machine: machine(id), epoch: number(epoch) }
        }
        ["machine", id, "serves", "epoch", epoch, "until,", ..] => {
            Line::Until { at, machine: machine(id), epoch: number(epoch) }
        }
        other => panic!("not a line of a case: {other:?}"),
    }
}

/// What comes before the first case, and the cases by name.
fn read(text: &str) -> (String, BTreeMap<String, Case>) {
    let mut parts = text.split("\ncase ");
    let head = parts.next().unwrap_or_default().to_owned();
    let cases = parts.map(|part| {
        let mut case = Case::default();
        let mut lines = part.lines();
        let name = lines.next().unwrap_or_default().to_owned();
        for text in lines.by_ref() {
            if let Some(fault) = text.strip_prefix("fault at ") {
                case.fault = fault.parse().ok();
            } else if let Some(result) = text.strip_prefix("result ") {
                case.result = result.to_owned();
                break;
            } else if !text.starts_with("about ") {
                case.lines.push(line(text));
            }
        }
        (name, case)
    });
    (head, cases.collect())
}

fn text() -> String {
    std::fs::read_to_string(TRANSCRIPT).unwrap_or_else(|error| panic!("{TRANSCRIPT}: {error}"))
}

fn transcript() -> BTreeMap<String, Case> {
    read(&text()).1
}

#[test]
fn the_head_names_the_command_the_kernel_and_the_emulator() {
    let (head, _) = read(&text());
    for name in ["command cargo bench ", "date 20", "kernel 6.", "emulator QEMU emulator version "]
    {
        let found = head.lines().any(|line| line.starts_with(name));
        assert!(found, "no line that starts with {name:?}");
    }
    assert!(text().trim_end().ends_with(", 0 failed"), "a case has failed");
}

#[test]
fn every_case_is_there_and_its_claim_held() {
    let names: Vec<&str> = CASES
        .lines()
        .filter_map(|line| Some(line.split_once(" name: \"")?.1.split_once('"')?.0))
        .collect();
    assert!(names.len() >= 10, "{names:?}");
    let cases = transcript();
    for name in &names {
        let case = cases.get(*name).unwrap_or_else(|| panic!("no case {name}"));
        assert!(case.result.starts_with("ok: "), "{name}: {}", case.result);
        // After the year 2026 began, in seconds since 1970.
        assert!(case.fault.is_some_and(|at| at > 1_767_225_600.0), "{name}: {:?}", case.fault);
    }
    assert_eq!(cases.len(), names.len(), "a case that the bench does not have");
}

#[test]
fn no_two_machines_serve_at_the_same_time_and_no_epoch_comes_back() {
    for (name, case) in transcript() {
        let runs = case.runs();
        assert!(!runs.is_empty(), "{name}: nobody serves");
        for pair in runs.windows(2) {
            let [(_, epoch, _, last), (_, newer, first, _)] = pair else { continue };
            assert!(last < first, "{name}: two runners: {pair:?}");
            assert!(epoch <= newer, "{name}: an old epoch: {pair:?}");
        }
    }
}

#[test]
fn a_lost_machine_is_reset_or_off_before_the_other_serves() {
    let lost = [
        ("panic", "RESET"),
        ("hang", "RESET"),
        ("killed", "RESET"),
        ("storage", "RESET"),
        ("ipmi-hang", "RESET"),
        ("ipmi-panic", "RESET"),
        ("power-off", "SHUTDOWN"),
        ("fenced-hang", "SHUTDOWN"),
        ("fenced-cut", "SHUTDOWN"),
        ("fenced-paused", "SHUTDOWN"),
    ];
    let cases = transcript();
    for (name, wanted) in lost {
        let case = &cases[name];
        let event = case.event(1, wanted).unwrap_or_else(|| panic!("{name}: no {wanted}"));
        let runs = case.runs();
        let [(1, _, _, last), (2, _, first, _), ..] = runs[..] else { panic!("{name}: {runs:?}") };
        // A line may get its time a moment after it was written.
        assert!(last < event + 0.5 && event < first, "{name}: {last} {event} {first}");
        // A reset that came late would have been hidden by a takeover that came later still.
        assert!(event < 10.0, "{name}: {event}");
    }
}

#[test]
fn without_a_reset_the_loser_stops_before_the_other_serves() {
    let cases = transcript();
    for name in ["cut", "daemon-stopped"] {
        let case = &cases[name];
        assert_eq!(case.event(1, "RESET"), None, "{name}");
        let runs = case.runs();
        let [(1, _, _, last), (2, _, first, _)] = runs[..] else { panic!("{name}: {runs:?}") };
        assert!(0.0 < last && last < first, "{name}: {last} {first}");
    }
}

#[test]
fn beside_a_paused_machine_nothing_is_started_and_its_old_epoch_ends_when_it_wakes_up() {
    let case = &transcript()["paused"];
    let (stop, resume) = (case.event(1, "STOP").unwrap(), case.event(1, "RESUME").unwrap());
    assert!(resume - stop >= 60.0, "{stop} {resume}");
    let runs = case.runs();
    let old = runs[0].1;
    let newer = runs.iter().find(|run| run.1 > old).unwrap_or_else(|| panic!("{runs:?}"));
    assert!(newer.2 > resume, "{runs:?}");
    assert!(runs.iter().all(|run| run.2 < stop || run.2 > resume), "{runs:?}");
}

#[test]
fn a_machine_that_is_back_before_a_takeover_does_not_resume_its_epoch() {
    let case = &transcript()["fast-reboot"];
    let reset = case.event(1, "RESET").unwrap();
    let runs = case.runs();
    let [(1, epoch, _, last), (_, newer, first, _), ..] = runs[..] else { panic!("{runs:?}") };
    assert!(last < reset + 0.5, "{last} {reset}");
    // It was up again, and alone, for 20 s of that.
    assert!(newer > epoch && first > reset + 20.0, "{runs:?}");
}
