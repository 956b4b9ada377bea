//! The port, as the stock daemon opens it (wire 1.1), and who connects to it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::config::{Family, Options};

/// How long nothing is accepted after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The port.
#[derive(Debug)]
pub(crate) struct Port {
    listener: TcpListener,
    /// The system has refused: nothing is accepted until then.
    paused_until: Option<Instant>,
}

impl Port {
    /// Listens where the options say.
    pub(crate) async fn open(options: &Options) -> anyhow::Result<Self> {
        Ok(Self { listener: listen(options).await?, paused_until: None })
    }

    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. Nothing is lost if it is not waited for to the end.
    pub(crate) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(until) = self.paused_until {
                sleep_until(until).await;
                self.paused_until = None;
            }
            match self.listener.accept().await {
                Ok((socket, address)) => {
                    if let Err(error) = socket.set_nodelay(true) {
                        debug!("{address}: {error}");
                    }
                    return (socket, address);
                }
                Err(error) => {
                    warn!("cannot accept connections: {error}; trying again");
                    self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                }
            }
        }
    }
}

/// Listens: on `--listen`, on the first address of `-l` that works, or on every address (an IPv6
/// socket that takes IPv4 too, unless `-4`, or the system has no IPv6).
async fn listen(options: &Options) -> anyhow::Result<TcpListener> {
    if let Some(address) = options.listen {
        return bind(address, options.listen_backlog);
    }
    let port = options.port;
    let Some(name) = &options.listen_address else {
        let any = |ip: std::net::IpAddr| bind(SocketAddr::new(ip, port), options.listen_backlog);
        return match options.family {
            Family::V4 => any(Ipv4Addr::UNSPECIFIED.into()),
            Family::V6 => any(Ipv6Addr::UNSPECIFIED.into()),
            Family::Any => match any(Ipv6Addr::UNSPECIFIED.into()) {
                Err(error) if is_errno(&error, Errno::EAFNOSUPPORT) => {
                    any(Ipv4Addr::UNSPECIFIED.into())
                }
                bound => bound,
            },
        };
    };
    let found = lookup_host((name.as_str(), port)).await;
    let found = found.with_context(|| format!("cannot resolve the listen address {name}"))?;
    let mut last = None;
    for address in found.filter(|address| fits(options.family, address)) {
        match bind(address, options.listen_backlog) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error),
        None => bail!("the listen address {name} has no address of the wanted family"),
    }
}

fn fits(family: Family, address: &SocketAddr) -> bool {
    match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    }
}

fn bind(address: SocketAddr, backlog: u32) -> anyhow::Result<TcpListener> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        }
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(backlog)
    };
    open().with_context(|| {
        format!("cannot listen on {address}; is another arbiter running, or the port taken?")
    })
}

fn is_errno(error: &anyhow::Error, errno: Errno) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.and_then(std::io::Error::raw_os_error) == Some(errno as i32)
}
