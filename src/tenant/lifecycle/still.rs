//! A container made to stand still, by an engine that now and then refuses to.
//!
//! On a busy machine a cgroup's freezer does not always come to rest in the time that the engine gives it; asked once more
//! it does. Whether a container stands still is told by what the engine says of it, not by how it answered the request.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::model::{Error, Kind, Result};
use crate::tenant::runtime::{Runtime, State};

/// How long it is waited before each further try. What is frozen already stands still meanwhile, so they are few and short.
const AGAIN_MS: [u64; 6] = [50, 100, 200, 300, 400, 500];

/// Pauses a container that runs; one that has ended stands still as well. What the engine refuses is tried again a few
/// times, until `late`; `told` hears of each refusal.
pub async fn pause(runtime: &dyn Runtime, id: &str, late: Instant, told: &(dyn Fn(&Error) + Sync)) -> Result<()> {
    let mut waits = AGAIN_MS.into_iter().map(Duration::from_millis);
    loop {
        let asked = timeout_at(late, runtime.pause(id)).await.map_err(|_| too_late())?;
        let Err(error) = asked else { return Ok(()) };
        match timeout_at(late, runtime.inspect(id)).await.map_err(|_| too_late())? {
            Ok(None) => return Ok(()),
            Ok(Some(there)) if there.state == State::Paused || there.state.is_at_rest() => return Ok(()),
            Ok(Some(_)) => {}
            // An engine that is gone refuses nothing.
            Err(_) => return Err(error),
        }
        let Some(wait) = waits.next().filter(|wait| Instant::now() + *wait < late) else {
            return Err(refused(error));
        };
        told(&error);
        sleep_until(Instant::now() + wait).await;
    }
}

fn refused(error: Error) -> Error {
    let hint = "the machine may be too busy for it just now: the same command again may do; `docker pause` tells whether the \
                engine can freeze at all";
    Error { hint: error.hint.clone().or_else(|| Some(hint.to_owned())), ..error }
}

fn too_late() -> Error {
    Error::new(Kind::Failed, "the container cannot be paused: the engine did not answer in time")
        .hint("look at Docker (`docker ps`, its log), then try it again")
}
