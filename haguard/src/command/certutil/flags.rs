//! The flags of the two programs, as getopts of the shell reads them: bundled or apart, values
//! attached or apart, up to the first argument that is no flag.

/// What the arguments say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Flags {
    /// The last operation named, or `h`.
    pub(super) operation: Option<char>,
    /// `-c`.
    pub(super) certificate: Option<String>,
    /// `-n`.
    pub(super) cluster: Option<String>,
    /// What follows the flags.
    pub(super) rest: Vec<String>,
}

impl Flags {
    /// Reads arguments with these switches, flags that take a value, and switches that are
    /// operations. After `-h` nothing is read, as nothing else is done.
    pub(super) fn read(
        args: &[String],
        switches: &str,
        with_value: &str,
        operations: &str,
    ) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.as_slice().first() {
            let Some(bundle) = arg.strip_prefix('-').filter(|bundle| !bundle.is_empty()) else {
                break;
            };
            args.next();
            if bundle == "-" {
                break;
            }
            for (at, flag) in bundle.char_indices() {
                if flag == 'h' {
                    return Ok(Self { operation: Some(flag), ..Self::default() });
                }
                if operations.contains(flag) {
                    flags.operation = Some(flag);
                } else if with_value.contains(flag) {
                    let attached = &bundle[at + flag.len_utf8()..];
                    let value = match attached {
                        "" => args.next().cloned(),
                        attached => Some(attached.to_owned()),
                    };
                    let value = value.ok_or_else(|| format!("option -{flag} needs an argument"))?;
                    if flag == 'c' {
                        flags.certificate = Some(value);
                    } else {
                        flags.cluster = Some(value);
                    }
                    break;
                } else if !switches.contains(flag) {
                    return Err(format!("invalid option: -{flag}"));
                }
            }
        }
        flags.rest = args.cloned().collect();
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Flags, String> {
        let args: Vec<String> = args.iter().copied().map(str::to_owned).collect();
        Flags::read(&args, "isGh", "cn", "is")
    }

    #[test]
    fn flags_come_bundled_attached_or_apart_and_the_last_operation_counts() {
        let want = Flags {
            operation: Some('s'),
            certificate: Some("f".into()),
            cluster: Some("x y".into()),
            rest: vec!["-i".into()],
        };
        assert_eq!(read(&["-i", "-s", "-c", "f", "-n", "x y", "--", "-i"]).unwrap(), want);
        assert_eq!(read(&["-iGscf", "-nx y", "--", "-i"]).unwrap(), want);
        let stopped = read(&["-i", "word", "-s"]).unwrap();
        assert_eq!((stopped.operation, stopped.rest.len()), (Some('i'), 2));
    }

    #[test]
    fn what_the_shell_refuses_is_refused() {
        assert_eq!(read(&["-x"]).unwrap_err(), "invalid option: -x");
        assert_eq!(read(&["--init"]).unwrap_err(), "invalid option: --");
        assert_eq!(read(&["-s", "-c"]).unwrap_err(), "option -c needs an argument");
        assert_eq!(read(&["-h", "-x"]).unwrap().operation, Some('h'));
    }
}
