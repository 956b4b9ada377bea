//! `corosync-qdevice-net-certutil -Q`: enrols a cluster from anywhere, by ssh and scp as root. One
//! key is shared by all nodes of the cluster.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use certs::stock_store::{
    ARBITER_DIRECTORY, BUNDLE_FILE, CA_TEXT_FILE, NODE_DIRECTORY, REQUEST_FILE, cluster_file,
};

const QNETD_PROGRAM: &str = "corosync-qnetd-certutil";
const NODE_PROGRAM: &str = "corosync-qdevice-net-certutil";

/// Who takes part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Plan {
    cluster: String,
    arbiter: String,
    /// The first one makes the key.
    nodes: Vec<String>,
}

impl Plan {
    /// The arbiter and the nodes from the arguments.
    pub(super) fn read(cluster: &str, hosts: &[String]) -> Result<Self, String> {
        let [arbiter, nodes @ ..] = hosts else {
            return Err("there is no arbiter: name it, and the nodes behind it".to_owned());
        };
        if nodes.is_empty() {
            return Err("there are no nodes: name them behind the arbiter".to_owned());
        }
        if let Some(odd) = hosts.iter().find(|host| host.starts_with('-') || host.is_empty()) {
            return Err(format!("\"{odd}\" is no host: flags come before the hosts"));
        }
        cluster_file("/".as_ref(), cluster).map_err(|error| error.to_string())?;
        Ok(Self { cluster: cluster.to_owned(), arbiter: arbiter.clone(), nodes: nodes.to_vec() })
    }

    /// Does it. Nothing has been changed when a node is refused.
    pub(super) fn carry_out(&self) -> Result<(), String> {
        let [first, others @ ..] = self.nodes.as_slice() else { return Ok(()) };
        let scratch = Scratch::new()?;
        for node in &self.nodes {
            if ssh(node, &["test", "-d", NODE_DIRECTORY]).is_ok() {
                return Err(format!("{node}: has a store already: remove {NODE_DIRECTORY} there"));
            }
            ssh(node, &["command", "-v", NODE_PROGRAM])?;
        }
        // An arbiter that has its authority already says so and is used as it is.
        let _ = ssh(&self.arbiter, &[QNETD_PROGRAM, "-i"]);
        let ca = format!("/tmp/{CA_TEXT_FILE}");
        for node in &self.nodes {
            scratch.copy(
                &self.arbiter,
                &format!("{ARBITER_DIRECTORY}/{CA_TEXT_FILE}"),
                node,
                &ca,
            )?;
            ssh(node, &[NODE_PROGRAM, "-i", "-c", &ca])?;
            ssh(node, &["rm", &ca])?;
        }
        ssh(first, &[NODE_PROGRAM, "-r", "-n", &self.cluster])?;
        let request = format!("{NODE_DIRECTORY}/{REQUEST_FILE}");
        let sent = format!("/tmp/{REQUEST_FILE}");
        scratch.copy(first, &request, &self.arbiter, &sent)?;
        ssh(&self.arbiter, &[QNETD_PROGRAM, "-s", "-c", &sent, "-n", &self.cluster])?;
        let signed = format!("cluster-{}.crt", self.cluster);
        let here = format!("{NODE_DIRECTORY}/{signed}");
        scratch.copy(&self.arbiter, &format!("{ARBITER_DIRECTORY}/{signed}"), first, &here)?;
        ssh(first, &[NODE_PROGRAM, "-M", "-c", &here])?;
        let bundle = format!("{NODE_DIRECTORY}/{BUNDLE_FILE}");
        for node in others {
            scratch.copy(first, &bundle, node, &bundle)?;
            ssh(node, &[NODE_PROGRAM, "-m", "-c", &bundle])?;
        }
        // The first one has its key already, but not where a device of ours looks for it.
        ssh(first, &[NODE_PROGRAM, "-m", "-c", &bundle])
    }
}

/// A directory for files on their way, as two hosts may not know each other.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("haguard-quick-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| format!("{}: cannot be made: {error}", path.display()))?;
        Ok(Self(path))
    }

    fn copy(&self, from: &str, what: &str, to: &str, whereto: &str) -> Result<(), String> {
        let here = self.0.join("file").display().to_string();
        run("scp", &[&remote(from, what), &here])?;
        run("scp", &[&here, &remote(to, whereto)])
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file on another host, for scp; an IPv6 address has to be in brackets.
fn remote(host: &str, path: &str) -> String {
    if host.contains(':') { format!("root@[{host}]:{path}") } else { format!("root@{host}:{path}") }
}

/// Runs a command on a host; its words are quoted for the shell there.
fn ssh(host: &str, command: &[&str]) -> Result<(), String> {
    let line: Vec<String> = command.iter().map(|word| quote(word)).collect();
    run("ssh", &[&format!("root@{host}"), &line.join(" ")])
}

/// A word for the shell.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let status = Command::new(program).args(args).stdin(Stdio::null()).status();
    let status = status.map_err(|error| format!("{program} cannot be run: {error}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {status}: see above, repair it and start anew", args.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cluster: &str, hosts: &[&str]) -> Result<Plan, String> {
        let hosts: Vec<String> = hosts.iter().copied().map(str::to_owned).collect();
        Plan::read(cluster, &hosts)
    }

    #[test]
    fn hosts_and_names_that_would_be_something_else_are_refused() {
        assert_eq!(plan("c", &["q", "n1", "n2"]).unwrap().nodes, ["n1", "n2"]);
        assert!(plan("c", &[]).unwrap_err().contains("no arbiter"));
        assert!(plan("c", &["q"]).unwrap_err().contains("no nodes"));
        assert!(plan("c", &["q", "-oProxyCommand=x"]).unwrap_err().contains("is no host"));
        assert!(plan("../c", &["q", "n"]).unwrap_err().contains('/'));
    }

    #[test]
    fn words_reach_the_other_shell_as_they_are() {
        assert_eq!(quote("/etc/corosync/x.crt"), "/etc/corosync/x.crt");
        assert_eq!(quote("my cluster; reboot"), "'my cluster; reboot'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
        assert_eq!(remote("fe80::1", "/a"), "root@[fe80::1]:/a");
    }
}
