//! Mounts: how they spread, what can be written, images as volumes, and what cannot be mounted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use slipway_cri_api::v1::{
    ContainerConfig, ImageSpec, Mount, MountPropagation, RemoveImageRequest, StatusRequest,
};
use slipway_testbed::{Image, Layer, Node, eventually, pod, read_log};
use tonic::Code;

use crate::container::{output, security};
use crate::{docker_lacks_a_capability, node, not_on_docker, on_docker, refused};

/// A tmpfs of the node, which goes with the test.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn tmpfs(path: PathBuf, spreading: MountPropagationFlags) -> Self {
        fs::create_dir_all(&path).unwrap();
        let flags = MountFlags::empty();
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, None).unwrap();
        let mounted = Self(path);
        rustix::mount::mount_change(&mounted.0, spreading).unwrap();
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn bind(host: &Path, container: &str) -> Mount {
    Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        ..Default::default()
    }
}

fn image_volume(image: &str, container: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: container.to_owned(),
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

fn with(mut container: ContainerConfig, mounts: Vec<Mount>) -> ContainerConfig {
    container.mounts = mounts;
    container
}

fn privileged(mut container: ContainerConfig) -> ContainerConfig {
    security(&mut container).privileged = true;
    container
}

/// Waits until a log has this line.
async fn said(log: &Path, line: &str) {
    eventually(line, Duration::from_secs(20), async || {
        Ok(read_log(log).iter().any(|it| it.text == line))
    })
    .await
    .unwrap();
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.contains(&format!(" {} ", path.display()))
}

/// Each propagation with what it lets through, in both directions.
#[tokio::test]
async fn mounts_spread_as_their_propagation_says_and_no_further() {
    if docker_lacks_a_capability() {
        return;
    }
    let (node, image) = node().await;
    let cri = node.cri();
    let volume = Mounted::tmpfs(node.scratch.join("volume"), MountPropagationFlags::SHARED);
    for name in ["private", "slave", "shared", "later"] {
        fs::create_dir(volume.0.join(name)).unwrap();
    }
    let mut mounts = Vec::new();
    for (name, propagation) in [
        ("private", MountPropagation::PropagationPrivate),
        ("slave", MountPropagation::PropagationHostToContainer),
        ("shared", MountPropagation::PropagationBidirectional),
    ] {
        mounts.push(Mount {
            propagation: propagation.into(),
            ..bind(&volume.0, &format!("/{name}"))
        });
    }
    let script =
        "for name in private slave shared; do mount -t tmpfs none /$name/$name || exit 1; done
        echo mounted
        until [ -e /shared/go ]; do sleep 0.01; done
        for name in private slave shared; do echo $name $(ls /$name/later); done
        umount /shared/shared";
    let container = privileged(with(pod::shell("main", &image, script), mounts));
    let mut config = node.pod("spreads");
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = true;
    let sandbox = cri.run_pod(&config).await.unwrap();
    let id = cri.launch(&sandbox, &config, &container).await.unwrap();
    let log = pod::log_path(&config, &container);
    said(&log, "mounted").await;
    let on_node = ["private", "slave", "shared"].map(|name| is_mounted(&volume.0.join(name)));
    assert_eq!(on_node, [false, false, true]);

    let later = Mounted::tmpfs(volume.0.join("later"), MountPropagationFlags::SHARED);
    fs::write(later.0.join("found"), "").unwrap();
    fs::write(volume.0.join("go"), "").unwrap();
    let status = cri.wait_for_exit(&id).await.unwrap();
    let lines: Vec<_> = read_log(&log).into_iter().map(|line| line.text).collect();
    assert_eq!(
        (status.exit_code, &lines[1..]),
        (
            0,
            &["private", "slave found", "shared found"].map(str::to_owned)[..]
        )
    );
    assert!(
        !is_mounted(&volume.0.join("shared")),
        "an unmount spreads too"
    );
    let propagations: Vec<_> = status.mounts.iter().map(|it| it.propagation).collect();
    assert_eq!(propagations, [0, 1, 2]);
    drop((later, volume));
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_propagation_that_the_nodes_mount_does_not_allow_is_refused() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("refuses");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let private = Mounted::tmpfs(node.scratch.join("alone"), MountPropagationFlags::PRIVATE);
    let shared = Mounted::tmpfs(node.scratch.join("upper"), MountPropagationFlags::SHARED);
    let slave = shared.0.join("slave");
    fs::create_dir(&slave).unwrap();
    rustix::mount::mount_bind(&shared.0, &slave).unwrap();
    rustix::mount::mount_change(&slave, MountPropagationFlags::DOWNSTREAM).unwrap();

    let answer = async |host: &Path, propagation: i32| {
        let mount = Mount {
            propagation,
            ..bind(host, "/volume")
        };
        let container = with(pod::sleeper("main", &image), vec![mount]);
        let answer = cri.create(&sandbox, &config, &container).await;
        let Ok(id) = &answer else { return answer };
        // Docker looks at the node's mounts when it starts a container.
        let started = if on_docker() {
            cri.start(id).await
        } else {
            Ok(())
        };
        cri.remove(id).await.unwrap();
        started.and(answer)
    };
    let to_container = MountPropagation::PropagationHostToContainer as i32;
    let both = MountPropagation::PropagationBidirectional as i32;
    let point = private.0.display().to_string();
    for (propagation, word) in [(to_container, "HOST_TO_CONTAINER"), (both, "BIDIRECTIONAL")] {
        let words: &[&str] = if on_docker() {
            &[&point, "shared"]
        } else {
            &["Mount.propagation", word, &point, "--make-rshared"]
        };
        refused(
            answer(&private.0, propagation).await,
            Code::FailedPrecondition,
            words,
        );
    }
    answer(&slave, to_container).await.unwrap();
    let words: &[&str] = if on_docker() {
        &["shared"]
    } else {
        &["BIDIRECTIONAL", "shared"]
    };
    refused(answer(&slave, both).await, Code::FailedPrecondition, words);
    refused(
        answer(&shared.0, 7).await,
        Code::InvalidArgument,
        &["Mount.propagation", "7"],
    );
    let _ = rustix::mount::unmount(&slave, UnmountFlags::DETACH);
    drop((private, shared));
    node.finish().await.unwrap();
}

#[tokio::test]
async fn read_only_reaches_down_only_where_it_is_recursive() {
    if not_on_docker("recursive read-only mounts came with Docker 25") {
        return;
    }
    let (node, image) = node().await;
    let cri = node.cri();
    let volume = Mounted::tmpfs(node.scratch.join("volume"), MountPropagationFlags::PRIVATE);
    let below = Mounted::tmpfs(volume.0.join("below"), MountPropagationFlags::PRIVATE);
    let mount = |container: &str, recursive_read_only: bool| Mount {
        readonly: true,
        recursive_read_only,
        ..bind(&volume.0, container)
    };
    let script = "for path in /plain /plain/below /deep /deep/below; do \
                  touch $path/$$ 2>/dev/null && echo $path is written; done; true";
    let mounts = vec![mount("/plain", false), mount("/deep", true)];
    let container = with(pod::shell("main", &image, script), mounts);
    assert_eq!(
        output(&node, "recursive", container.clone()).await,
        "/plain/below is written"
    );

    let config = node.pod("rules");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let mut writable = container.clone();
    writable.mounts[1].readonly = false;
    let mut spreading = container;
    spreading.mounts[1].propagation = MountPropagation::PropagationHostToContainer.into();
    for container in [writable, spreading] {
        let answer = cri.create(&sandbox, &config, &container).await;
        let words = ["recursive_read_only", "/deep"];
        refused(answer, Code::InvalidArgument, &words);
    }
    let request = StatusRequest { verbose: false };
    let status = Box::pin(cri.runtime().status(request)).await.unwrap();
    let handlers = status.into_inner().runtime_handlers;
    assert!(handlers.iter().any(|handler| {
        handler.name.is_empty()
            && handler
                .features
                .as_ref()
                .unwrap()
                .recursive_read_only_mounts
    }));
    drop((below, volume));
    node.finish().await.unwrap();
}

/// An image whose second layer changes what the first one has.
fn data() -> Image {
    let executable = fs::read("/bin/busybox").unwrap();
    Image::empty()
        .layer(
            Layer::new()
                .file("model/weights", 0o644, "old\n")
                .file("model/gone", 0o644, "gone\n")
                .file("busybox", 0o755, executable)
                .symlink("link", "../../../model"),
        )
        .layer(
            Layer::new()
                .file("model/weights", 0o644, "new\n")
                .whiteout("model/gone")
                .file("model/deep/more", 0o644, "more\n"),
        )
}

#[tokio::test]
async fn an_image_is_a_volume_that_is_only_read() {
    if not_on_docker("image volumes came with Docker 28") {
        return;
    }
    let (node, image) = node().await;
    let pushed = node.provide("data:1", &data()).await.unwrap();
    let single = Image::empty().layer(Layer::new().file("one", 0o644, "single\n"));
    let single = node.provide("single:1", &single).await.unwrap();
    let none = node.provide("none:1", &Image::empty()).await.unwrap();
    let id = node.cri().pull(&pushed.reference).await.unwrap();
    let script = "cat /whole/model/weights /byid/model/deep/more /dir/weights /file /linked/weights /single/one; \
                  ls /whole/model /dir; ls -A /none | wc -l; \
                  /whole/busybox echo executed; \
                  for path in /whole /dir /single /none; do \
                  touch $path/x 2>/dev/null && echo $path is written; done; true";
    let elsewhere = node.scratch.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mounts = vec![
        // As a kubelet says it of any volume's sub path beside an image volume.
        Mount {
            image_sub_path: "deep/er".to_owned(),
            ..bind(&elsewhere, "/elsewhere")
        },
        image_volume(&pushed.reference, "/whole", ""),
        image_volume(&id, "/byid", ""),
        image_volume(&pushed.reference, "/dir", "model"),
        image_volume(&pushed.reference, "/file", "model/weights"),
        image_volume(&pushed.reference, "/linked", "link"),
        image_volume(&single.reference, "/single", ""),
        image_volume(&none.reference, "/none", ""),
    ];
    let container = with(pod::shell("main", &image, script), mounts);
    assert_eq!(
        output(&node, "volumes", container).await,
        "new\nmore\nnew\nnew\nnew\nsingle\n\
         /dir:\ndeep\nweights\n\n/whole/model:\ndeep\nweights\n0\nexecuted"
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn an_image_of_many_layers_is_a_volume() {
    if not_on_docker("image volumes came with Docker 28") {
        return;
    }
    let (node, image) = node().await;
    let mut many = Image::empty();
    for number in 0..130 {
        let layer = Layer::new()
            .file("last", 0o644, format!("{number}\n"))
            .file(&format!("each/{number}"), 0o644, "");
        many = many.layer(layer);
    }
    let many = node.provide("many:1", &many).await.unwrap();
    let mounts = vec![
        image_volume(&many.reference, "/many", ""),
        image_volume(&many.reference, "/each", "each"),
    ];
    let script = "cat /many/last; ls /each | wc -l";
    let container = with(pod::shell("main", &image, script), mounts);
    assert_eq!(output(&node, "many", container).await, "129\n130");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_an_image_volume_is_refused_by_its_field() {
    if not_on_docker("image volumes came with Docker 28") {
        return;
    }
    let (node, image) = node().await;
    let cri = node.cri();
    let pushed = node.provide("data:1", &data()).await.unwrap();
    let config = node.pod("bad");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let before = slipway_testbed::leaks::snapshot(&node.scratch);
    let good = image_volume(&pushed.reference, "/volume", "");
    let sub_path = |path: &str| Mount {
        image_sub_path: path.to_owned(),
        ..good.clone()
    };
    for (mount, code, words) in [
        (
            image_volume("localhost:1/not/pulled:1", "/volume", ""),
            Code::NotFound,
            ["Mount.image", "not/pulled"],
        ),
        (
            sub_path("model/gone"),
            Code::InvalidArgument,
            ["image_sub_path", "model/gone"],
        ),
        (
            sub_path("model/../../etc"),
            Code::InvalidArgument,
            ["image_sub_path", ".."],
        ),
        (
            image_volume("", "/volume", ""),
            Code::InvalidArgument,
            ["Mount.image", "/volume"],
        ),
        (
            Mount {
                host_path: "/tmp".to_owned(),
                ..good.clone()
            },
            Code::InvalidArgument,
            ["Mount.image", "host_path"],
        ),
        (
            Mount {
                propagation: MountPropagation::PropagationHostToContainer.into(),
                ..good.clone()
            },
            Code::InvalidArgument,
            ["Mount.image", "propagation"],
        ),
    ] {
        let container = with(pod::sleeper("main", &image), vec![mount]);
        refused(
            cri.create(&sandbox, &config, &container).await,
            code,
            &words,
        );
    }
    slipway_testbed::leaks::assert_no_more(&node.scratch, &before);
    node.finish().await.unwrap();
}

/// The layers of an image volume stay as long as its container, whatever becomes of the image and
/// of the daemon.
#[tokio::test]
async fn an_image_volume_outlives_its_image_and_the_daemon() {
    if not_on_docker("image volumes came with Docker 28") {
        return;
    }
    let (mut node, image) = node().await;
    let pushed = node.provide("data:1", &data()).await.unwrap();
    let config = node.pod("keeps");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let mut volume = image_volume(&pushed.reference, "/volume", "model");
    let container = with(pod::sleeper("main", &image), vec![volume.clone()]);
    volume.image.as_mut().unwrap().image_ref = pushed.id;
    let id = node
        .cri()
        .launch(&sandbox, &config, &container)
        .await
        .unwrap();
    let store = node.daemon.root().join("image/layers");
    let layers = || {
        fs::read_dir(&store).map_or_else(
            |error| panic!("{}: {error}", store.display()),
            std::iter::Iterator::count,
        )
    };
    let before = layers();
    remove_image(&node, &pushed.reference).await;
    assert_eq!(layers(), before, "layers in use were removed");
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    let cri = node.cri();
    let answer = cri.exec(&id, &["cat", "/volume/weights"]).await.unwrap();
    assert_eq!(answer.stdout, b"new\n");
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!(status.mounts, [volume]);
    let again = cri
        .create(
            &sandbox,
            &config,
            &with(pod::sleeper("again", &image), status.mounts),
        )
        .await;
    refused(again, Code::NotFound, &["Mount.image"]);
    assert_eq!(layers(), before);

    cri.remove(&id).await.unwrap();
    eventually("the layers to go", Duration::from_secs(20), async || {
        Ok(layers() == before - 2)
    })
    .await
    .unwrap();
    node.finish().await.unwrap();
}

async fn remove_image(node: &Node, image: &str) {
    let request = RemoveImageRequest {
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
    };
    Box::pin(node.cri().images().remove_image(request))
        .await
        .unwrap();
}

#[tokio::test]
async fn volumes_are_laid_out_by_depth_links_and_kind() {
    let (node, image) = node().await;
    let source = node.scratch.join("source");
    fs::create_dir_all(source.join("directory")).unwrap();
    fs::write(source.join("file"), "file\n").unwrap();
    fs::write(source.join("directory/inner"), "inner\n").unwrap();
    fs::write(source.join("other"), "other\n").unwrap();
    symlink("directory", source.join("link")).unwrap();
    let memory = Mounted::tmpfs(node.scratch.join("memory"), MountPropagationFlags::PRIVATE);
    let relabelled = Mount {
        selinux_relabel: true,
        ..bind(&source, "/relabelled")
    };
    let script = "cat /a/inner /a/b/file /one /two /var/run/x/inner /run/x/inner /etc/hosts; \
                  cat /relabelled/file; stat -f -c %T /memory; echo kept > /memory/file";
    // The image has /var/run -> /run, as Debian's images have.
    let linked = Image::busybox().layer(Layer::new().symlink("var/run", "/run"));
    let linked = node.provide("linked:1", &linked).await.unwrap().reference;
    let container = with(
        pod::shell("main", &linked, script),
        vec![
            // The deeper one first: it must be seen all the same.
            bind(&source, "/a/b"),
            bind(&source.join("link"), "/a"),
            bind(&source.join("file"), "/one"),
            // Two at one place: the last one is seen.
            bind(&source.join("file"), "/two"),
            bind(&source.join("other"), "/two/"),
            bind(&source.join("directory"), "/var/run/x"),
            bind(&source.join("file"), "/etc/hosts"),
            bind(&memory.0, "/memory"),
            // Without effect where there is no SELinux.
            relabelled,
        ],
    );
    assert_eq!(
        output(&node, "layout", container).await,
        "inner\nfile\nfile\nother\ninner\ninner\nfile\nfile\ntmpfs"
    );
    assert_eq!(fs::read_to_string(memory.0.join("file")).unwrap(), "kept\n");
    drop(memory);

    let cri = node.cri();
    let config = node.pod("kinds");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let of_the_image = [
        (bind(&source.join("file"), "/tmp"), ["/tmp", "file"]),
        (bind(&source, "/etc/passwd"), ["/etc/passwd", "file"]),
    ];
    let found_when_started =
        not_on_docker("Docker looks into the image when it starts a container");
    let of_the_image = of_the_image.into_iter().filter(|_| !found_when_started);
    let of_the_request = [
        (
            bind(&source.join("file/below"), "/x"),
            ["host_path", "file/below"],
        ),
        (bind(&source, "/proc/self"), ["/proc/self", "/proc"]),
        (bind(&source, "/"), ["container_path", "root file system"]),
        (bind(&source, "relative"), ["container_path", "relative"]),
        (bind(Path::new("relative"), "/x"), ["host_path", "relative"]),
        (bind(Path::new(""), "/x"), ["host_path", "absolute"]),
    ];
    for (mount, words) in of_the_image.chain(of_the_request) {
        let container = with(pod::sleeper("main", &image), vec![mount]);
        let answer = cri.create(&sandbox, &config, &container).await;
        refused(answer, Code::InvalidArgument, &words);
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn the_nodes_dev_sys_and_proc_can_take_the_place_of_the_containers() {
    if docker_lacks_a_capability() {
        return;
    }
    let (node, image) = node().await;
    let own = node.scratch.join("etc");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    let script = "ls /dev/pts/ptmx; [ -d /proc/$NODE_PID ] && echo processes of the node; \
                  wc -l < /etc/passwd; cat /etc/hostname; \
                  grep -c ' /sys/fs/cgroup ' /proc/self/mountinfo; \
                  grep ' /dev/shm ' /proc/self/mountinfo | tail -n 1 | grep -o ' shm '";
    let script = script.replace("$NODE_PID", &node.daemon.pid().to_string());
    let mut container = privileged(with(
        pod::shell("main", &image, &script),
        vec![
            bind(Path::new("/dev"), "/dev"),
            bind(Path::new("/sys"), "/sys"),
            bind(Path::new("/proc"), "/proc"),
            bind(&own, "/etc"),
        ],
    ));
    security(&mut container).privileged = true;
    let nodes_cgroups = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .matches(" /sys/fs/cgroup ")
        .count();
    assert_eq!(
        output(&node, "overrides", container).await,
        format!("/dev/pts/ptmx\nprocesses of the node\n1\noverrides\n{nodes_cgroups}\n shm ")
    );
    node.finish().await.unwrap();
}
