//! Shell scripts in the place of a fence agent.

use std::time::Duration;

use fence::agent::{Agent, Config};
use fence::device::{Command, DeviceError, Power, Seen};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::lab::{PATIENCE, Scratch, soon};

/// Reads the options into variables, as agents do.
const READ: &str = "while IFS= read -r line; do case $line in \
    action=*) action=${line#action=};; esac; done\n";

async fn run(agent: &Agent, command: Command) -> Result<Seen, DeviceError> {
    agent.run(command, PATIENCE).await
}

#[tokio::test]
async fn everything_goes_in_by_stdin_and_nothing_by_arguments_or_environment() {
    let scratch = Scratch::new("script");
    let agent = scratch.agent_with(
        "printf '%s\\n' \"$#\" > $here/args\nenv > $here/env\npwd > $here/pwd\ncat > $here/stdin\n",
        &[("ip", "192.0.2.1"), ("plug", "rack 7;$(touch no)")],
        &[("password", "hunter2 `id`")],
    );
    assert_eq!(run(&agent, Command::Off).await, Ok(Seen::Accepted));
    assert_eq!(scratch.read("args"), "0\n");
    let stdin = "action=off\nip=192.0.2.1\nplug=rack 7;$(touch no)\npassword=hunter2 `id`\n";
    assert_eq!(scratch.read("stdin"), stdin);
    let env = scratch.read("env");
    let names: Vec<_> = env.lines().filter_map(|line| line.split('=').next()).collect();
    // The shell adds the last three itself.
    let allowed = ["PATH", "LANG", "PWD", "OLDPWD", "_", "SHLVL"];
    assert!(names.iter().all(|name| allowed.contains(name)), "{env}");
    assert!(names.contains(&"PATH") && names.contains(&"LANG"), "{env}");
    assert_eq!(scratch.read("pwd"), "/\n");
}

#[tokio::test]
async fn an_exit_code_means_what_the_interface_says() {
    let scratch = Scratch::new("script");
    let agent = scratch.agent(&format!(
        "{READ}echo \"$action\" >> $here/log\ncase $action in\n\
         status) cat $here/words; exit $(cat $here/code);;\n\
         monitor) exit 0;; esac\nexit $(cat $here/code)"
    ));
    let set = |code: &str, words: &str| {
        std::fs::write(scratch.file("code"), code).unwrap();
        std::fs::write(scratch.file("words"), words).unwrap();
    };
    set("0", "Status: ON\n");
    assert_eq!(run(&agent, Command::Status).await, Ok(Seen::Power(Power::On)));
    assert_eq!(run(&agent, Command::Off).await, Ok(Seen::Accepted));
    assert_eq!(run(&agent, Command::On).await, Ok(Seen::Accepted));
    set("2", "Status: OFF\n");
    assert_eq!(run(&agent, Command::Status).await, Ok(Seen::Power(Power::Off)));
    assert_eq!(scratch.read("log"), "status\noff\non\nstatus\n");
    for code in ["1", "3", "127"] {
        set(code, "Status: OFF\n");
        for command in [Command::Status, Command::Off, Command::On] {
            let result = run(&agent, command).await;
            assert!(matches!(result, Err(DeviceError::Refused(_))), "{code} {result:?}");
        }
    }
    set("2", "");
    let result = run(&agent, Command::Off).await;
    assert!(matches!(result, Err(DeviceError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn an_agent_that_does_not_run_at_all_does_not_prove_off() {
    // What a shell makes of a mistake in its script, and Python of a file that is gone: 2.
    for broken in ["if then", "exec /usr/bin/env sh /no/such/file", "exit 2"] {
        let scratch = Scratch::new("script");
        let agent = scratch.agent(broken);
        let result = run(&agent, Command::Status).await;
        let Err(error) = result else { panic!("{broken}: {result:?}") };
        assert!(matches!(error, DeviceError::Garbage(_) | DeviceError::Refused(_)), "{error:?}");
    }
    let scratch = Scratch::new("script");
    let agent = scratch.agent(&format!("{READ}[ $action = status ] && exit 2; exit 0"));
    assert_eq!(run(&agent, Command::Status).await, Ok(Seen::Power(Power::Off)));
}

#[tokio::test]
async fn a_failure_is_told_in_the_agents_last_words() {
    let scratch = Scratch::new("script");
    let agent = scratch.agent_with(
        "cat >/dev/null; head -c 100000 /dev/zero | tr '\\0' x >&2; echo out\n\
         printf '\\n\\033[31mcannot log in\\033[0m as admin with hunter2\\n' >&2; exit 1",
        &[],
        &[("password", "hunter2")],
    );
    let Err(DeviceError::Refused(text)) = run(&agent, Command::Off).await else { panic!() };
    assert!(text.starts_with("fence_test off ended with 1: …xxx"), "{text:.60}");
    assert!(text.ends_with("; ?[31mcannot log in?[0m as admin with [...]"), "{text}");
    assert!(text.len() < 4200, "{}", text.len());

    let agent = scratch.agent("cat >/dev/null; echo only out; kill -SEGV $$");
    let Err(DeviceError::Refused(text)) = run(&agent, Command::Off).await else { panic!() };
    assert_eq!(text, "fence_test off was killed by signal 11: only out");
}

#[tokio::test]
async fn an_agent_may_end_without_reading_its_options() {
    let scratch = Scratch::new("script");
    let many: Vec<_> = (0..2000).map(|n| (format!("option{n}"), "x".repeat(100))).collect();
    let many: Vec<_> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let agent = scratch.agent_with("exit 0", &many, &[]);
    assert_eq!(run(&agent, Command::Off).await, Ok(Seen::Accepted));
    let agent = scratch.agent_with("exec <&-; echo no >&2; exit 1", &many, &[]);
    let result = run(&agent, Command::Off).await;
    assert!(matches!(result, Err(DeviceError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn an_agent_out_of_time_is_asked_to_end_and_then_killed_with_its_children() {
    let scratch = Scratch::new("script");
    let agent = scratch.agent("trap 'echo term > $here/term; exit 0' TERM\nsleep 1000 & wait");
    let limit = Duration::from_secs(5);
    assert_eq!(agent.run(Command::Off, limit).await, Err(DeviceError::Silent(limit)));
    assert_eq!(scratch.read("term"), "term\n", "it was not asked");

    let agent = scratch.agent(
        "trap '' TERM\nsleep 1000 & echo $! > $here/child\necho $$ > $here/parent\n\
         while :; do wait; done",
    );
    assert_eq!(agent.run(Command::Off, limit).await, Err(DeviceError::Silent(limit)));
    soon("both are gone", || scratch.is_gone("parent") && scratch.is_gone("child")).await;
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_is_killed() {
    let scratch = Scratch::new("script");
    let agent = scratch.agent(
        "trap '' TERM\nsleep 1000 & echo $! > $here/child\necho $$ > $here/parent.new\n\
         mv $here/parent.new $here/parent\nwhile :; do wait; done",
    );
    let running = tokio::spawn(async move { agent.run(Command::Off, PATIENCE).await });
    soon("it runs", || scratch.file("parent").exists()).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    soon("both are gone", || scratch.is_gone("parent") && scratch.is_gone("child")).await;
}

#[tokio::test]
async fn what_an_agent_leaves_behind_ends_with_it() {
    let scratch = Scratch::new("script");
    // With its pipes open: whoever reads to their end would wait for ever.
    let agent = scratch.agent("cat >/dev/null\nsleep 1000 & echo $! > $here/child\nexit 0");
    assert_eq!(run(&agent, Command::Off).await, Ok(Seen::Accepted));
    soon("the child is gone", || scratch.is_gone("child")).await;
    // Out of reach of the group, and not able to hold us up.
    let agent = scratch.agent(
        "cat >/dev/null\nsetsid sh -c \"echo \\$\\$ > $here/far; exec sleep 1000\" &\n\
         until [ -s $here/far ]; do :; done\nexit 0",
    );
    assert_eq!(run(&agent, Command::Off).await, Ok(Seen::Accepted));
    let far = scratch.read("far").trim().parse().unwrap();
    nix::sys::signal::kill(Pid::from_raw(far), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn an_agent_that_prints_without_end_is_stopped() {
    let scratch = Scratch::new("script");
    for stream in ["1", "2"] {
        let agent = scratch.agent(&format!("echo $$ > $here/pid; exec yes >&{stream}"));
        let result = run(&agent, Command::Status).await;
        assert!(matches!(result, Err(DeviceError::Garbage(_))), "{result:?}");
        soon("it is gone", || scratch.is_gone("pid")).await;
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_a_local_error() {
    let scratch = Scratch::new("script");
    std::fs::write(scratch.file("plain"), "#!/bin/sh\nexit 2\n").unwrap();
    for program in [scratch.file("plain"), scratch.file("missing"), scratch.file("")] {
        let agent = Agent::new(Config { program, ..Config::default() }).unwrap();
        let error = run(&agent, Command::Status).await.unwrap_err();
        assert!(matches!(error, DeviceError::Local(_)) && !error.is_passing(), "{error:?}");
    }
}

#[tokio::test]
async fn the_actions_are_read_from_the_metadata() {
    let scratch = Scratch::new("script");
    let agent = scratch.agent(&format!(
        "{READ}[ $action = metadata ] || exit 1\n\
         echo '<resource-agent><actions><action name=\"off\"/><action name=\"status\"/>'\n\
         head -c 50000 /dev/zero | tr '\\0' ' '; echo '</actions></resource-agent>'"
    ));
    let actions = agent.actions(PATIENCE).await.unwrap();
    assert_eq!(actions.missing(&["off", "on", "status"]), ["on"]);
    let silent = scratch.agent("cat > /dev/null").actions(PATIENCE).await;
    assert!(matches!(silent, Err(DeviceError::Garbage(_))), "{silent:?}");
    let failing = scratch.agent("exit 1").actions(PATIENCE).await;
    assert!(matches!(failing, Err(DeviceError::Refused(_))), "{failing:?}");
}
