//! Network devices, by rtnetlink(7): their addresses, and removing them.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// `RTM_DELLINK`, `NLM_F_REQUEST | NLM_F_ACK`, `IFLA_IFNAME`: linux/rtnetlink.h, linux/netlink.h,
/// linux/if_link.h.
const REMOVE: u16 = 17;
const ACKNOWLEDGED: u16 = 1 | 4;
const NAME: u16 = 3;

/// `RTM_GETADDR`, `NLM_F_REQUEST | NLM_F_DUMP`, `NLMSG_ERROR`, `NLMSG_DONE`, `IFA_ADDRESS`, `IFA_LOCAL`,
/// `RT_SCOPE_LINK`: the same files and linux/if_addr.h.
const ADDRESSES: u16 = 22;
const ALL: u16 = 1 | 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const IS_ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const ON_LINK: u8 = 253;

/// `struct ifaddrmsg`, in bytes.
const ADDRESS: usize = 8;

/// A header, `struct ifinfomsg`, and the head of an attribute, in bytes.
const HEADER: usize = 16;
const LINK: usize = 16;
const ATTRIBUTE: usize = 4;

/// Removes a device of this network namespace; one that is not there is fine.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let socket = socket()?;
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

/// The addresses of a device, by its index, but for those that hold on its link alone (fe80::…).
pub(super) fn addresses(index: u32) -> io::Result<Vec<IpAddr>> {
    let socket = socket()?;
    let length = u32::try_from(HEADER + ADDRESS).unwrap_or(u32::MAX);
    let mut request = Vec::with_capacity(HEADER + ADDRESS);
    request.extend(length.to_ne_bytes());
    request.extend(ADDRESSES.to_ne_bytes());
    request.extend(ALL.to_ne_bytes());
    request.resize(HEADER + ADDRESS, 0);
    send(&socket, &request, SendFlags::empty())?;
    let mut found = Vec::new();
    let mut answer = vec![0; 64 << 10];
    loop {
        let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
        let mut left = &answer[..length];
        while let Some((kind, body, rest)) = message(left) {
            match kind {
                DONE => return Ok(found),
                ERROR => {
                    let code = body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => found.extend(address(body, index)),
            }
            left = rest;
        }
    }
}

/// The first of several messages: its kind, what is in it, and those behind it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?);
    let length = usize::try_from(length).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let end = length.next_multiple_of(4).min(bytes.len());
    Some((kind, body, &bytes[end..]))
}

/// The address of a `struct ifaddrmsg` with its attributes, if it is this device's.
fn address(body: &[u8], index: u32) -> Option<IpAddr> {
    let (head, mut left) = body.split_at_checked(ADDRESS)?;
    let of = u32::from_ne_bytes(head[4..].try_into().ok()?);
    if of != index || head[3] == ON_LINK {
        return None;
    }
    let mut found = None;
    while let Some(length) = left.first_chunk().map(|length| u16::from_ne_bytes(*length)) {
        let value = left.get(ATTRIBUTE..usize::from(length))?;
        let kind = u16::from_ne_bytes(left.get(2..4)?.try_into().ok()?);
        let read = match value.len() {
            4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            _ => None,
        };
        match kind {
            LOCAL => return read,
            IS_ADDRESS => found = read,
            _ => {}
        }
        let end = usize::from(length).next_multiple_of(4).min(left.len());
        left = &left[end..];
    }
    found
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is the first.
        None,
    )?)
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
