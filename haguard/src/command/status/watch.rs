//! The picture again and again, until someone has seen enough.
//!
//! On a terminal it has a screen of its own (the alternate one of xterm and its likes), so what was
//! there before is there again at the end, with the last picture below it. Elsewhere the pictures
//! follow each other.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, raise};
use terminal_size::{Height, terminal_size};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::{Options, Picture, text};
use crate::screen::Brush;

/// From one picture to the next.
const REDRAW: Duration = Duration::from_secs(1);
/// The alternate screen, no cursor, no wrapping of long lines.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// Wrapping, the cursor, and the screen that was there before.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Draws until SIGINT, SIGTERM or SIGHUP, or until nobody reads it any more. The exit code is that
/// of the last picture.
///
/// # Errors
/// When the signals cannot be waited for.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let ended = runtime.block_on(watch(options));
    // A daemon that does not answer may still be waited for.
    runtime.shutdown_background();
    ended
}

async fn watch(options: &Options) -> Result<ExitCode> {
    let catch = |kind| signal(kind).context("cannot wait for signals");
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let mut hangup = catch(SignalKind::hangup())?;
    let mut stop = catch(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
    let mut resized = catch(SignalKind::window_change())?;
    let mut ticks = interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut canvas = Canvas::open(options.json);
    let mut asked = JoinSet::new();
    let mut last = ExitCode::FAILURE;
    loop {
        let drawn = tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            _ = resized.recv() => canvas.draw(),
            _ = stop.recv() => canvas.pause(),
            _ = ticks.tick(), if asked.is_empty() => {
                let run_dir = options.run_dir.clone();
                // The daemons are asked on another thread: one that is stuck holds up no signal.
                asked.spawn_blocking(move || Picture::take(&run_dir));
                Ok(())
            }
            Some(taken) = asked.join_next() => {
                let picture = taken.context("the question ended early").and_then(|taken| taken);
                last = picture.as_ref().map_or(ExitCode::FAILURE, Picture::exit_code);
                canvas.show(described(options, picture))
            }
        };
        if drawn.is_err() {
            // Who has closed the pipe does not want to read it.
            break;
        }
    }
    Ok(last)
}

/// A line of JSON, or the text for people, or why there is neither.
fn described(options: &Options, picture: Result<Picture>) -> String {
    let text = picture.and_then(|picture| {
        if options.json {
            return Ok(serde_json::to_string(&picture.json()?)?);
        }
        Ok(text::draw(&picture, Brush::for_stdout()))
    });
    text.unwrap_or_else(|error| {
        if options.json {
            return serde_json::json!({ "problems": [format!("{error:#}")] }).to_string();
        }
        format!("{error:#}")
    })
}

/// Where the pictures go. When it is dropped, the terminal is as it was.
struct Canvas {
    is_screen: bool,
    /// What stands between two pictures that follow each other.
    between: &'static str,
    picture: Option<String>,
}

impl Canvas {
    fn open(json: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let is_screen = io::stdout().is_terminal() && !is_dumb && !json;
        if is_screen {
            // A terminal that is gone is noticed with the first picture.
            let _ = print(ENTER);
        }
        Self { is_screen, between: if json { "" } else { "\n" }, picture: None }
    }

    fn show(&mut self, picture: String) -> io::Result<()> {
        let is_first = self.picture.replace(picture).is_none();
        if self.is_screen || is_first {
            return self.draw();
        }
        print(self.between).and_then(|()| self.draw())
    }

    /// Draws the last picture: on a screen over the one before, without clearing it first, which
    /// would flicker.
    fn draw(&self) -> io::Result<()> {
        let Some(picture) = &self.picture else { return Ok(()) };
        if !self.is_screen {
            return print(&format!("{picture}\n"));
        }
        let height = terminal_size().map_or(24, |(_, Height(lines))| usize::from(lines));
        let mut text = "\x1b[H".to_owned();
        let lines = picture.lines().count();
        // The last line of the terminal is left for the cursor, or for the remark.
        let room = height.saturating_sub(1).max(1);
        for line in picture.lines().take(room) {
            let _ = write!(text, "{line}\x1b[K\r\n");
        }
        if lines > room {
            let _ = write!(text, "(and {} more: enlarge the terminal)\x1b[K", lines - room);
        }
        text.push_str("\x1b[J");
        print(&text)
    }

    /// Ctrl-Z: gives the terminal back, sleeps until the shell wakes it, and draws again.
    fn pause(&self) -> io::Result<()> {
        if self.is_screen {
            print(LEAVE)?;
        }
        raise(Signal::SIGSTOP)?;
        if self.is_screen {
            print(ENTER)?;
        }
        self.draw()
    }
}

impl Drop for Canvas {
    fn drop(&mut self) {
        if self.is_screen {
            let last = self.picture.take().map(|picture| picture + "\n").unwrap_or_default();
            // If the terminal is gone, nothing is left to be restored.
            let _ = print(&format!("{LEAVE}{last}"));
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
