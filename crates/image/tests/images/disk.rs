//! A file system that is too small.

use slipway_image::{Images, Kind};

use crate::image::{Packing, TestImage, noise, tar};
use crate::misbehaving::Misbehaving;
use crate::mounted::Mounted;
use crate::node::{config, names};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_gives_its_space_back() {
    let registry = Misbehaving::start();
    let large = TestImage::new(&[
        (tar(&[("a", &noise(3_000_000, 1))]), Packing::Gzip),
        (tar(&[("b", &noise(9_000_000, 2))]), Packing::Gzip),
        (tar(&[("c", &noise(9_000_000, 3))]), Packing::Zstd),
    ]);
    let small = TestImage::new(&[(tar(&[("s", &noise(4_000_000, 4))]), Packing::Gzip)]);
    assert!(large.compressed_size() > 20_000_000);
    registry.put("app", "large", &large);
    registry.put("app", "small", &small);
    let directory = tempfile::tempdir().unwrap();
    let mountpoint = directory.path().join("mount");
    std::fs::create_dir(&mountpoint).unwrap();
    let _mounted = Mounted::new("tmpfs", &mountpoint, "size=10m");
    let root = mountpoint.join("image");
    let images = Images::open(&root, config(directory.path())).unwrap();
    let free = || rustix::fs::statvfs(&mountpoint).unwrap().f_bavail * 4096;
    let before = free();
    for _ in 0..3 {
        let name = format!("{}/app:large", registry.address);
        let error = images.pull(&name, None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace, "{error}");
        assert!(error.to_string().contains(&registry.address), "{error}");
        assert!(names(&root.join("layers")).is_empty());
        assert!(names(&root.join("temporary")).is_empty());
        // The metadata file may have grown a little.
        assert!(before - free() < 600_000, "{before} {}", free());
    }
    let name = format!("{}/app:small", registry.address);
    assert_eq!(images.pull(&name, None).await.unwrap(), small.id());
    images.remove(&name).await.unwrap();
    let file = std::fs::File::create(mountpoint.join("fill")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free()).unwrap();
    let tiny = TestImage::small("t", "t");
    registry.put("app", "tiny", &tiny);
    let name = format!("{}/app:tiny", registry.address);
    let error = images.pull(&name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error}");
    drop(file);
    std::fs::remove_file(mountpoint.join("fill")).unwrap();
    images.pull(&name, None).await.unwrap();
}
