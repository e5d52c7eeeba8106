//! The event loop's epoll instance, and what its events are about.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;
use rustix::io::Errno;

/// Which descriptor an event is about. The numbers are never used twice, so that an event for
/// something that is gone by the time it is handled finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The signal descriptor.
    Signal,
    /// The listening socket.
    Listener,
    /// A daemon's connection.
    Connection(u64),
    /// The socket between the shim and a container's init before that is executed.
    ContainerSync(u64),
    /// A container's standard output, or its terminal.
    Output(u64),
    /// A container's standard error.
    ErrorOutput(u64),
    /// A process that a container has left behind.
    Leftover(u64),
    /// The socket between the shim and an exec's process before that is executed.
    ExecSync(u64),
    /// The timer of a command of an external runtime.
    RuntimeDeadline(u64),
    /// The pipe to somebody who is attached to a container.
    Attached(u64),
    /// The file that counts what a container's processes were killed for.
    Memory(u64),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Signal => (0, 0),
            Self::Listener => (1, 0),
            Self::Connection(number) => (2, number),
            Self::ContainerSync(number) => (3, number),
            Self::Output(number) => (4, number),
            Self::ErrorOutput(number) => (5, number),
            Self::Leftover(number) => (6, number),
            Self::ExecSync(number) => (7, number),
            Self::RuntimeDeadline(number) => (8, number),
            Self::Attached(number) => (9, number),
            Self::Memory(number) => (10, number),
        };
        number << 4 | kind
    }

    fn decode(value: u64) -> Self {
        let number = value >> 4;
        match value & 15 {
            0 => Self::Signal,
            1 => Self::Listener,
            2 => Self::Connection(number),
            3 => Self::ContainerSync(number),
            4 => Self::Output(number),
            5 => Self::ErrorOutput(number),
            6 => Self::Leftover(number),
            7 => Self::ExecSync(number),
            8 => Self::RuntimeDeadline(number),
            9 => Self::Attached(number),
            _ => Self::Memory(number),
        }
    }
}

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
    ReadAndWrite,
    /// That a control file has changed (cgroup-v2.rst, "memory.events").
    Change,
    /// Only that nobody is at the other end any more, which every interest includes.
    HangUp,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::ReadAndWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            Self::Change => epoll::EventFlags::PRI,
            Self::HangUp => epoll::EventFlags::empty(),
        }
    }
}

/// An event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    pub(crate) writable: bool,
}

/// An epoll instance. A descriptor leaves it when it is closed, which nothing else holds open.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    /// Watches `source` for something to read.
    pub(crate) fn add(&self, source: impl AsFd, token: Token) -> Result<(), Errno> {
        self.watch(source, token, Interest::Read)
    }

    pub(crate) fn watch(
        &self,
        source: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> Result<(), Errno> {
        let data = epoll::EventData::new_u64(token.encode());
        epoll::add(&self.epoll, source, data, interest.flags())
    }

    pub(crate) fn change(
        &self,
        source: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> Result<(), Errno> {
        let data = epoll::EventData::new_u64(token.encode());
        epoll::modify(&self.epoll, source, data, interest.flags())
    }

    /// Stops watching `source`. Needed before it is closed wherever a child may still hold a copy.
    pub(crate) fn remove(&self, source: impl AsFd) {
        // It is about to be closed either way.
        let _ = epoll::delete(&self.epoll, source);
    }

    /// Waits for events.
    pub(crate) fn wait(&self) -> Result<impl Iterator<Item = Ready> + use<>, Errno> {
        let mut events = [std::mem::MaybeUninit::uninit(); 16];
        let (ready, _) = match epoll::wait(&self.epoll, &mut events, None) {
            Err(Errno::INTR) => epoll::wait(&self.epoll, &mut events, Some(&ZERO))?,
            other => other?,
        };
        let ready: Vec<Ready> = ready
            .iter()
            .map(|event| {
                let (data, flags) = (event.data, event.flags);
                Ready {
                    token: Token::decode(data.u64()),
                    writable: flags.contains(epoll::EventFlags::OUT),
                }
            })
            .collect();
        Ok(ready.into_iter())
    }
}

const ZERO: rustix::event::Timespec = rustix::event::Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for token in [
            Token::Signal,
            Token::Listener,
            Token::Connection(1),
            Token::ContainerSync(2),
            Token::Output(3),
            Token::ErrorOutput(u64::MAX >> 4),
            Token::Leftover(5),
            Token::ExecSync(6),
            Token::RuntimeDeadline(7),
            Token::Attached(8),
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
