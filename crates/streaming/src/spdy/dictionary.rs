//! The dictionary that both ends of a SPDY/3 connection prime zlib with.
//!
//! It is a part of the protocol (draft-mbelshe-httpbis-spdy-00, 2.6.10.1): names and values that
//! are frequent in HTTP, each behind its length in four bytes, and then a run of values without.

use std::sync::LazyLock;

/// The dictionary as zlib takes it.
pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.extend([0, 0, 0]);
        bytes.push(word.len().to_be_bytes()[size_of::<usize>() - 1]);
        bytes.extend(word.as_bytes());
    }
    bytes.extend(REST.as_bytes());
    bytes
});

const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const REST: &str = "\
    1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045\
    05203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401\
    \x20Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 S\
    ervice UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, We\
    d, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xm\
    l,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdc\
    hcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_dictionary_that_the_protocol_names() {
        assert_eq!(DICTIONARY.len(), 1423);
        let (a, b) = DICTIONARY.iter().fold((1, 0), |(a, b): (u32, u32), &byte| {
            let a = (a + u32::from(byte)) % 65521;
            (a, (b + a) % 65521)
        });
        assert_eq!(b << 16 | a, 0xe3c6_a7c2, "its Adler-32 checksum");
    }
}
