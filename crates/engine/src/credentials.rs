//! What a registry is to be shown, which CRI has in two forms.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use slipway_cri_api::v1::AuthConfig;

use crate::{Error, Result};

/// Credentials whose `auth`, `username:password` in Base64, is taken apart. It counts where
/// `username` is empty.
///
/// # Errors
/// `InvalidArgument` for an `auth` that counts and is no such thing.
pub fn credentials(given: AuthConfig) -> Result<AuthConfig> {
    if given.auth.is_empty() || !given.username.is_empty() {
        return Ok(AuthConfig {
            auth: String::new(),
            ..given
        });
    }
    // What it has is a secret, and stays out of the error.
    let (username, password) = taken_apart(&given.auth)
        .ok_or_else(|| Error::invalid("AuthConfig.auth is not username:password in Base64"))?;
    Ok(AuthConfig {
        username,
        password,
        auth: String::new(),
        ..given
    })
}

fn taken_apart(auth: &str) -> Option<(String, String)> {
    let base64 = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = String::from_utf8(base64.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    // Docker once padded it so.
    let password = password.trim_end_matches('\0');
    Some((username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn given(username: &str, auth: &str) -> AuthConfig {
        AuthConfig {
            username: username.to_owned(),
            auth: auth.to_owned(),
            server_address: "a.io".to_owned(),
            ..AuthConfig::default()
        }
    }

    #[test]
    fn a_name_and_a_password_are_found_in_base64() {
        for auth in ["dTpwOnE=", "dTpwOnE", " dTpwOnE=\n", "dTpwOnEAAA=="] {
            let found = credentials(given("", auth)).unwrap();
            let expected = AuthConfig {
                password: "p:q".to_owned(),
                ..given("u", "")
            };
            assert_eq!(found, expected, "{auth}");
        }
        let named = credentials(given("v", "dTpwOnE=")).unwrap();
        assert_eq!(named, given("v", ""), "a name that is given counts");
        assert_eq!(credentials(given("", "")).unwrap(), given("", ""));
    }

    #[test]
    fn what_is_no_such_thing_is_refused_and_not_shown() {
        for auth in ["!hunter2", "aHVudGVyMg==", "/////w=="] {
            let error = credentials(given("", auth)).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            let text = error.to_string();
            assert!(text.contains("AuthConfig.auth"), "{text}");
            assert!(!text.contains(auth) && !text.contains("hunter2"), "{text}");
        }
    }
}
