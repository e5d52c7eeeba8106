//! `slipway.v1.Images`: images that come from another engine's store.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use slipway_cri_api::slipway::images_server;
use slipway_cri_api::slipway::{ImportRequest, ImportResponse};
use slipway_engine::Engine;
use tokio_stream::StreamExt as _;
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::detached::detached;
use crate::error::status;
