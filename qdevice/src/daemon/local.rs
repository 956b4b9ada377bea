//! The daemon's side of its local socket.

use host::local::{self, Answer};
use tokio::sync::{mpsc, oneshot};

use super::Happening;

/// What a local client wants to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Question {
    /// `status`, `status verbose`.
    Status {
        /// All of it.
        verbose: bool,
    },
    /// `haguard-status`: JSON.
    Json,
}

/// What a line asks for.
#[derive(Debug, Eq, PartialEq)]
enum Command {
    Ask(Question),
    Shutdown,
    Wrong(String),
}

impl Command {
    /// Words are divided by blanks and have no case; what follows the words that are known is
    /// not looked at.
    fn parse(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        let Some(word) = words.next() else {
            return Self::Wrong("No command specified".to_owned());
        };
        match word.to_ascii_lowercase().as_str() {
            "status" => {
                let verbose = words.any(|word| word.eq_ignore_ascii_case("verbose"));
                Self::Ask(Question::Status { verbose })
            }
            "haguard-status" => Self::Ask(Question::Json),
            "shutdown" => Self::Shutdown,
            _ => Self::Wrong(format!("Unknown command '{word}'")),
        }
    }
}

/// Where local clients' commands go.
#[derive(Clone, Debug)]
pub(super) struct Desk(pub(super) mpsc::Sender<Happening>);

impl local::Desk for Desk {
    async fn answer(&self, line: &[u8]) -> Option<Answer> {
        match Command::parse(line) {
            Command::Ask(question) => {
                let (answer, answered) = oneshot::channel();
                self.0.send(Happening::Asked(question, answer)).await.ok()?;
                Some(match answered.await.ok()? {
                    Ok(text) => Answer::Text(text),
                    Err(text) => Answer::Error(text),
                })
            }
            Command::Shutdown => Some(Answer::ThenStop),
            Command::Wrong(text) => Some(Answer::Error(text)),
        }
    }

    async fn stop(&self) {
        // Who is gone already has ended.
        let _ = self.0.send(Happening::Stop("asked to by the local socket")).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_words_without_case() {
        let status = |verbose| Command::Ask(Question::Status { verbose });
        assert_eq!(Command::parse(b"status "), status(false));
        assert_eq!(Command::parse(b"STATUS  Verbose \r"), status(true));
        assert_eq!(Command::parse(b"haguard-status"), Command::Ask(Question::Json));
        assert_eq!(Command::parse(b"shutdown "), Command::Shutdown);
        assert_eq!(Command::parse(b" "), Command::Wrong("No command specified".to_owned()));
        assert_eq!(Command::parse(b"x \xff"), Command::Wrong("Unknown command 'x'".to_owned()));
    }
}
