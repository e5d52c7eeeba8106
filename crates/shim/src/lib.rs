//! stub
pub mod protocol;
