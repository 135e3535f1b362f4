//! Where a program may listen that a test starts.

use std::{
    io,
    mem::forget,
    net::{Ipv4Addr, SocketAddr},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// An address of the loopback at which nobody listens, and which nobody else is given until this process ends: whoever
/// is told of it listens there as often as they like.
///
/// A socket holds the port that is bound to it and does not listen. The kernel lets others listen beside such a one if both
/// have `SO_REUSEADDR`, as all servers do, and picks the port for no other socket (`inet_csk_find_open_port` and
/// `__inet_hash_connect` in `net/ipv4`). A port that was only looked for, and let go, is soon that of a connection.
///
/// # Errors
/// If the kernel has no port left.
pub fn reserved_address() -> io::Result<SocketAddr> {
    let holder = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    holder.set_reuse_address(true)?;
    holder.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    let address = holder.local_addr()?;
    forget(holder);
    address.as_socket().ok_or_else(|| io::Error::other("a socket of IPv4 has another kind of address"))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        io::ErrorKind,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn it_is_nobodys_but_who_is_told_listens_there_twice() {
        let address = reserved_address().unwrap();
        for _ in 0..2 {
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let listener = TcpListener::bind(address).unwrap();
            let near = TcpStream::connect(address).unwrap();
            assert_eq!(listener.accept().unwrap().1, near.local_addr().unwrap());
        }
    }

    /// Among so many, some would be the same if none were held: of some 28,000 ports these are 400 and 400.
    #[test]
    fn nobody_else_is_given_it() {
        let reserved: HashSet<_> = (0..400).map(|_| reserved_address().unwrap()).collect();
        assert_eq!(reserved.len(), 400);
        let others: Vec<_> = (0..400).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        for other in &others {
            assert!(!reserved.contains(&other.local_addr().unwrap()), "{other:?} is reserved");
        }
    }
}
