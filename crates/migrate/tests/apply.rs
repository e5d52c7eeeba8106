//! Moves that are carried out, killed at each of their points and resumed or rolled back.

mod tree;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use slipway_migrate::apply::{Begun, Error, Event, Journals, Mover, Phase, Settings};
use slipway_migrate::cluster::Access;
use slipway_migrate::plan::{self, Target};
use slipway_migrate::{Root, apply};
use tokio::runtime::{Builder, Runtime};
use world::{KILLED, State, World};

/// A node of kubeadm, whose kubelet has dockershim.
const NODE: &str = "kubeadm-1.18-debian.node";

/// All ways in which a node can move.
const MOVES: [(Target, bool); 5] = [
    (Target::Slipway, true),
    (Target::Slipway, false),
    (Target::Containerd, true),
    (Target::Crio, true),
    (Target::CriDockerd, true),
];

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn settings() -> Settings {
    Settings {
        drain: Duration::from_secs(1),
        ready: Duration::from_secs(1),
        roll_back: false,
    }
}

fn options(target: Target, drain: bool) -> plan::Options {
    plan::Options {
        target,
        drain,
        node: slipway_migrate::node::Options {
            kubelet_version: Some("1.18".parse().unwrap()),
        },
    }
}

fn root(world: &World) -> Root {
    Root::new(world.directory.path())
}

/// Plans, begins a journal and does all steps.
fn begin(world: &World, target: Target, drain: bool, settings: Settings) -> Result<(), Error> {
    let root = root(world);
    let options = options(target, drain);
    let plan = runtime().block_on(plan::make(&root, &options)).unwrap();
    let begun = Begun {
        node: "node".to_string(),
        was_ready: true,
        options,
        access: Access::default(),
        settings,
        plan,
    };
    let journals = Journals::hold(&root)?;
    let journal = journals.begin(begun)?;
    let heard = |event: Event<'_>| hear(world, event);
    let mut mover = Mover::new(&root, (&journals, journal), world, world, &heard);
    runtime().block_on(mover.resume())
}

/// What is heard between two steps is another point at which a kill may come.
fn hear(world: &World, event: Event<'_>) {
    if !matches!(event, Event::Line(_)) {
        world.point();
    }
}

/// Goes on with the journal that is there.
fn go_on(world: &World, back: bool) -> Result<(), Error> {
    let root = root(world);
    let journals = Journals::hold(&root)?;
    let Some(journal) = journals.last()? else {
        return Ok(());
    };
    let heard = |event: Event<'_>| hear(world, event);
    let mut mover = Mover::new(&root, (&journals, journal), world, world, &heard);
    runtime().block_on(async {
        if back {
            mover.roll_back("it was asked for").await
        } else {
            mover.resume().await
        }
    })
}

/// Runs until it is done, or killed after as many points; whether it was killed.
fn killed_after(world: &World, points: i64, run: impl FnOnce() -> Result<(), Error>) -> bool {
    world.left.set(points);
    let ended = catch_unwind(AssertUnwindSafe(run));
    world.left.set(-1);
    match ended {
        Ok(result) => {
            result.unwrap();
            false
        }
        Err(panic) if panic.downcast_ref::<&str>() == Some(&KILLED) => true,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

type Tree = BTreeMap<String, (u32, String)>;
type Seen = (State, Tree);

fn see(world: &World) -> Seen {
    (world.state.borrow().clone(), world.tree())
}

/// Kills are no failures that anybody wants to read of.
fn quietly() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&KILLED) {
            default(info);
        }
    }));
}

fn assert_moved(world: &World, target: Target, drain: bool) {
    let state = world.state.borrow();
    assert!(!world.is_on_docker());
    assert!(!state.cordoned);
    assert!(state.units["kubelet.service"].active);
    assert_eq!(
        state
            .annotations
            .get("kubeadm.alpha.kubernetes.io/cri-socket"),
        Some(&target.endpoint().to_string())
    );
    let leaves = drain && target != Target::CriDockerd;
    assert_eq!(state.units["docker.service"].active, !leaves);
    assert_eq!(state.docker_pods.is_empty(), leaves);
    assert_eq!(state.network.bridge.is_none(), leaves);
}

/// For each point of a move: killed there, and then taken to the end or taken back.
fn kill_everywhere(target: Target, drain: bool, control_plane: bool) {
    let whole = World::new(NODE, target, control_plane);
    begin(&whole, target, drain, settings()).unwrap();
    assert_moved(&whole, target, drain);
    let moved = see(&whole);
    let mut points = 0;
    loop {
        let world = World::new(NODE, target, control_plane);
        if !killed_after(&world, points, || begin(&world, target, drain, settings())) {
            break;
        }
        go_on(&world, false).unwrap();
        let begun = apply::last(&root(&world)).unwrap().is_some();
        assert!(begun, "killed after {points}");
        assert_same(
            &see(&world),
            &moved,
            &format!("{target}: killed after {points}, then resumed"),
        );

        let world = World::new(NODE, target, control_plane);
        let before = see(&world);
        assert!(killed_after(&world, points, || begin(
            &world,
            target,
            drain,
            settings()
        )));
        go_on(&world, true).unwrap();
        let phase = apply::last(&root(&world)).unwrap().unwrap().phase;
        assert!(matches!(phase, Phase::RolledBack { .. }), "{phase:?}");
        assert_back(
            &world,
            &before,
            &format!("{target}: killed after {points}, then rolled back"),
        );
        points += 1;
    }
    assert!(points > 40, "{points}");
}

/// All is as it was, but for images that were carried over.
fn assert_back(world: &World, before: &Seen, when: &str) {
    let mut now = see(world);
    now.0.carried = before.0.carried;
    assert_same(&now, before, when);
}

fn assert_same(now: &Seen, wanted: &Seen, when: &str) {
    assert_eq!(now.0, wanted.0, "{when}");
    let paths: BTreeSet<_> = now.1.keys().chain(wanted.1.keys()).collect();
    for path in paths {
        assert_eq!(now.1.get(path), wanted.1.get(path), "{path}; {when}");
    }
}

#[test]
fn killed_anywhere_a_move_is_resumed_or_rolled_back() {
    quietly();
    for (target, drain) in MOVES {
        kill_everywhere(target, drain, false);
    }
}

#[test]
fn a_control_plane_whose_api_server_stops_with_it_is_moved_and_rolled_back() {
    quietly();
    kill_everywhere(Target::Slipway, true, true);
    kill_everywhere(Target::Containerd, true, true);
}

#[test]
fn a_rollback_that_is_killed_anywhere_is_gone_on_with() {
    quietly();
    for (target, drain) in MOVES {
        let mut points = 0;
        loop {
            let world = World::new(NODE, target, false);
            let before = see(&world);
            begin(&world, target, drain, settings()).unwrap();
            if !killed_after(&world, points, || go_on(&world, true)) {
                assert_back(&world, &before, &format!("{target}"));
                break;
            }
            // To resume is to go on in the same direction.
            go_on(&world, points % 2 == 0).unwrap();
            assert_back(&world, &before, &format!("{target}: killed after {points}"));
            points += 1;
        }
        assert!(points > 40, "{points}");
    }
}
