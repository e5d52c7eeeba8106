//! Downloading a blob to its end, over as many connections as that takes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use oci_spec::image::Descriptor;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::Session;
use super::http::{Refusal, refusal};
use crate::digest::Hasher;
use crate::error::{Kind, http_cause};

/// Connections in a row that may end without having brought a byte.
const FRUITLESS_MAX: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The way of one blob: what arrived, and where the next request starts.
pub(crate) struct Download<'a> {
    sessions: &'a [Session],
    /// The place that is asked, first the one that had the manifest.
    present: usize,
    blob: &'a Descriptor,
    received: u64,
    last_byte: Instant,
    fruitless: u32,
}

/// Where the bytes go. They come in order and each once, however often the connection breaks.
pub(crate) trait Sink {
    /// Takes the next bytes; false when no more are wanted.
    fn take(&mut self, bytes: Bytes) -> impl Future<Output = bool> + Send;
}

/// How a download ended that was not refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// All bytes arrived and their digest is right.
    Complete,
    /// The sink wanted no more.
    Declined,
}

/// Why one connection ended early.
enum Interruption {
    /// Another attempt may go on from here.
    Broken(Refusal),
    /// This place will not deliver it.
    Final(Refusal),
    Declined,
}

impl<'a> Download<'a> {
    pub(crate) fn new(sessions: &'a [Session], first: usize, blob: &'a Descriptor) -> Self {
        Self {
            sessions,
            present: first,
            blob,
            received: 0,
            last_byte: Instant::now(),
            fruitless: 0,
        }
    }

    /// Fetches the blob into `sink`. A broken connection is taken up again where it broke; the
    /// download is given up when no byte has arrived for the session's patience, or after five
    /// connections in a row that brought nothing.
    pub(crate) async fn run(mut self, sink: &mut impl Sink) -> Result<Outcome, (usize, Refusal)> {
        let unknown = || Refusal::new(Kind::Unsupported, "the digest has an unknown algorithm");
        let mut hasher =
            Hasher::like(self.blob.digest()).ok_or_else(|| (self.present, unknown()))?;
        let mut places_left = self.sessions.len();
        while self.received < self.blob.size() || self.blob.size() == 0 {
            let before = self.received;
            match self.connection(&mut hasher, sink).await {
                Ok(()) => break,
                Err(Interruption::Declined) => return Ok(Outcome::Declined),
                Err(Interruption::Final(refusal)) => {
                    places_left -= 1;
                    if places_left == 0 {
                        return Err((self.present, refusal));
                    }
                    self.present = (self.present + 1) % self.sessions.len();
                }
                Err(Interruption::Broken(refusal)) => {
                    self.after_break(before, refusal).await?;
                }
            }
        }
        let found = hasher.finish();
        if found == self.blob.digest().as_ref() {
            Ok(Outcome::Complete)
        } else {
            let cause = format!("{}: its digest is {found}", self.name());
            Err((self.present, Refusal::new(Kind::Corrupt, cause)))
        }
    }

    /// Decides whether another connection is worth it, and pauses before it where the last one
    /// brought nothing.
    async fn after_break(&mut self, before: u64, refusal: Refusal) -> Result<(), (usize, Refusal)> {
        if self.received > before {
            tracing::debug!(blob = %self.blob.digest(), at = self.received, cause = refusal.cause,
                "connection broke, going on from there");
            self.fruitless = 0;
            return Ok(());
        }
        self.fruitless += 1;
        if self.fruitless >= FRUITLESS_MAX || self.last_byte.elapsed() >= self.patience() {
            let cause = format!(
                "{}, after {} of {} bytes and {} attempts that brought nothing",
                refusal.cause,
                self.received,
                self.blob.size(),
                self.fruitless
            );
            return Err((self.present, Refusal::new(refusal.kind, cause)));
        }
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.fruitless - 1)).await;
        self.present = (self.present + 1) % self.sessions.len();
        Ok(())
    }

    /// One request and as much of its answer as arrives.
    async fn connection(
        &mut self,
        hasher: &mut Hasher,
        sink: &mut impl Sink,
    ) -> Result<(), Interruption> {
        let session = &self.sessions[self.present];
        let offset = (self.received > 0).then_some(self.received);
        let path = format!("blobs/{}", self.blob.digest());
        let response = session
            .get(&self.name(), &path, None, offset)
            .await
            .map_err(Self::classify)?;
        let mut skip = self.position(&response)?;
        if response.status() != StatusCode::OK && response.status() != StatusCode::PARTIAL_CONTENT {
            let refusal = refusal(&self.name(), response, session.patience).await;
            return Err(Self::classify(refusal));
        }
        let mut stream = response.bytes_stream();
        loop {
            // A third of the patience, so that a connection which died without a word is replaced
            // before the pull is given up.
            let chunk = match tokio::time::timeout(self.patience() / 3, stream.next()).await {
                Err(_) => return Err(self.broken("no byte arrives any more")),
                Ok(Some(Err(error))) => return Err(self.broken(&http_cause(error))),
                Ok(None) if self.received == self.blob.size() => return Ok(()),
                Ok(None) => {
                    return Err(self.corrupt(&format!(
                        "it ends after {} bytes, the manifest says {}",
                        self.received,
                        self.blob.size()
                    )));
                }
                Ok(Some(Ok(chunk))) => chunk,
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            // At most the length of the chunk, so it fits.
            let chunk = chunk.slice(usize::try_from(skipped).unwrap_or(chunk.len())..);
            if chunk.is_empty() {
                continue;
            }
            if self.received + chunk.len() as u64 > self.blob.size() {
                return Err(self.corrupt(&format!(
                    "it is longer than the {} bytes that the manifest says",
                    self.blob.size()
                )));
            }
            hasher.update(&chunk);
            self.received += chunk.len() as u64;
            if !sink.take(chunk).await {
                return Err(Interruption::Declined);
            }
            // After the sink, which may have kept the registry waiting.
            self.last_byte = Instant::now();
            if self.received == self.blob.size() {
                return Ok(());
            }
        }
    }

    /// How many bytes of the answer are known already. Checks that the registry means the same
    /// blob.
    fn position(&self, response: &Response) -> Result<u64, Interruption> {
        let other_length = |length: u64| {
            self.corrupt(&format!(
                "the registry has {length} bytes, the manifest says {}",
                self.blob.size()
            ))
        };
        match response.status() {
            StatusCode::OK => match response.content_length() {
                Some(length) if length != self.blob.size() => Err(other_length(length)),
                // The registry does not do ranges and starts again.
                _ => Ok(self.received),
            },
            StatusCode::PARTIAL_CONTENT => {
                let range = response
                    .headers()
                    .get(CONTENT_RANGE)
                    .and_then(|v| v.to_str().ok());
                match range.and_then(parse_content_range) {
                    Some((start, _)) if start != self.received => Err(self.corrupt(&format!(
                        "byte {} was asked for and the answer starts at {start}",
                        self.received
                    ))),
                    Some((_, Some(length))) if length != self.blob.size() => {
                        Err(other_length(length))
                    }
                    _ => Ok(0),
                }
            }
            _ => Ok(0),
        }
    }

    fn classify(refusal: Refusal) -> Interruption {
        match refusal.kind {
            Kind::Unavailable | Kind::RateLimited => Interruption::Broken(refusal),
            _ => Interruption::Final(refusal),
        }
    }

    fn broken(&self, cause: &str) -> Interruption {
        Interruption::Broken(Refusal::new(
            Kind::Unavailable,
            format!("{}: the connection broke: {cause}", self.name()),
        ))
    }

    fn corrupt(&self, cause: &str) -> Interruption {
        Interruption::Final(Refusal::new(
            Kind::Corrupt,
            format!("{}: {cause}", self.name()),
        ))
    }

    fn name(&self) -> String {
        format!("blob {}", self.blob.digest())
    }

    fn patience(&self) -> Duration {
        self.sessions[self.present].patience
    }
}

/// First byte and total length of `bytes first-last/total`.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(parse_content_range("bytes */10"), None);
        assert_eq!(parse_content_range("items 1-2/3"), None);
    }
}
