//! Brings up the loopback interface of a network namespace (rtnetlink(7)).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The first interface of every network namespace.
const LOOPBACK_INDEX: i32 = 1;
const IFF_UP: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;

/// The length of a message header and of what follows it here, `struct ifinfomsg`, in bytes.
const HEADER: usize = 16;
const INTERFACE: usize = 16;

/// Brings up `lo` in the network namespace at `netns`. Does nothing if it is up already. Blocks.
pub(crate) fn bring_up(netns: &Path) -> io::Result<()> {
    let netns = File::open(netns)?;
    // A thread of its own, which does not have to find its way back.
    thread::scope(|scope| {
        thread::Builder::new()
            .name("cni-loopback".into())
            .spawn_scoped(scope, || {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
                set_up()
            })?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn set_up() -> io::Result<()> {
    // No protocol is protocol 0, NETLINK_ROUTE.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    outcome(&answer[..length])
}

/// `struct nlmsghdr` and `struct ifinfomsg`: set the flag `IFF_UP` of the interface.
fn request() -> Vec<u8> {
    let length = u32::try_from(HEADER + INTERFACE).expect("a constant that fits");
    let mut message = Vec::with_capacity(HEADER + INTERFACE);
    message.extend(length.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend([0; 8]); // sequence number and port
    message.extend([0; 4]); // family, padding and type
    message.extend(LOOPBACK_INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // flags
    message.extend(IFF_UP.to_ne_bytes()); // which of the flags to change
    message
}

/// `struct nlmsgerr`, in which 0 is success.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer
        .get(4..6)
        .map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let code = answer
        .get(HEADER..HEADER + 4)
        .map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other(
            "the kernel's answer on the netlink socket is not one",
        )),
    }
}
