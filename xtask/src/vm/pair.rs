//! Two machines side by side, on a private network.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::image::Image;
use super::machine::Machine;
use super::share::{Disk, Share};

/// How long either may take, once it is up.
const LIMIT: Duration = Duration::from_mins(5);

/// In MiB: these do little.
const MEMORY: u32 = 512;

/// What is said, and heard, on either side.
const LISTENS: &str =
    "echo hello | timeout 240 nc -l -p 7000 >/tmp/heard; grep -qx world /tmp/heard";
const CALLS: &str = "for try in $(seq 120); do echo world | timeout 5 nc 10.9.0.1 7000 | \
                     grep -qx hello && exit; sleep 1; done; exit 1";

/// Boots two at once, one of which calls the other.
///
/// # Errors
/// When one does not come up, or does not hear of the other.
pub(super) fn meet(image: &Image) -> Result<()> {
    // Of this process alone, whoever else has machines here.
    let network = format!("pair-{}", std::process::id());
    let run = |address: &str, script: &str| -> Result<u8> {
        let machine = Machine::new(image).memory(MEMORY);
        machine
            .network(&network, address)
            .run(&disk(script)?, LIMIT)
    };
    let codes = thread::scope(|scope| {
        let listens = scope.spawn(|| run("10.9.0.1/24", LISTENS));
        let calls = scope.spawn(|| run("10.9.0.2/24", CALLS));
        [listens, calls].map(|machine| {
            let ended = machine.join();
            ended.unwrap_or_else(|_| Err(anyhow!("the thread of a machine panicked")))
        })
    });
    let [listens, calls] = codes;
    let codes = (listens?, calls?);
    ensure!(
        codes == (0, 0),
        "two machines of one network have not met: they ended with {codes:?}"
    );
    println!("two machines have met");
    Ok(())
}

fn disk(script: &str) -> Result<Disk> {
    let mut share = Share::new()?;
    share.command(&["busybox", "sh", "-c", script].map(str::to_owned))?;
    share.into_disk()
}
