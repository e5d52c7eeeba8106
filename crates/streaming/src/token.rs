//! Tokens: each stands for one thing that was granted, once, for a short time.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

/// How many may be outstanding.
pub(crate) const MAX_OUTSTANDING: usize = 1000;

const BYTES: usize = 16;

/// What has been granted and not yet been taken.
#[derive(Debug)]
pub(crate) struct Tokens<T> {
    lifetime: Duration,
    granted: Mutex<Granted<T>>,
}

#[derive(Debug)]
struct Granted<T> {
    by_token: HashMap<String, T>,
    /// The oldest first; those that have been taken are still in it.
    expiries: VecDeque<(Instant, String)>,
}

/// Why no token was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotIssued {
    #[error("{MAX_OUTSTANDING} URLs are outstanding that nobody has used yet; try again later")]
    TooMany,
    #[error("the kernel gave no random bytes: {0}")]
    NoRandomness(rustix::io::Errno),
}

impl<T> Tokens<T> {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            granted: Mutex::new(Granted {
                by_token: HashMap::new(),
                expiries: VecDeque::new(),
            }),
        }
    }

    /// A token of 128 random bits in hexadecimal digits.
    pub(crate) fn issue(&self, what: T, now: Instant) -> Result<String, NotIssued> {
        let token = random()?;
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.forget_expired(now);
        if granted.by_token.len() >= MAX_OUTSTANDING {
            return Err(NotIssued::TooMany);
        }
        granted.by_token.insert(token.clone(), what);
        let expiry = now + self.lifetime;
        granted.expiries.push_back((expiry, token.clone()));
        Ok(token)
    }

    /// What a token stands for; nobody gets it again.
    pub(crate) fn redeem(&self, token: &str, now: Instant) -> Option<T> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.forget_expired(now);
        granted.by_token.remove(token)
    }
}

impl<T> Granted<T> {
    fn forget_expired(&mut self, now: Instant) {
        while self.expiries.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, token)) = self.expiries.pop_front() {
                self.by_token.remove(&token);
            }
        }
    }
}

fn random() -> Result<String, NotIssued> {
    let mut bytes = [0_u8; BYTES];
    // Up to 256 bytes are never given in part (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(NotIssued::NoRandomness)?;
    let mut token = String::with_capacity(2 * BYTES);
    for byte in bytes {
        let _ = write!(token, "{byte:02x}");
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_token_is_good_once() {
        let tokens = Tokens::new(MINUTE);
        let now = Instant::now();
        let (one, two) = (tokens.issue(1, now).unwrap(), tokens.issue(2, now).unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
        assert_eq!(tokens.redeem(&one, now), Some(1));
        assert_eq!(tokens.redeem(&one, now), None);
        assert_eq!(tokens.redeem("", now), None);
        assert_eq!(tokens.redeem(&two, now), Some(2));
    }

    #[test]
    fn a_token_expires() {
        let tokens = Tokens::new(MINUTE);
        let now = Instant::now();
        let token = tokens.issue((), now).unwrap();
        assert_eq!(tokens.redeem(&token, now + MINUTE), None);
    }

    #[test]
    fn so_many_and_no_more_until_some_are_used_or_expire() {
        let tokens = Tokens::new(MINUTE);
        let now = Instant::now();
        let first = tokens.issue((), now).unwrap();
        for _ in 1..MAX_OUTSTANDING {
            tokens.issue((), now).unwrap();
        }
        assert_eq!(tokens.issue((), now), Err(NotIssued::TooMany));
        tokens.redeem(&first, now).unwrap();
        tokens.issue((), now).unwrap();
        assert_eq!(tokens.issue((), now), Err(NotIssued::TooMany));
        tokens.issue((), now + MINUTE).unwrap();
        assert_eq!(tokens.granted.lock().unwrap().by_token.len(), 1);
    }

    #[test]
    fn used_tokens_take_no_room_after_their_time() {
        let tokens = Tokens::new(MINUTE);
        let mut now = Instant::now();
        for _ in 0..10 * MAX_OUTSTANDING {
            let token = tokens.issue((), now).unwrap();
            tokens.redeem(&token, now).unwrap();
            now += Duration::from_secs(1);
        }
        assert!(tokens.granted.lock().unwrap().expiries.len() <= 61);
    }
}
