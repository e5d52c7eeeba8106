//! Identities.

use std::fmt::Write as _;

use crate::{Error, Result};

/// A new id for a pod or a container: 256 random bits as 64 lower-case hexadecimal digits, the form
/// that kubelets, log paths and tools expect.
///
/// # Errors
///
/// [`crate::Kind::Internal`] when the kernel has no randomness to give (getrandom(2)).
pub fn new_id() -> Result<String> {
    let mut bytes = [0_u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|error| {
                    Error::internal(format!(
                        "the kernel gives no random bytes for an id: {error}"
                    ))
                })?;
    }
    Ok(bytes
        .iter()
        .fold(String::with_capacity(64), |mut id, byte| {
            write!(id, "{byte:02x}").expect("writing to a string does not end in an error");
            id
        }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_64_hex_digits_and_differ() {
        let (one, other) = (super::new_id().unwrap(), super::new_id().unwrap());
        assert_eq!(one.len(), 64);
        assert!(
            one.bytes()
                .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        );
        assert_ne!(one, other);
    }
}
