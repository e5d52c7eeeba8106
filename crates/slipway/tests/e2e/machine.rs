//! What only a machine of its own can show, because it takes one with systemd, or changes what all
//! of a machine's programs share. Everywhere else these tests are ignored; `cargo xtask vm test`
//! runs them, one after the other.

mod clock;
mod docker;
mod host;
mod systemd;

/// Every test here begins with this: whoever runs ignored tests may not know what they do.
fn own() {
    assert!(
        std::env::var_os("SLIPWAY_OWN_MACHINE").is_some(),
        "this test changes the machine that it runs on: `cargo xtask vm test machine::` gives it one"
    );
}
