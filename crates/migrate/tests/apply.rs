//! Moves that are carried out, killed at each of their points and resumed or rolled back.

mod tree;
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use slipway_migrate::apply::{Begun, Error, Event, JournalError, Journals, Mover, Phase, Settings};
use slipway_migrate::cluster::Access;
use slipway_migrate::control_plane::DrainOptions;
use slipway_migrate::host::DockerNode;
use slipway_migrate::plan::{self, Step, Target};
use slipway_migrate::{Root, apply};
use tokio::runtime::{Builder, Runtime};
use world::{Found, KILLED, State, Tree, World};

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
        evict: DrainOptions::default(),
        probe_image: None,
        announce: false,
    }
}

fn options(target: Target, drain: bool) -> plan::Options {
    plan::Options {
        target,
        drain,
        stop_others: false,
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
    begin_with(world, options(target, drain), settings)
}

fn begin_with(world: &World, options: plan::Options, settings: Settings) -> Result<(), Error> {
    let root = root(world);
    let plan = runtime().block_on(plan::make(&root, &options)).unwrap();
    let begun = Begun {
        node: "node".to_string(),
        was_ready: true,
        options,
        access: Access::default(),
        settings,
        plan,
        docker: Some(runtime().block_on(DockerNode::gather(&root))),
    };
    let journals = Journals::hold(&root)?;
    let journal = journals.begin(begun)?;
    let heard = |event: Event<'_>| hear(world, event);
    let mut mover = Mover::new(&root, (&journals, journal), world, world, &heard);
    runtime().block_on(mover.resume())
}

/// What is heard between two steps is another point at which a kill may come.
fn hear(world: &World, event: Event<'_>) {
    match event {
        Event::Line(line) => world.said.borrow_mut().push(line.to_string()),
        _ => world.point(),
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
            mover.preflight_back().await?;
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
    let record = apply::last(&root(world)).unwrap().unwrap();
    let steps: Vec<_> = record.steps.iter().map(|(step, _)| step).collect();
    for (index, step) in steps.iter().enumerate() {
        let again = steps[..index].contains(step) && **step != Step::Reload;
        assert!(!again, "{step} twice");
    }
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

/// What a boot has loaded by files that were still there stays until the next one.
fn assert_back_but_for_the_kernel(world: &World, before: &Seen, when: &str) {
    {
        let mut state = world.state.borrow_mut();
        state.modules.clone_from(&before.0.modules);
        state.parameters.clone_from(&before.0.parameters);
    }
    assert_back(world, before, when);
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

/// For each point of a move: the node goes down there, comes up again, and is taken to the end or
/// back.
fn reboot_everywhere(target: Target, drain: bool) {
    let whole = World::new(NODE, target, false);
    begin(&whole, target, drain, settings()).unwrap();
    whole.reboot();
    let moved = see(&whole);
    let mut points = 0;
    loop {
        let world = World::new(NODE, target, false);
        if !killed_after(&world, points, || begin(&world, target, drain, settings())) {
            break;
        }
        world.reboot();
        let when = format!("{target}: down after {points}");
        go_on(&world, false).unwrap();
        assert_moved_after_boot(&world, &moved, &when);

        let world = World::new(NODE, target, false);
        let before = see(&world);
        assert!(killed_after(&world, points, || begin(
            &world,
            target,
            drain,
            settings()
        )));
        world.reboot();
        go_on(&world, true).unwrap();
        assert_back_but_for_the_kernel(&world, &before, &when);
        points += 1;
    }
    assert!(points > 40, "{points}");
}

/// Where pods stayed in Docker, it depends on when the node went down which of them are native.
fn assert_moved_after_boot(world: &World, moved: &Seen, when: &str) {
    let mut now = see(world);
    let pods = |state: &State| state.docker_pods.union(&state.target_pods).count();
    assert_eq!(pods(&now.0), 2, "{when}");
    now.0.docker_pods.clone_from(&moved.0.docker_pods);
    now.0.target_pods.clone_from(&moved.0.target_pods);
    assert_same(&now, moved, when);
}

#[test]
fn a_node_that_goes_down_anywhere_is_resumed_or_rolled_back() {
    quietly();
    for (target, drain) in MOVES {
        reboot_everywhere(target, drain);
    }
}

/// For each point of a rollback: cut off there by `cut`, and gone on with.
fn cut_rollback_everywhere(cut: impl Fn(&World), assert_back: impl Fn(&World, &Seen, &str)) {
    quietly();
    for (target, drain) in MOVES {
        let mut points = 0;
        loop {
            let world = World::new(NODE, target, false);
            let before = see(&world);
            begin(&world, target, drain, settings()).unwrap();
            if !killed_after(&world, points, || go_on(&world, true)) {
                break;
            }
            cut(&world);
            // To resume is to go on in the same direction.
            go_on(&world, points % 2 == 0).unwrap();
            assert_back(
                &world,
                &before,
                &format!("{target}: cut off after {points}"),
            );
            points += 1;
        }
        assert!(points > 40, "{points}");
    }
}

#[test]
fn a_rollback_that_is_cut_off_by_a_boot_is_gone_on_with() {
    cut_rollback_everywhere(World::reboot, assert_back_but_for_the_kernel);
}

#[test]
fn a_rollback_that_is_killed_anywhere_is_gone_on_with() {
    cut_rollback_everywhere(|_| {}, assert_back);
}

#[test]
fn a_step_that_fails_has_all_taken_back_unless_told_otherwise() {
    for what in [
        "install",
        "set-kernel",
        "start",
        "carry-images",
        "stop-pods",
        "wait-ready",
        "probe",
        "clean-network",
        "drain",
    ] {
        let world = World::new(NODE, Target::Containerd, false);
        let before = see(&world);
        world.fails.borrow_mut().insert(what);
        let roll_back = Settings {
            roll_back: true,
            ..settings()
        };
        // The Node cannot be waited for either way, when it never becomes Ready.
        let error = begin(&world, Target::Containerd, true, roll_back).unwrap_err();
        let never_ready = what == "wait-ready";
        if never_ready {
            assert!(
                matches!(&error, Error::NotUndone(steps) if steps.len() == 1),
                "{error}"
            );
            world.fails.borrow_mut().clear();
            go_on(&world, false).unwrap();
        } else {
            assert!(
                matches!(&error, Error::RolledBack { .. }),
                "{what}: {error}"
            );
            assert!(error.to_string().contains(what), "{error}");
        }
        assert_back(&world, &before, what);

        let world = World::new(NODE, Target::Containerd, false);
        world.fails.borrow_mut().insert(what);
        let error = begin(&world, Target::Containerd, true, settings()).unwrap_err();
        assert!(
            error.to_string().contains("slipway migrate resume"),
            "{error}"
        );
        world.fails.borrow_mut().clear();
        go_on(&world, false).unwrap();
        assert_moved(&world, Target::Containerd, true);
    }
}

#[test]
fn a_rollback_that_the_cluster_would_not_allow_is_not_begun() {
    let world = World::new(NODE, Target::Containerd, false);
    let before = see(&world);
    begin(&world, Target::Containerd, true, settings()).unwrap();
    let moved = see(&world);
    world.fails.borrow_mut().insert("preflight");
    let error = go_on(&world, true).unwrap_err();
    assert!(matches!(error, Error::NotTakenBack(_)), "{error}");
    let said = error.to_string();
    assert!(said.contains("--skip-preflight"), "{said}");
    assert_same(&see(&world), &moved, "nothing is begun");
    let phase = apply::last(&root(&world)).unwrap().unwrap().phase;
    assert_eq!(phase, Phase::Applied);
    let needs = world.asked.borrow().last().copied().unwrap();
    assert!(needs.drain && needs.config_map && needs.probe, "{needs:?}");
    world.fails.borrow_mut().clear();
    go_on(&world, true).unwrap();
    assert_back(&world, &before, "once it is allowed");

    // What has not begun need not be allowed to be taken back.
    let world = World::new(NODE, Target::Containerd, false);
    world.fails.borrow_mut().insert("carry-images");
    begin(&world, Target::Containerd, true, settings()).unwrap_err();
    go_on(&world, true).unwrap();
    let needs = world.asked.borrow().last().copied().unwrap();
    assert!(!needs.drain && !needs.config_map && !needs.probe);
}

#[test]
fn a_cluster_that_does_not_answer_keeps_no_node_in_the_middle() {
    let world = World::new(NODE, Target::Containerd, false);
    let before = see(&world);
    // On a control plane, nobody answers before the runtime has its pods.
    world.fails.borrow_mut().insert("wait-ready");
    begin(&world, Target::Containerd, true, settings()).unwrap_err();
    *world.fails.borrow_mut() = BTreeSet::from(["answer"]);
    go_on(&world, true).unwrap();
    assert_back(&world, &before, "without an answer");

    let world = World::new(NODE, Target::Containerd, false);
    begin(&world, Target::Containerd, true, settings()).unwrap();
    world.fails.borrow_mut().insert("answer");
    let error = go_on(&world, true).unwrap_err();
    assert!(matches!(error, Error::NotTakenBack(_)), "{error}");
}

#[test]
fn what_cannot_be_taken_back_keeps_nothing_else_and_is_tried_again() {
    let world = World::new(NODE, Target::Slipway, true);
    let before = see(&world);
    begin(&world, Target::Slipway, true, settings()).unwrap();
    world.fails.borrow_mut().insert("restore-kernel");
    let error = go_on(&world, true).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("restore-kernel: it was told to fail"),
        "{error}"
    );
    assert!(world.is_on_docker(), "the kubelet is back all the same");
    world.fails.borrow_mut().clear();
    go_on(&world, true).unwrap();
    assert_back(&world, &before, "the second time");
}

#[test]
fn a_kubelet_is_not_started_before_all_that_it_reads_is_back() {
    let world = World::new(NODE, Target::Slipway, false);
    let before = see(&world);
    begin(&world, Target::Slipway, true, settings()).unwrap();
    let unrestored = world
        .directory
        .path()
        .join("var/lib/kubelet/.kubeadm-flags.env.slipway-migrate");
    fs::create_dir(&unrestored).unwrap();
    let error = go_on(&world, true).unwrap_err();
    assert!(
        matches!(&error, Error::NotUndone(steps) if steps.len() == 1),
        "{error}"
    );
    assert!(!world.state.borrow().units["kubelet.service"].active);
    fs::remove_dir(&unrestored).unwrap();
    go_on(&world, true).unwrap();
    assert_back(&world, &before, "the second time");

    let world = World::new(NODE, Target::Slipway, false);
    begin(&world, Target::Slipway, true, settings()).unwrap();
    world.fails.borrow_mut().insert("remove-pods");
    let error = go_on(&world, true).unwrap_err();
    assert!(
        matches!(&error, Error::NotUndone(steps) if steps.len() == 1),
        "{error}"
    );
    let way_out = "(systemctl stop slipway.service) and roll back once more";
    assert!(error.to_string().contains(way_out), "{error}");
    assert!(world.state.borrow().units["slipway.service"].active);
    world.fails.borrow_mut().clear();
    go_on(&world, true).unwrap();
    assert_back(&world, &before, "the pods have gone");
}

#[test]
fn there_is_no_way_back_from_what_is_being_cleaned_up() {
    let world = World::new(NODE, Target::Slipway, false);
    begin(&world, Target::Slipway, true, settings()).unwrap();
    let journals = Journals::hold(&root(&world)).unwrap();
    let mut journal = journals.last().unwrap().unwrap();
    for _ in 0..2 {
        journal.begin_cleaning().unwrap();
    }
    drop((journal, journals));
    let moved = see(&world);
    go_on(&world, true).unwrap();
    assert_same(&see(&world), &moved, "nothing is taken back");
    let phase = apply::last(&root(&world)).unwrap().unwrap().phase;
    assert_eq!(phase, Phase::Cleaning);
}

#[test]
fn pods_that_do_not_leave_keep_their_runtime() {
    let world = World::new(NODE, Target::Slipway, false);
    begin(&world, Target::Slipway, true, settings()).unwrap();
    world.fails.borrow_mut().insert("drain");
    let error = go_on(&world, true).unwrap_err();
    assert!(
        matches!(&error, Error::NotUndone(steps) if steps.len() == 1),
        "{error}"
    );
    assert!(!world.is_on_docker());
    assert!(world.state.borrow().target_pods.contains("plain"));
}

#[test]
fn what_others_changed_in_between_is_kept() {
    let world = World::new(NODE, Target::Slipway, false);
    begin(&world, Target::Slipway, true, settings()).unwrap();
    let at = |path: &str| world.directory.path().join(path);
    let flags = at("var/lib/kubelet/kubeadm-flags.env");
    let other = "KUBELET_KUBEADM_ARGS=\"--v=9 --container-runtime-endpoint=unix:///x\"\n";
    fs::write(&flags, other).unwrap();
    let annotation = "kubeadm.alpha.kubernetes.io/cri-socket".to_string();
    {
        let mut state = world.state.borrow_mut();
        state
            .annotations
            .insert(annotation.clone(), "theirs".to_string());
        let theirs = "cgroupDriver: systemd\nmaxPods: 7\n".to_string();
        state
            .configurations
            .insert("kubelet-config-1.18".to_string(), theirs);
    }
    go_on(&world, true).unwrap();
    assert!(world.is_on_docker());
    let kept = at("var/lib/slipway-migrate/changed_var_lib_kubelet_kubeadm-flags.env");
    assert_eq!(fs::read_to_string(&kept).unwrap(), other);
    let directory = fs::metadata(kept.parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);
    let state = world.state.borrow();
    assert_eq!(state.annotations[&annotation], "theirs");
    assert!(state.configurations["kubelet-config-1.18"].contains("maxPods: 7"));
}

#[test]
fn a_file_that_is_not_what_was_planned_is_not_touched() {
    let world = World::new(NODE, Target::Slipway, false);
    let flags = world
        .directory
        .path()
        .join("var/lib/kubelet/kubeadm-flags.env");
    world.left.set(30);
    let killed = catch_unwind(AssertUnwindSafe(|| {
        begin(&world, Target::Slipway, true, settings())
    }));
    assert!(killed.is_err());
    world.left.set(-1);
    let text = fs::read_to_string(&flags).unwrap();
    let changed = text.replace("--network-plugin=cni", "--network-plugin=cni --v=5");
    assert_ne!(changed, text);
    fs::write(&flags, &changed).unwrap();
    let error = go_on(&world, false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("kubeadm-flags.env was changed after the plan"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&flags).unwrap(), changed);
}

#[test]
fn a_node_that_took_no_pods_takes_none_afterwards() {
    let world = World::new(NODE, Target::Slipway, false);
    world.state.borrow_mut().cordoned = true;
    begin(&world, Target::Slipway, true, settings()).unwrap();
    assert!(world.state.borrow().cordoned);
}

#[test]
fn links_stay_and_permissions_too() {
    let world = World::new("symlinked.node", Target::Slipway, false);
    let before = see(&world);
    let is_link = |found: &Found| found.mode & 0o170_000 == 0o120_000;
    assert!(before.1.values().any(is_link));
    for path in ["etc/docker/daemon.json", "var/lib/kubelet/config.yaml"] {
        let path = world.directory.path().join(path);
        if let Ok(real) = fs::canonicalize(path) {
            fs::set_permissions(real, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    let before = see(&world);
    begin(&world, Target::Slipway, true, settings()).unwrap();
    let after = see(&world);
    for (path, was) in &before.1 {
        let mut now = after.1[path].clone();
        if !is_link(was) {
            now.text.clone_from(&was.text);
        }
        assert_eq!(now, *was, "{path}");
    }
    go_on(&world, true).unwrap();
    assert_back(&world, &before, "rolled back");
}

#[test]
fn what_was_known_of_docker_is_known_whatever_steps_have_changed() {
    let world = World::new(NODE, Target::Containerd, false);
    // A node that is down has nothing but its files.
    for process in ["704", "812"] {
        fs::remove_dir_all(world.directory.path().join("proc").join(process)).unwrap();
    }
    let flags = world
        .directory
        .path()
        .join("var/lib/kubelet/kubeadm-flags.env");
    let said = fs::read_to_string(&flags).unwrap().replace(
        "--network-plugin=cni",
        "--network-plugin=cni --cni-cache-dir=/data/cni --cni-bin-dir=/opt/a,/opt/b",
    );
    fs::write(&flags, said).unwrap();
    let daemon = world.directory.path().join("etc/docker/daemon.json");
    fs::create_dir_all(daemon.parent().unwrap()).unwrap();
    fs::write(&daemon, r#"{"bridge": "br9", "data-root": "/data/docker"}"#).unwrap();
    let before = DockerNode {
        socket: "/var/run/docker.sock".into(),
        bridge: Some("br9".to_string()),
        cni_cache: "/data/cni".into(),
        plugins: vec!["/opt/a".into(), "/opt/b".into()],
        data_root: Some("/data/docker".into()),
        networks: Vec::new(),
    };
    begin(&world, Target::Containerd, true, settings()).unwrap();

    let root = root(&world);
    let now = runtime().block_on(DockerNode::gather(&root));
    assert_ne!(now, before, "no step has changed what tells it");
    let record = apply::last(&root).unwrap().unwrap();
    assert_eq!(runtime().block_on(record.begun.docker(&root)), before);

    // A journal of before it was written down.
    let journal = world
        .directory
        .path()
        .join("var/lib/slipway-migrate/journal");
    let text = fs::read_to_string(&journal).unwrap();
    let said = format!(",\"docker\":{}", serde_json::to_string(&before).unwrap());
    assert!(text.contains(&said), "{text}");
    fs::write(&journal, text.replace(&said, "")).unwrap();
    let record = apply::last(&root).unwrap().unwrap();
    assert_eq!(record.begun.docker, None);
    assert_eq!(runtime().block_on(record.begun.docker(&root)), now);
}

#[test]
fn a_password_of_a_proxy_is_for_root_alone() {
    let world = World::new(NODE, Target::Containerd, false);
    let at = |path: &str| world.directory.path().join(path);
    let docker = at("etc/systemd/system/docker.service.d");
    fs::create_dir_all(&docker).unwrap();
    let own = "etc/systemd/system/containerd.service.d/20-leaving-docker";
    let said = |end: &str| fs::read_to_string(at(&format!("{own}.{end}"))).unwrap_or_default();
    let mode = |end: &str| {
        let metadata = fs::metadata(at(&format!("{own}.{end}"))).unwrap();
        metadata.permissions().mode() & 0o777
    };
    for (proxy, is_secret) in [
        ("http://u:p@x:3128", true),
        ("u:p@x:3128", true),
        ("http://x:3128", false),
    ] {
        let text =
            format!("[Service]\nEnvironment=HTTP_PROXY={proxy}\nEnvironment=NO_PROXY=.lan\n");
        fs::write(docker.join("proxy.conf"), text).unwrap();
        begin(&world, Target::Containerd, true, settings()).unwrap();
        // What is in the unit, systemd tells everybody.
        assert_eq!(said("conf").contains(proxy), !is_secret);
        assert!(said("conf").contains("Environment=\"NO_PROXY=.lan\"\n"));
        assert_eq!(mode("conf"), 0o644);
        let named = format!("EnvironmentFile=/{own}.env\n");
        assert_eq!(said("conf").contains(&named), is_secret);
        assert_eq!(at(&format!("{own}.env")).exists(), is_secret);
        if is_secret {
            assert_eq!(said("env"), format!("HTTP_PROXY=\"{proxy}\"\n"));
            assert_eq!(mode("env"), 0o600);
        }
        go_on(&world, true).unwrap();
        assert!(!at(&format!("{own}.conf")).exists() && !at(&format!("{own}.env")).exists());
    }
}

#[test]
fn two_at_once_are_refused() {
    let world = World::new(NODE, Target::Slipway, false);
    let held = Journals::hold(&root(&world)).unwrap();
    let error = Journals::hold(&root(&world)).unwrap_err();
    assert!(matches!(error, JournalError::Busy { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    drop(held);
    Journals::hold(&root(&world)).unwrap();
}

#[test]
fn an_entry_that_was_not_finished_is_none_and_others_are_never_guessed_at() {
    let world = World::new(NODE, Target::Slipway, false);
    world.left.set(20);
    let killed = catch_unwind(AssertUnwindSafe(|| {
        begin(&world, Target::Slipway, true, settings())
    }));
    assert!(killed.is_err());
    world.left.set(-1);
    let journal = world
        .directory
        .path()
        .join("var/lib/slipway-migrate/journal");
    let whole = fs::read_to_string(&journal).unwrap();
    let last = whole.trim_end().rfind('\n').unwrap();
    for end in last + 1..whole.len() {
        fs::write(&journal, &whole[..end]).unwrap();
        let steps = |record: apply::Record| record.next();
        let torn = apply::last(&root(&world)).unwrap().map(steps);
        fs::write(&journal, &whole[..=last]).unwrap();
        assert_eq!(torn, apply::last(&root(&world)).unwrap().map(steps));
    }
    fs::write(&journal, &whole[..whole.len() - 3]).unwrap();
    go_on(&world, false).unwrap();
    assert_moved(&world, Target::Slipway, true);

    for (line, why) in [
        ("{\"at\":1,\"done\":{\"step\":3}}\n", "does not follow"),
        ("{\"at\":1,\"danced\":{}}\n", "no variant"),
        ("\0\0\0\0\n", "expected value"),
    ] {
        let text = fs::read_to_string(&journal).unwrap();
        fs::write(&journal, format!("{text}{line}")).unwrap();
        let error = apply::last(&root(&world)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("line "), "{error}");
        assert!(Journals::hold(&root(&world)).unwrap().last().is_err());
        fs::write(&journal, text).unwrap();
    }
}

#[test]
fn the_journal_of_an_earlier_move_is_kept() {
    let world = World::new(NODE, Target::Slipway, false);
    begin(&world, Target::Slipway, true, settings()).unwrap();
    go_on(&world, true).unwrap();
    begin(&world, Target::Containerd, true, settings()).unwrap();
    let directory = world.directory.path().join("var/lib/slipway-migrate");
    let names = fs::read_dir(directory).unwrap();
    let kept = names.filter(|name| {
        let name = name.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("journal-")
    });
    assert_eq!(kept.count(), 1);
}

#[test]
fn a_runtime_that_ran_before_has_its_own_configuration_again() {
    let world = World::new(NODE, Target::Slipway, false);
    world.run("containerd", "containerd.service");
    let before = see(&world);
    begin(&world, Target::Containerd, true, settings()).unwrap();
    assert_ne!(world.state.borrow().read, before.0.read);
    go_on(&world, true).unwrap();
    assert_back(&world, &before, "rolled back");
}

/// What a move of a node with a kubelet of this version, in a cluster of another one, makes of these
/// `ConfigMap`s and says; all of them are as they were once it is taken back.
fn configured(kubelet: &str, server: &str, names: &[&str]) -> (Vec<String>, String) {
    let world = World::new(NODE, Target::Slipway, false);
    world.server.set(server.parse().unwrap());
    let named = |name: &&str| (name.to_string(), world::configuration());
    world.state.borrow_mut().configurations = names.iter().map(named).collect();
    let before = see(&world);
    let mut options = options(Target::Slipway, true);
    options.node.kubelet_version = Some(kubelet.parse().unwrap());
    begin_with(&world, options, settings()).unwrap();
    let mut changed = world.state.borrow().configurations.clone();
    changed.retain(|_, text| text.contains("cgroupDriver: systemd"));
    let said = world.said.borrow().join("\n");
    go_on(&world, true).unwrap();
    assert_back(&world, &before, "rolled back");
    (changed.into_keys().collect(), said)
}

#[test]
fn what_new_nodes_are_made_from_goes_by_the_version_of_the_cluster() {
    let (unversioned, left_over) = ("kubelet-config", "kubelet-config-1.23");
    for (kubelet, server, there, wanted) in [
        (
            "1.23",
            "1.25",
            &[unversioned, left_over][..],
            &[unversioned][..],
        ),
        // kubeadm 1.23 and 1.24 read the name of before where the new one is not there.
        ("1.23", "1.24", &[unversioned, left_over], &[unversioned]),
        (
            "1.23",
            "1.24",
            &["kubelet-config-1.24"],
            &["kubelet-config-1.24"],
        ),
        (
            "1.23",
            "1.23",
            &[unversioned, left_over],
            &[unversioned, left_over],
        ),
        ("1.24", "1.24", &[unversioned], &[unversioned]),
        (
            "1.21",
            "1.22",
            &["kubelet-config-1.21", "kubelet-config-1.22"],
            &["kubelet-config-1.22"],
        ),
        // kubeadm of that time goes by the kubelet that it finds.
        (
            "1.17",
            "1.18",
            &["kubelet-config-1.17", "kubelet-config-1.18"],
            &["kubelet-config-1.17", "kubelet-config-1.18"],
        ),
    ] {
        let (changed, said) = configured(kubelet, server, there);
        assert_eq!(changed, wanted, "{kubelet} in {server}");
        assert!(!said.contains("ConfigMap"), "{said}");
    }
    for (there, named) in [
        (
            &[][..],
            "kube-system/kubelet-config or kube-system/kubelet-config-1.24",
        ),
        (&[left_over], "cgroupDriver: systemd"),
    ] {
        let (changed, said) = configured("1.23", "1.24", there);
        assert!(changed.is_empty(), "{changed:?}");
        assert!(
            said.contains("there is no ConfigMap") && said.contains(named),
            "{said}"
        );
    }
}

#[test]
fn a_journal_that_names_the_config_map_is_gone_on_with_and_taken_back() {
    for back in [false, true] {
        let world = World::new(NODE, Target::Slipway, false);
        let before = see(&world);
        world
            .fails
            .borrow_mut()
            .insert("replace-kubelet-configuration");
        begin(&world, Target::Slipway, true, settings()).unwrap_err();
        world.fails.borrow_mut().clear();
        let journal = world
            .directory
            .path()
            .join("var/lib/slipway-migrate/journal");
        let text = fs::read_to_string(&journal).unwrap();
        let (step, found) = (
            "{\"step\":\"config-map\"",
            "{\"configurations\":{\"kubelet-config-1.18\":",
        );
        assert!(text.contains(step) && text.contains(found), "{text}");
        let name = format!("{step},\"name\":\"kubelet-config-1.18\"");
        let (first, last) = text.rsplit_once(found).unwrap();
        let last = last.replacen("}}", "}", 1);
        let older = format!("{first}{{\"configuration\":{last}").replace(step, &name);
        fs::write(&journal, older).unwrap();
        // The cluster says other names by now.
        world.server.set("1.25".parse().unwrap());
        go_on(&world, false).unwrap();
        let text = world.state.borrow().configurations["kubelet-config-1.18"].clone();
        assert!(text.contains("cgroupDriver: systemd"), "{text}");
        if back {
            go_on(&world, true).unwrap();
            assert_back(&world, &before, "rolled back");
        }
    }
}
