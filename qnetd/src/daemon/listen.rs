//! The port, as the stock daemon opens it (wire 1.1).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::config::{Family, Options};

/// Listens: on `--listen`, on the first address of `-l` that works, or on every address (an IPv6
/// socket that takes IPv4 too, unless `-4`, or the system has no IPv6).
pub(super) async fn listen(options: &Options) -> anyhow::Result<TcpListener> {
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
