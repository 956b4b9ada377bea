//! The commands of the local socket (wire 6.1), without a socket.

/// A command line, read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Request {
    /// `status [verbose]`.
    Status {
        /// With the limits.
        verbose: bool,
    },
    /// `list [verbose] [cluster "NAME"]`.
    List {
        /// With everything.
        verbose: bool,
        /// Only this cluster.
        cluster: Option<Vec<u8>>,
    },
    /// `shutdown`.
    Shutdown,
    /// `haguard-status`, ours: everything as JSON.
    HaguardStatus,
    /// An empty line.
    Nothing,
    /// Anything else.
    Unknown(Vec<u8>),
}

impl Request {
    /// Reads a line without its end. Words are compared without regard to case; what follows a
    /// word that a command does not know is not looked at, as in the stock daemon.
    pub(super) fn parse(line: &[u8]) -> Self {
        let mut words = words(line).into_iter();
        let Some(command) = words.next().filter(|word| !word.is_empty()) else {
            return Self::Nothing;
        };
        match command.to_ascii_lowercase().as_slice() {
            b"status" => {
                let verbose = words.next().is_some_and(|w| w.eq_ignore_ascii_case(b"verbose"));
                Self::Status { verbose }
            }
            b"list" => Self::parse_list(words),
            b"shutdown" => Self::Shutdown,
            b"haguard-status" => Self::HaguardStatus,
            _ => Self::Unknown(command),
        }
    }

    fn parse_list(mut words: impl Iterator<Item = Vec<u8>>) -> Self {
        let (mut verbose, mut cluster) = (false, None);
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case(b"verbose") {
                verbose = true;
            } else if word.eq_ignore_ascii_case(b"cluster") {
                // Without a name nothing is asked for, as by the stock daemon.
                cluster = words.next().filter(|name| !name.is_empty());
            } else {
                break;
            }
        }
        Self::List { verbose, cluster }
    }
}

/// Words separated by blanks; `"` keeps blanks together and `\` takes the next byte as it is.
fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => word.get_or_insert_default().extend(bytes.next()),
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c | 0 if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_by_the_stock_daemon() {
        let status = |verbose| Request::Status { verbose };
        let list = |verbose, cluster: Option<&str>| Request::List {
            verbose,
            cluster: cluster.map(|name| name.as_bytes().to_vec()),
        };
        let unknown = |word: &str| Request::Unknown(word.as_bytes().to_vec());
        let cases = [
            ("status ", status(false)),
            ("STATUS Verbose", status(true)),
            ("status bogus verbose", status(false)),
            ("\tstatus\tverbose\r", status(true)),
            ("\"status\"", status(false)),
            ("sta\\tus", status(false)),
            ("list", list(false, None)),
            ("list verbose cluster \"X\" ", list(true, Some("X"))),
            ("list cluster \"a b\" verbose", list(true, Some("a b"))),
            ("list bogus verbose", list(false, None)),
            ("list cluster", list(false, None)),
            ("list cluster \"a \\\" \\\\ b\"", list(false, Some("a \" \\ b"))),
            ("shutdown x", Request::Shutdown),
            ("haguard-status", Request::HaguardStatus),
            ("", Request::Nothing),
            ("   ", Request::Nothing),
            ("\"\"", Request::Nothing),
            ("x y", unknown("x")),
            ("a\"b c\"d", unknown("ab cd")),
        ];
        for (line, expected) in cases {
            assert_eq!(Request::parse(line.as_bytes()), expected, "{line}");
        }
    }
}
