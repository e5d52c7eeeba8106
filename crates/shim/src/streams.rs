//! The pipes that are a container's standard streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::failure::{Explain, Outcome};
use crate::protocol::Create;

/// A pipe, until each end is where it belongs.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
}

impl Pipe {
    fn new() -> Outcome<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).system(|| "make a pipe")?;
        Ok(Self { read, write })
    }

    /// Keeps the end to read from.
    pub(crate) fn read(self) -> OwnedFd {
        self.read
    }
}

/// A new container's standard streams; those that are not there are `/dev/null`, until the child
/// has its terminal.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) input: Option<Pipe>,
    pub(crate) out: Option<Pipe>,
    pub(crate) error: Option<Pipe>,
}

impl Streams {
    pub(crate) fn open(create: &Create) -> Outcome<Self> {
        let pipe = |wanted: bool| wanted.then(Pipe::new).transpose();
        Ok(Self {
            input: pipe(create.stdin && !create.terminal)?,
            out: pipe(!create.terminal)?,
            error: pipe(!create.terminal)?,
        })
    }

    /// The container's ends.
    pub(crate) fn of_child<'a>(&'a self, null: BorrowedFd<'a>) -> [BorrowedFd<'a>; 3] {
        let written =
            |pipe: &'a Option<Pipe>| pipe.as_ref().map_or(null, |pipe| pipe.write.as_fd());
        let input = self.input.as_ref().map_or(null, |pipe| pipe.read.as_fd());
        [input, written(&self.out), written(&self.error)]
    }
}
