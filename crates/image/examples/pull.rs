//! Pulls an image into a directory and says how long that took and what memory it left taken.
//!
//!     cargo run --release -p slipway-image --example pull -- REFERENCE DIRECTORY [ROUNDS]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use slipway_image::{Config, Images};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, directory, rounds @ ..] = arguments.as_slice() else {
        return Err("usage: pull REFERENCE DIRECTORY [ROUNDS]".into());
    };
    let rounds: usize = rounds.first().map_or(Ok(1), |rounds| rounds.parse())?;
    let images = Images::open(Path::new(directory), Config::default())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        let id = runtime.block_on(images.pull(reference, None))?;
        times.push(begun.elapsed());
        println!("{:8.3} s  {id}", begun.elapsed().as_secs_f64());
        if times.len() < rounds {
            runtime.block_on(images.remove(reference))?;
        }
    }
    // The threads that unpacked end after ten idle seconds.
    std::thread::sleep(Duration::from_secs(11));
    for line in std::fs::read_to_string("/proc/self/status")?.lines() {
        if line.starts_with("VmHWM") || line.starts_with("RssAnon") {
            println!("{line}");
        }
    }
    times.sort();
    let median = times
        .get(times.len() / 2)
        .map_or(0.0, Duration::as_secs_f64);
    println!("{median:8.3} s  median of {rounds}");
    Ok(())
}
