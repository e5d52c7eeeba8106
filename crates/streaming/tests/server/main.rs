//! The streaming server, over real sockets, with an engine whose processes are tasks.

mod engine;
mod forward;
mod hostile;
mod http;
mod process;
mod spdy;
mod tls;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::Tasks;
use slipway_engine::Streams;
use slipway_streaming::{Config, Streaming};
use tokio::time::{sleep, timeout};

/// A server, and what it serves.
struct Server {
    streaming: Streaming,
    tasks: Arc<Tasks>,
}

impl Server {
    async fn start() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let tasks = Arc::new(Tasks::default());
        let streaming = Streaming::start(&config, Arc::clone(&tasks) as _).await;
        Self {
            streaming: streaming.unwrap(),
            tasks,
        }
    }

    fn exec(&self, command: &[&str], streams: Streams) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let url = self
            .streaming
            .exec("container".to_owned(), command, streams);
        url.unwrap()
    }

    fn attach(&self, command: &str, streams: Streams) -> String {
        let url = self.streaming.attach(command.to_owned(), streams);
        url.unwrap()
    }

    fn port_forward(&self, ports: &[u16]) -> String {
        let url = self
            .streaming
            .port_forward("pod".to_owned(), ports.to_vec());
        url.unwrap()
    }

    /// Waits until all processes and connections have ended.
    async fn quiet(&self) {
        soon(async {
            while self.tasks.running.load(Ordering::SeqCst) > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// Fails instead of waiting for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what)
        .await
        .expect("it takes too long")
}

/// Standard input and output.
const IN_OUT: Streams = Streams {
    stdin: true,
    stdout: true,
    stderr: false,
    terminal: false,
};

/// Standard output and error.
const OUT_ERR: Streams = Streams {
    stdin: false,
    stdout: true,
    stderr: true,
    terminal: false,
};

/// A terminal.
const TERMINAL: Streams = Streams {
    stdin: true,
    stdout: true,
    stderr: false,
    terminal: true,
};
