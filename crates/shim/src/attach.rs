//! Clients that are attached to a container: its output goes into their pipes beside its log, and
//! its standard input is theirs to write to.
//!
//! Nothing is lost to an attacher that is slow: while its pipe is full, the stream that it follows
//! is not read, so that the container waits. One that is gone is let go at once.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::container::{Container, Input, Stage};
use crate::failure::{Explain, Outcome};
use crate::log::Stream;
use crate::poller::{Interest, Poller, Token};
use crate::protocol::{Attach, AttachStdin, Failure};
use crate::supervisor::{Supervisor, describe};

/// A stream of a container, by the shim's number for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) container: u64,
    pub(crate) stream: Stream,
}

/// Whether all attachers of a stream have what it has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Even,
    /// One of them has still to take some.
    Behind,
}

/// A pipe to somebody who follows a stream.
#[derive(Debug)]
struct Attacher {
    source: Source,
    pipe: OwnedFd,
    /// What the pipe has had no room for.
    pending: Vec<u8>,
    /// Whether the stream has ended: this one is let go once it has everything.
    last: bool,
}

impl Attacher {
    /// Writes what is pending; an error where nobody reads any more.
    fn write(&mut self) -> Result<(), Errno> {
        let mut written = 0;
        while written < self.pending.len() {
            match rustix::io::write(&self.pipe, &self.pending[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        if written == self.pending.len() {
            // Given back, not kept: an attacher that keeps up costs nothing.
            self.pending = Vec::new();
        } else {
            self.pending.drain(..written);
        }
        Ok(())
    }

    /// Makes the pipe as large as what is pending, as far as the kernel allows: what is in it
    /// arrives whatever becomes of the shim.
    fn enlarge(&self) {
        /// Pages that are begun, at the end of what is in the pipe and of what is added.
        const SLACK: usize = 2 * 4096;
        let held = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
        let size = usize::try_from(held).unwrap_or(0) + self.pending.len() + SLACK;
        // Where it is refused the rest goes when there is room.
        let _ = rustix::pipe::fcntl_setpipe_size(&self.pipe, size);
    }
}

/// All attachers of a pod.
#[derive(Debug, Default)]
pub(crate) struct Attachers {
    /// By numbers that are never used twice.
    all: BTreeMap<u64, Attacher>,
}

impl Attachers {
    fn add(&mut self, poller: &Poller, number: u64, source: Source, pipe: OwnedFd) -> Outcome<()> {
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)
            .and_then(|()| poller.watch(&pipe, Token::Attached(number), Interest::HangUp))
            .system(|| "watch the pipe of an attach")?;
        let attacher = Attacher {
            source,
            pipe,
            pending: Vec::new(),
            last: false,
        };
        self.all.insert(number, attacher);
        Ok(())
    }

    /// Gives every attacher of a stream what it has brought.
    pub(crate) fn push(&mut self, poller: &Poller, source: Source, bytes: &[u8]) -> Pace {
        for (number, attacher) in &mut self.all {
            if attacher.source == source && !attacher.last {
                let waits = !attacher.pending.is_empty();
                attacher.pending.extend_from_slice(bytes);
                // One that nobody reads any more is let go by its event, which is on its way.
                if !waits && attacher.write().is_ok() && !attacher.pending.is_empty() {
                    let token = Token::Attached(*number);
                    // It is watched already; then it is only its room that is not heard of.
                    let _ = poller.change(&attacher.pipe, token, Interest::Write);
                }
            }
        }
        self.pace(source)
    }

    fn pace(&self, source: Source) -> Pace {
        let behind =
            |attacher: &Attacher| attacher.source == source && !attacher.pending.is_empty();
        if self.all.values().any(behind) {
            Pace::Behind
        } else {
            Pace::Even
        }
    }

    /// A stream has ended: its attachers are let go as soon as they have everything.
    pub(crate) fn finish(&mut self, poller: &Poller, source: Source) {
        self.all.retain(|_, attacher| {
            if attacher.source != source {
                return true;
            }
            attacher.last = true;
            if !attacher.pending.is_empty() {
                attacher.enlarge();
            }
            let stays = attacher.write().is_ok() && !attacher.pending.is_empty();
            if !stays {
                poller.remove(&attacher.pipe);
            }
            stays
        });
    }

    /// An attacher's pipe has room, or nobody reads it any more. Gives the stream that it follows.
    fn ready(&mut self, poller: &Poller, number: u64) -> Option<Source> {
        let attacher = self.all.get_mut(&number)?;
        let source = attacher.source;
        // With nothing to write, the event is the reader's end.
        let gone = attacher.pending.is_empty() || attacher.write().is_err();
        if gone || (attacher.last && attacher.pending.is_empty()) {
            poller.remove(&attacher.pipe);
            self.all.remove(&number);
        } else if attacher.pending.is_empty() {
            let _ = poller.change(&attacher.pipe, Token::Attached(number), Interest::HangUp);
        }
        Some(source)
    }
}

impl Supervisor {
    /// Attaches a client. Gives what it is to write to, where it asked for it.
    pub(crate) fn attach(
        &mut self,
        poller: &Poller,
        attach: &Attach,
        descriptors: Vec<OwnedFd>,
    ) -> Outcome<Vec<OwnedFd>> {
        let wanted: Vec<Stream> = [
            attach.stdout.then_some(Stream::Out),
            attach.stderr.then_some(Stream::Error),
        ]
        .into_iter()
        .flatten()
        .collect();
        if wanted.len() != descriptors.len() {
            return Err(Failure::invalid(format!(
                "an attach to {} outputs comes with {} descriptors",
                wanted.len(),
                descriptors.len()
            )));
        }
        let (container, known) = self.known(&attach.container)?;
        if matches!(known.stage, Stage::Ending(_) | Stage::Exited(_)) {
            return Err(Failure::wrong_state(format!(
                "container {} cannot be attached to: it {}",
                attach.container,
                describe(&known.stage)
            )));
        }
        let open: Vec<bool> = wanted
            .iter()
            .map(|stream| known.source(*stream).is_some())
            .collect();
        let input = known.hand_input(attach.stdin)?;
        for ((stream, pipe), open) in wanted.into_iter().zip(descriptors).zip(open) {
            // Of a stream that has ended already, the end is all there is to tell.
            if open {
                let number = self.number();
                let source = Source { container, stream };
                self.attachers.add(poller, number, source, pipe)?;
            }
        }
        Ok(input.into_iter().collect())
    }

    /// An attacher's pipe has room, or nobody reads it any more.
    pub(crate) fn attached_ready(&mut self, poller: &Poller, number: u64) {
        let Some(source) = self.attachers.ready(poller, number) else {
            return;
        };
        if self.attachers.pace(source) == Pace::Even
            && let Some(container) = self.containers.get(&source.container)
        {
            container.resume(poller, source);
        }
    }
}

impl Container {
    /// What an attacher is to write to.
    fn hand_input(&mut self, wanted: AttachStdin) -> Outcome<Option<OwnedFd>> {
        let copy = |end: &OwnedFd| {
            end.try_clone()
                .map(Some)
                .system(|| "copy the descriptor of a container's standard input")
        };
        match (&self.input, wanted) {
            (Input::Terminal(master), _) => copy(master),
            (_, AttachStdin::None) => Ok(None),
            (Input::Pipe(end), AttachStdin::Shared) => copy(end),
            (Input::Pipe(_), AttachStdin::Only) => {
                let Input::Pipe(end) = std::mem::replace(&mut self.input, Input::Closed) else {
                    return Ok(None);
                };
                Ok(Some(end))
            }
            (Input::Closed, _) => Err(Failure::wrong_state(format!(
                "the standard input of container {} is not open: it was made without one, or with \
                 stdin_once and somebody has been attached to it already",
                self.id
            ))),
        }
    }

    /// Reads a stream no more until [`resume`](Self::resume).
    pub(crate) fn pause(&self, poller: &Poller, stream: Stream) {
        if let Some(descriptor) = self.source(stream) {
            poller.remove(descriptor);
        }
    }

    /// Reads a stream again, if that was paused and has not ended.
    fn resume(&self, poller: &Poller, source: Source) {
        let token = match source.stream {
            Stream::Out => Token::Output(source.container),
            Stream::Error => Token::ErrorOutput(source.container),
        };
        if let Some(descriptor) = self.source(source.stream) {
            // It fails where it is being read, which is as good.
            let _ = poller.add(descriptor, token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rustix::pipe::{PipeFlags, pipe_with};

    const SOURCE: Source = Source {
        container: 1,
        stream: Stream::Out,
    };

    fn attached(attachers: &mut Attachers, poller: &Poller, number: u64) -> OwnedFd {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        attachers.add(poller, number, SOURCE, write).unwrap();
        read
    }

    fn taken(pipe: &OwnedFd) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = rustix::io::read(pipe, &mut buffer) {
            all.extend_from_slice(&buffer[..length]);
        }
        all
    }

    /// Handles one event, which must be there.
    fn event(attachers: &mut Attachers, poller: &Poller) -> Option<Source> {
        let ready: Vec<_> = poller.wait().unwrap().collect();
        let [ready] = ready.as_slice() else {
            panic!("{} events", ready.len())
        };
        let Token::Attached(number) = ready.token else {
            panic!("{:?}", ready.token)
        };
        attachers.ready(poller, number)
    }

    #[test]
    fn every_attacher_gets_everything_and_the_slow_one_holds_the_stream() {
        let (mut attachers, poller) = (Attachers::default(), Poller::new().unwrap());
        let quick = attached(&mut attachers, &poller, 1);
        let slow = attached(&mut attachers, &poller, 2);
        let bytes: Vec<u8> = (0..60_000u32)
            .map(|number| number.to_le_bytes()[0])
            .collect();
        assert_eq!(attachers.push(&poller, SOURCE, &bytes), Pace::Even);
        assert_eq!(taken(&quick), bytes);
        assert_eq!(attachers.push(&poller, SOURCE, &bytes), Pace::Behind);
        assert_eq!(taken(&quick), bytes);
        let mut found = taken(&slow);
        assert_eq!(event(&mut attachers, &poller), Some(SOURCE));
        assert_eq!(attachers.pace(SOURCE), Pace::Even);
        found.extend(taken(&slow));
        assert_eq!(found, [bytes.as_slice(), bytes.as_slice()].concat());
    }

    #[test]
    fn an_attacher_that_is_gone_holds_nothing() {
        let (mut attachers, poller) = (Attachers::default(), Poller::new().unwrap());
        let idle = attached(&mut attachers, &poller, 1);
        drop(idle);
        assert_eq!(event(&mut attachers, &poller), Some(SOURCE));
        let full = attached(&mut attachers, &poller, 2);
        assert_eq!(
            attachers.push(&poller, SOURCE, &vec![7; 70_000]),
            Pace::Behind
        );
        drop(full);
        assert_eq!(event(&mut attachers, &poller), Some(SOURCE));
        assert_eq!(attachers.pace(SOURCE), Pace::Even);
        assert!(attachers.all.is_empty());
    }

    #[test]
    fn what_is_left_at_the_end_fits_into_the_pipe() {
        let (mut attachers, poller) = (Attachers::default(), Poller::new().unwrap());
        let slow = attached(&mut attachers, &poller, 1);
        let bytes = vec![9; 300_000];
        assert_eq!(attachers.push(&poller, SOURCE, &bytes), Pace::Behind);
        attachers.finish(&poller, SOURCE);
        assert!(attachers.all.is_empty());
        assert_eq!(taken(&slow), bytes);
    }
}
