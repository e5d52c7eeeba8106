//! Removing a network device, by rtnetlink(7).

use std::io;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// `RTM_DELLINK`, `NLM_F_REQUEST | NLM_F_ACK`, `IFLA_IFNAME`: linux/rtnetlink.h, linux/netlink.h,
/// linux/if_link.h.
const REMOVE: u16 = 17;
const ACKNOWLEDGED: u16 = 1 | 4;
const NAME: u16 = 3;

/// A header, `struct ifinfomsg`, and the head of an attribute, in bytes.
const HEADER: usize = 16;
const LINK: usize = 16;
const ATTRIBUTE: usize = 4;

/// Removes a device of this network namespace; one that is not there is fine.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is the first.
        None,
    )?;
    send(&socket, &request(name), SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    // A header, then `struct nlmsgerr`, whose first field is the error's number, negative.
    let code = answer[..length].get(HEADER..HEADER + 4);
    let code = code.and_then(|bytes| bytes.try_into().ok());
    let code = code.map(i32::from_ne_bytes).ok_or(Errno::PROTO)?;
    match -code {
        0 => Ok(()),
        code if code == Errno::NODEV.raw_os_error() => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn request(name: &str) -> Vec<u8> {
    let attribute = ATTRIBUTE + name.len() + 1;
    let length = HEADER + LINK + attribute.next_multiple_of(4);
    let short = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_ne_bytes();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(REMOVE.to_ne_bytes());
    bytes.extend(ACKNOWLEDGED.to_ne_bytes());
    // A sequence number and a port that nobody asks for, and a device that is found by its name.
    bytes.resize(HEADER + LINK, 0);
    bytes.extend(short(attribute));
    bytes.extend(NAME.to_ne_bytes());
    bytes.extend(name.as_bytes());
    bytes.resize(length, 0);
    bytes
}
