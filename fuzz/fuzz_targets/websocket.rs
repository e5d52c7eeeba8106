//! WebSocket and the channels in it from whatever a client may send: nothing panics, a connection
//! ends with its client, and what was understood can be said again.
//!
//! An input's first byte chooses how channels are written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_streaming::fuzzing;
use slipway_streaming::websocket::channel::{Encoding, Said};

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let encoding = match choice % 3 {
        0 => Encoding::Binary,
        1 => Encoding::BinaryWithClose,
        _ => Encoding::Base64,
    };
    fuzzing::websocket(rest, encoding);
    match encoding.decode(rest.to_vec().into()) {
        Ok(Said::Bytes(channel, bytes)) => {
            let again = encoding.encode(channel, &bytes).into_data();
            assert_eq!(encoding.decode(again), Ok(Said::Bytes(channel, bytes)));
        }
        Ok(Said::Close(channel)) => {
            let again = encoding.close(channel).expect("it was said");
            assert_eq!(again.into_data(), rest);
        }
        Ok(Said::Nothing) => assert!(rest.is_empty()),
        Err(_) => {}
    }
});
