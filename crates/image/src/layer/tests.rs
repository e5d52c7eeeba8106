//! Archives made by hand, good and bad, against a real file system. Run as root.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::unpack::unpack;
use super::{Failure, Unpacked, inherit_attributes};

/// Writes tar without checking anything.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, name: &[u8], kind: EntryType, link: &[u8], mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        self.push(&mut header, data);
        self
    }

    fn push(&mut self, header: &mut Header, data: &[u8]) {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.raw(
            name.as_bytes(),
            EntryType::Regular,
            b"",
            0o644,
            data.as_bytes(),
        )
    }

    fn directory(self, name: &str, mode: u32) -> Self {
        self.raw(name.as_bytes(), EntryType::Directory, b"", mode, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(
            name.as_bytes(),
            EntryType::Symlink,
            target.as_bytes(),
            0o777,
            b"",
        )
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(
            name.as_bytes(),
            EntryType::Link,
            target.as_bytes(),
            0o644,
            b"",
        )
    }

    /// PAX records for the entry that comes next.
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(b"pax", EntryType::XHeader, b"", 0o644, &data)
    }

    fn unpack(mut self) -> (TempDir, Result<Unpacked, Failure>) {
        self.0.extend_from_slice(&[0; 1024]);
        unpack_bytes(&self.0)
    }

    fn unpack_well(self) -> (TempDir, Unpacked) {
        let (directory, unpacked) = self.unpack();
        (directory, unpacked.unwrap())
    }

    fn refused(self) -> String {
        match self.unpack().1 {
            Err(Failure::Corrupt(message) | Failure::Unsupported(message)) => message,
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn unpack_bytes(bytes: &[u8]) -> (TempDir, Result<Unpacked, Failure>) {
    let directory = tempfile::tempdir().unwrap();
    let root = OwnedFd::from(fs::File::open(directory.path()).unwrap());
    let unpacked = unpack(Cursor::new(bytes), root);
    (directory, unpacked)
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0)
}

#[test]
fn attributes_are_kept() {
    let capability = [
        1, 0, 0, 2, 0x0a, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let long = format!("directory/{}", "n".repeat(200));
    let (root, unpacked) = Tar::default()
        .raw(b"./", EntryType::Directory, b"", 0o711, b"")
        .directory("directory/", 0o1777)
        .pax(&[
            ("path", long.as_bytes()),
            ("uid", b"3000000"),
            ("gid", b"7"),
            ("mtime", b"1234567890.123456789"),
            ("atime", b"-1.5"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.text", b"a=b\nc"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/elsewhere"),
        ])
        .raw(b"short", EntryType::Regular, b"", 0o6755, b"content")
        .symlink("symlink", "/any/where")
        .hard_link("link", "symlink")
        .raw(b"fifo", EntryType::Fifo, b"", 0o620, b"")
        .unpack_well();
    let file = root.path().join(&long);
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"content");
    assert_eq!(metadata.mode() & 0o7777, 0o6755);
    assert_eq!((metadata.uid(), metadata.gid()), (3_000_000, 7));
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );
    assert_eq!((metadata.atime(), metadata.atime_nsec()), (-2, 500_000_000));
    assert_eq!(attribute(&file, "security.capability").unwrap(), capability);
    assert_eq!(attribute(&file, "user.text").unwrap(), b"a=b\nc");
    assert_eq!(attribute(&file, "trusted.overlay.redirect"), None);
    let directory = fs::metadata(root.path().join("directory")).unwrap();
    assert_eq!(directory.mode() & 0o7777, 0o1777);
    assert_eq!(
        directory.mtime(),
        1_000_000_000,
        "although a file was made in it later"
    );
    assert_eq!(fs::metadata(root.path()).unwrap().mode() & 0o7777, 0o711);
    let link = fs::symlink_metadata(root.path().join("link")).unwrap();
    assert!(link.file_type().is_symlink());
    assert_eq!(link.nlink(), 2);
    let fifo = fs::symlink_metadata(root.path().join("fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
    assert_eq!(fifo.mode() & 0o7777, 0o620);
    assert!(unpacked.implied.is_empty());
    assert_eq!(unpacked.inodes, 5);
    assert_eq!(unpacked.bytes, 3 * 4096);
}

#[test]
fn devices_gnu_names_and_global_headers() {
    let long = "g".repeat(150);
    let mut tar = Tar::default()
        .raw(
            b"comment",
            EntryType::XGlobalHeader,
            b"",
            0,
            b"20 comment=anything\n",
        )
        .raw(
            b"././@LongLink",
            EntryType::GNULongName,
            b"",
            0,
            format!("{long}\0").as_bytes(),
        )
        .raw(
            b"././@LongLink",
            EntryType::GNULongLink,
            b"",
            0,
            b"target\0",
        )
        .symlink("short", "shorter");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Char);
    header.set_path("null").unwrap();
    header.set_mode(0o666);
    header.set_uid(0);
    header.set_gid(5);
    header.set_size(0);
    header.set_mtime(0);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    tar.push(&mut header, b"");
    let (root, _) = tar.unpack_well();
    assert_eq!(
        fs::read_link(root.path().join(long)).unwrap(),
        Path::new("target")
    );
    let null = fs::metadata(root.path().join("null")).unwrap();
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!((null.mode() & 0o7777, null.gid()), (0o666, 5));
}

#[test]
fn entries_that_leave_the_root_are_refused() {
    for name in [
        "../x",
        "a/../../x",
        "a/..",
        "/etc/x",
        "//x",
        "./../x",
        "a/b/../c",
    ] {
        let message = Tar::default()
            .directory("a", 0o755)
            .file(name, "x")
            .refused();
        assert!(message.contains(&format!("{name:?}")), "{message}");
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for link in [target, "..", "/", "."] {
        let message = Tar::default()
            .symlink("link", link)
            .file("link/x", "x")
            .refused();
        assert!(message.contains("symbolic link"), "{message}");
        Tar::default()
            .symlink("link", link)
            .directory("link/x", 0o755)
            .refused();
        Tar::default()
            .symlink("link", link)
            .symlink("link/x", "y")
            .refused();
        Tar::default()
            .symlink("link", link)
            .hard_link("x", "link/passwd")
            .refused();
        Tar::default()
            .symlink("link", link)
            .file("link/.wh.x", "")
            .refused();
        Tar::default()
            .symlink("link", link)
            .file("link/.wh..wh..opq", "")
            .refused();
    }
    Tar::default()
        .hard_link("x", "../../../../etc/passwd")
        .refused();
    Tar::default().hard_link("x", "/etc/passwd").refused();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    let (root, _) = Tar::default()
        .symlink("link", target)
        .directory("link", 0o755)
        .file("link/x", "inside")
        .unpack_well();
    assert_eq!(fs::read(root.path().join("link/x")).unwrap(), b"inside");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn malformed_archives_are_refused() {
    for message in [
        Tar::default().file("", "x").refused(),
        Tar::default().file("a/./.wh.", "").refused(),
        Tar::default().file(".wh...", "").refused(),
        Tar::default().file(".wh.a/b", "").refused(),
        Tar::default().file(".", "root").refused(),
        Tar::default().hard_link("a", "missing").refused(),
        Tar::default().hard_link("a", "").refused(),
        Tar::default()
            .raw(b"s", EntryType::GNUSparse, b"", 0o644, b"")
            .refused(),
        Tar::default()
            .raw(b"s", EntryType::new(b'Z'), b"", 0o644, b"")
            .refused(),
        Tar::default()
            .pax(&[("GNU.sparse.major", b"1")])
            .file("a", "")
            .refused(),
        Tar::default()
            .pax(&[("size", b"x")])
            .file("a", "")
            .refused(),
        Tar::default()
            .pax(&[("uid", b"4294967296")])
            .file("a", "")
            .refused(),
        Tar::default()
            .pax(&[("uid", b"4294967295")])
            .file("a", "")
            .refused(),
        Tar::default()
            .pax(&[("size", b"9999999999")])
            .file("a", "")
            .refused(),
        Tar::default()
            .pax(&[("path", "a/".repeat(300).as_bytes())])
            .file("a", "")
            .refused(),
        Tar::default()
            .pax(&[("path", "a".repeat(5000).as_bytes())])
            .file("a", "")
            .refused(),
        Tar::default()
            .pax(&[("path", b"a\0b")])
            .file("a", "")
            .refused(),
        Tar(b"not a tar archive at all".repeat(100)).refused(),
        Tar(vec![b'x'; 100]).refused(),
    ] {
        assert!(!message.is_empty());
    }
    let mut huge = Tar::default();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 40);
    huge.push(&mut header, b"");
    assert!(huge.refused().contains("1099511627776 bytes of names"));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let (root, _) = Tar::default()
        .file("a", "old")
        .hard_link("b", "a")
        .file("a", "new")
        .directory("d", 0o755)
        .directory("d/sub", 0o755)
        .file("d/sub/file", "x")
        .file("d", "now a file")
        .file("e", "x")
        .directory("e", 0o700)
        .file("e/f", "below")
        .unpack_well();
    let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
    assert_eq!(read("a"), "new");
    assert_eq!(read("b"), "old");
    assert_eq!(read("d"), "now a file");
    assert_eq!(read("e/f"), "below");
    let (root, _) = Tar::default()
        .file("d/sub/file", "x")
        .symlink("d", "elsewhere")
        .directory("d", 0o755)
        .file("d/sub/file", "again")
        .unpack_well();
    assert_eq!(fs::read(root.path().join("d/sub/file")).unwrap(), b"again");
}

#[test]
fn whiteouts_become_overlay_markers() {
    let (root, unpacked) = Tar::default()
        .file("gone/.wh.file", "")
        .file(".wh.top", "")
        .directory("opaque", 0o755)
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "x")
        .file("implied/.wh..wh..opq", "")
        .file(".wh.replaced", "")
        .file("replaced/new", "x")
        .directory("both", 0o755)
        .file(".wh.both", "")
        .file("kept", "this layer's")
        .file(".wh.kept", "")
        .file(".wh.again", "")
        .file("again", "x")
        .directory(".wh..wh.plnk", 0o700)
        .file(".wh..wh.plnk/1.2", "")
        .file(".wh..wh.aufs", "")
        .unpack_well();
    let path = |name: &str| root.path().join(name);
    assert!(is_whiteout(&path("gone/file")));
    assert!(is_whiteout(&path("top")));
    for opaque in ["opaque", "implied", "replaced", "both"] {
        let value = attribute(&path(opaque), "trusted.overlay.opaque");
        assert_eq!(value.as_deref(), Some(&b"y"[..]), "{opaque}");
    }
    assert_eq!(attribute(&path("gone"), "trusted.overlay.opaque"), None);
    assert_eq!(fs::read(path("kept")).unwrap(), b"this layer's");
    assert_eq!(fs::read(path("again")).unwrap(), b"x");
    assert_eq!(fs::read(path("replaced/new")).unwrap(), b"x");
    let names = fs::read_dir(root.path()).unwrap().count();
    assert_eq!(names, 8, "nothing of AUFS");
    assert!(!unpacked.hides_lower);
    assert!(
        Tar::default()
            .file("./.wh..wh..opq", "")
            .unpack_well()
            .1
            .hides_lower
    );
}

#[test]
fn implied_directories_inherit_what_is_visible_below() {
    let (lowest, _) = Tar::default()
        .raw(b"./", EntryType::Directory, b"", 0o750, b"")
        .directory("tmp", 0o1777)
        .pax(&[("uid", b"33"), ("SCHILY.xattr.user.a", b"b")])
        .directory("home/user", 0o700)
        .directory("hidden/deep", 0o700)
        .directory("removed", 0o700)
        .directory("covered", 0o700)
        .unpack_well();
    let (middle, _) = Tar::default()
        .file("hidden/.wh..wh..opq", "")
        .file(".wh.removed", "")
        .file("covered", "a file")
        .unpack_well();
    let (top, unpacked) = Tar::default()
        .file("tmp/file", "x")
        .file("home/user/file", "x")
        .file("hidden/deep/file", "x")
        .file("removed/file", "x")
        .file("covered/file", "x")
        .file("own/.wh..wh..opq", "")
        .file("own/new/file", "x")
        .unpack_well();
    let lower = [middle.path().to_owned(), lowest.path().to_owned()];
    inherit_attributes(top.path(), &unpacked.implied, &lower).unwrap();
    let mode = |name: &str| fs::metadata(top.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        mode(""),
        0o755,
        "the root of the middle layer is made up as well"
    );
    assert_eq!(mode("tmp"), 0o1777);
    assert_eq!(mode("home/user"), 0o700);
    assert_eq!(
        fs::metadata(top.path().join("home/user")).unwrap().uid(),
        33
    );
    assert_eq!(
        fs::metadata(top.path().join("home/user")).unwrap().mtime(),
        1_000_000_000
    );
    assert_eq!(
        attribute(&top.path().join("home/user"), "user.a").unwrap(),
        b"b"
    );
    assert_eq!(mode("home"), 0o755);
    for fresh in ["hidden/deep", "removed", "covered", "own", "own/new"] {
        assert_eq!(mode(fresh), 0o755, "{fresh}");
    }
    let opaque = attribute(&top.path().join("hidden"), "trusted.overlay.opaque");
    assert_eq!(opaque, None, "markers of lower layers are not inherited");
}

/// One entry of a random archive.
#[derive(Clone, Debug)]
struct Random {
    name: String,
    kind: RandomKind,
}

#[derive(Clone, Debug)]
enum RandomKind {
    File(String),
    Directory,
    Symlink(String),
    HardLink(String),
    Fifo,
}

fn name(hostile: bool) -> impl Strategy<Value = String> {
    let component = if hostile {
        prop_oneof![
            6 => "[a-d]",
            1 => Just("..".to_owned()),
            1 => Just(".".to_owned()),
            1 => Just(String::new()),
            1 => "\\.wh\\.[a-d]",
            1 => Just(".wh..wh..opq".to_owned()),
        ]
        .boxed()
    } else {
        "[a-d]".boxed()
    };
    prop::collection::vec(component, 1..5).prop_map(|components| components.join("/"))
}

fn archive(hostile: bool) -> impl Strategy<Value = Vec<Random>> {
    let target = prop_oneof![
        name(hostile),
        Just("..".to_owned()),
        Just("../..".to_owned()),
        Just("../canary".to_owned()),
        Just("/tmp".to_owned()),
    ];
    let kind = prop_oneof![
        "[a-z]{0,9}".prop_map(RandomKind::File),
        Just(RandomKind::Directory),
        target.prop_map(RandomKind::Symlink),
        name(hostile).prop_map(RandomKind::HardLink),
        Just(RandomKind::Fifo),
    ];
    let entry = (name(hostile), kind).prop_map(|(name, kind)| Random { name, kind });
    prop::collection::vec(entry, 0..24)
}

fn write(entries: &[Random]) -> Vec<u8> {
    let mut tar = Tar::default();
    for Random { name, kind } in entries {
        tar = match kind {
            RandomKind::File(data) => tar.file(name, data),
            RandomKind::Directory => tar.directory(name, 0o755),
            RandomKind::Symlink(target) => tar.symlink(name, target),
            RandomKind::HardLink(target) => tar.hard_link(name, target),
            RandomKind::Fifo => tar.raw(name.as_bytes(), EntryType::Fifo, b"", 0o644, b""),
        };
    }
    tar.0
}

/// Every path below a directory with what is there.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let text = if metadata.is_dir() {
                open.push(path.clone());
                "directory".to_owned()
            } else if metadata.is_symlink() {
                format!("link {}", fs::read_link(&path).unwrap().display())
            } else if metadata.is_file() {
                format!("file {}", fs::read_to_string(&path).unwrap())
            } else {
                "other".to_owned()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), text);
        }
    }
    found
}

/// What an archive without whiteouts should leave, if it can be unpacked at all.
fn expected(entries: &[Random]) -> BTreeMap<PathBuf, String> {
    let mut tree: BTreeMap<PathBuf, String> = BTreeMap::new();
    for Random { name, kind } in entries {
        let path = PathBuf::from(name);
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            tree.insert(parent.to_owned(), "directory".into());
        }
        let text = match kind {
            RandomKind::Directory => {
                tree.insert(path, "directory".into());
                continue;
            }
            RandomKind::File(data) => format!("file {data}"),
            RandomKind::Symlink(target) => format!("link {target}"),
            RandomKind::Fifo => "other".into(),
            RandomKind::HardLink(target) => {
                tree.get(Path::new(target)).cloned().unwrap_or_default()
            }
        };
        tree.retain(|other, _| !other.starts_with(&path));
        tree.insert(path, text);
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_outside_the_root_is_touched(entries in archive(true), cut in 0..3_usize) {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::create_dir(outer.path().join("canary")).unwrap();
        fs::write(outer.path().join("canary/file"), "untouched").unwrap();
        let mut bytes = write(&entries);
        bytes.truncate(bytes.len().saturating_sub(cut * 300));
        let fd = OwnedFd::from(fs::File::open(&root).unwrap());
        let _ = unpack(Cursor::new(&bytes), fd);
        fs::remove_dir_all(&root).unwrap();
        let left: Vec<_> = tree(outer.path()).into_iter().collect();
        prop_assert_eq!(left, vec![
            (PathBuf::from("canary"), "directory".to_owned()),
            (PathBuf::from("canary/file"), "file untouched".to_owned()),
        ]);
    }

    #[test]
    fn what_is_unpacked_is_what_was_packed(entries in archive(false)) {
        let (root, unpacked) = unpack_bytes(&write(&entries));
        if unpacked.is_ok() {
            prop_assert_eq!(tree(root.path()), expected(&entries));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = unpack_bytes(&bytes);
    }
}

#[test]
fn names_need_not_be_text() {
    let (root, _) = Tar::default()
        .raw(b"\xff\xfe", EntryType::Regular, b"", 0o644, b"x")
        .unpack_well();
    let entry = fs::read_dir(root.path()).unwrap().next().unwrap().unwrap();
    assert_eq!(entry.file_name().as_bytes(), b"\xff\xfe");
}
