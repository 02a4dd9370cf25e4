//! Which files below a container's mounts are held for writing or locked, and by whom.
//!
//! Everything comes from `/proc/<pid>`: descriptors with their flags, mounts and locks from `fdinfo`, mappings from `maps`. A
//! file belongs to a mount by the mount's number and a lock to its file by its descriptor, so device numbers, which mean
//! little on overlay and btrfs, are not compared. Paths are the container's: the kernel tells them so for other mount namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::error::HostError;
use crate::namespace::run_in;
use crate::protocol::{FileInUse, Hold, MountInUse, MountsInUse};

/// Files that are named in an answer.
const NAMED: usize = 100;
/// Entries that are looked at to tell whether anything was written; a look must be short.
const LOOKED_AT: usize = 5000;
/// How long the engine may take to fill a new volume from the image, in seconds.
const FILLING: i64 = 5;

/// Looks at the processes of the container that `sandbox` (`/proc/<pid>/ns/net`) is of.
pub(crate) async fn below(sandbox: PathBuf, targets: Vec<String>) -> Result<MountsInUse, HostError> {
    let process = sandbox
        .ancestors()
        .nth(2)
        .filter(|process| process.parent() == Some(Path::new("/proc")))
        .ok_or_else(|| HostError::Request(format!("{} is not /proc/<pid>/ns/net", sandbox.display())))?
        .to_owned();
    let doing = format!("looking at the open files of {}", process.display());
    // On a thread of its own, because it waits for the disk; in no other namespace.
    run_in("open files", None, move || look(&process, &targets).map_err(HostError::kernel(doing))).await
}

fn look(main: &Path, targets: &[String]) -> io::Result<MountsInUse> {
    let mounts = mounts(&fs::read_to_string(main.join("mountinfo"))?);
    let wanted: BTreeMap<u64, &str> = mounts
        .iter()
        .filter_map(|(number, point)| {
            Some((*number, targets.iter().find(|target| point == Path::new(target))?.as_str()))
        })
        .collect();
    let namespace = fs::read_link(main.join("ns/mnt"))?;
    // The main process must be told of; others may end meanwhile, or be none of the container's.
    let mut held = held_by(main, &mounts)?;
    for process in fs::read_dir("/proc")?.flatten().map(|entry| entry.path()).filter(|path| path != main) {
        if fs::read_link(process.join("ns/mnt")).is_ok_and(|other| other == namespace) {
            held.extend(held_by(&process, &mounts).unwrap_or_default());
        }
    }
    let mut answer = Vec::new();
    for target in targets {
        let Some(number) = wanted.iter().rev().find(|(_, point)| *point == target).map(|(number, _)| *number) else {
            continue;
        };
        let files = files(held.iter().filter(|one| one.mount == number), Path::new(target));
        let root = main.join("root").join(target.trim_start_matches('/'));
        answer.push(MountInUse {
            target: target.clone(),
            in_use: files.len(),
            files: files.into_iter().take(NAMED).collect(),
            never_written: never_written(&root).unwrap_or(false),
        });
    }
    Ok(MountsInUse { mounts: answer })
}

/// A file that one process holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HeldFile {
    mount: u64,
    path: PathBuf,
    hold: Hold,
    name: String,
    process: PathBuf,
}

/// One for each file and process, with the most that is done with it.
fn files<'a>(held: impl Iterator<Item = &'a HeldFile>, target: &Path) -> BTreeSet<FileInUse> {
    let mut by_name: BTreeMap<(&Path, &str), (Hold, BTreeSet<&Path>)> = BTreeMap::new();
    for one in held {
        let entry = by_name.entry((&one.path, &one.name)).or_insert_with(|| (one.hold, BTreeSet::new()));
        entry.0 = entry.0.min(one.hold);
        entry.1.insert(&one.process);
    }
    let file = |((path, name), (hold, processes)): ((&Path, &str), (Hold, BTreeSet<&Path>))| FileInUse {
        hold,
        file: path.strip_prefix(target).unwrap_or(path).to_string_lossy().into_owned(),
        process: name.to_owned(),
        processes: processes.len(),
    };
    by_name.into_iter().map(file).collect()
}

fn held_by(process: &Path, mounts: &BTreeMap<u64, PathBuf>) -> io::Result<BTreeSet<HeldFile>> {
    let name = fs::read_to_string(process.join("comm"))?.trim_end().to_owned();
    let file = |mount, path, hold| HeldFile { mount, path, hold, name: name.clone(), process: process.to_owned() };
    let mut held = BTreeSet::new();
    for descriptor in fs::read_dir(process.join("fd"))?.flatten() {
        // It may be closed in this very moment.
        let Ok(path) = fs::read_link(descriptor.path()) else { continue };
        let Ok(about) = fs::read_to_string(process.join("fdinfo").join(descriptor.file_name())) else { continue };
        // Sockets and pipes have no path; nobody else can open what is deleted.
        if path.is_absolute()
            && !is_deleted(&path)
            && let Some((mount, hold)) = descriptor_held(&about)
        {
            held.insert(file(mount, path, hold));
        }
    }
    // Large for some, and quick nevertheless.
    for path in mapped_for_writing(&fs::read(process.join("maps"))?) {
        let mount = mounts.iter().filter(|(_, point)| path.starts_with(point));
        if let Some((number, _)) = mount.max_by_key(|(number, point)| (point.components().count(), **number)) {
            held.insert(file(*number, path, Hold::Mapped));
        }
    }
    Ok(held)
}

fn is_deleted(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b" (deleted)")
}

/// What `/proc/<pid>/fdinfo/<n>` says: number of the mount, and whether the file is locked or open for writing.
fn descriptor_held(about: &str) -> Option<(u64, Hold)> {
    let field = |key: &str| about.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let mount = field("mnt_id:")?.parse().ok()?;
    let flags = i32::from_str_radix(field("flags:")?, 8).ok()?;
    // `1: POSIX  ADVISORY  WRITE 12 00:31:77 0 EOF`; leases and delegations are no locks.
    let kind = |lock: &str| lock.split_whitespace().nth(1).map(str::to_owned);
    let locks = about.lines().filter_map(|line| line.strip_prefix("lock:")).filter_map(kind);
    if locks.into_iter().any(|kind| matches!(kind.as_str(), "FLOCK" | "POSIX" | "OFDLCK")) {
        return Some((mount, Hold::Locked));
    }
    let for_writing = flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY;
    for_writing.then_some((mount, Hold::Open))
}

/// Files in `/proc/<pid>/maps` that are mapped shared and writable.
fn mapped_for_writing(maps: &[u8]) -> BTreeSet<PathBuf> {
    let path = |line: &[u8]| {
        let text = String::from_utf8_lossy(line).into_owned();
        let mut fields = text.split_whitespace();
        let (_, permissions) = (fields.next()?, fields.next()?);
        let shared = permissions.as_bytes().get(1) == Some(&b'w') && permissions.ends_with('s');
        let start = line.iter().position(|byte| *byte == b'/')?;
        Some(PathBuf::from(OsStr::from_bytes(&line[start..]))).filter(|path| shared && !is_deleted(path))
    };
    maps.split(|byte| *byte == b'\n').filter_map(path).collect()
}

/// Mount points by number, from `/proc/<pid>/mountinfo`.
fn mounts(mountinfo: &str) -> BTreeMap<u64, PathBuf> {
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        Some((fields.next()?.parse().ok()?, PathBuf::from(unescaped(fields.nth(3)?))))
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// Spaces and the like are written as `\040`.
fn unescaped(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => text.extend([char::from(byte)].into_iter().chain(part[3..].chars())),
            None => text.extend(['\\'].into_iter().chain(part.chars())),
        }
    }
    text
}

/// Whether nothing below a directory has changed since it was made and filled; `None` where that cannot be told.
fn never_written(root: &Path) -> io::Result<bool> {
    let made = statx(CWD, root, AtFlags::empty(), StatxFlags::BTIME)?;
    if made.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return Ok(false);
    }
    let until = made.stx_btime.tv_sec + FILLING;
    let mut directories = vec![root.to_owned()];
    let mut looked_at = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let entry = statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
            looked_at += 1;
            if looked_at > LOOKED_AT || entry.stx_ctime.tv_sec > until {
                return Ok(false);
            }
            if u32::from(entry.stx_mode) & libc::S_IFMT == libc::S_IFDIR {
                directories.push(path);
            }
        }
    }
    // What was removed shows in the directory only; those below have been looked at as entries.
    Ok(statx(CWD, root, AtFlags::empty(), StatxFlags::BASIC_STATS)?.stx_ctime.tv_sec <= until)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_descriptor_is_judged_by_its_flags_and_locks() {
        let about = |flags: &str, more: &str| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t77\nino:\t5\n{more}");
        assert_eq!(descriptor_held(&about("0100000", "")), None);
        assert_eq!(descriptor_held(&about("0100001", "")), Some((77, Hold::Open)));
        assert_eq!(descriptor_held(&about("02100002", "")), Some((77, Hold::Open)));
        assert_eq!(descriptor_held(&about("012000002", "")), None, "O_PATH");
        let lock = "lock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF\n";
        assert_eq!(descriptor_held(&about("0100000", lock)), Some((77, Hold::Locked)));
        let lease = "lock:\t1: LEASE  ACTIVE    READ  359 00:13:11691 0 EOF\n";
        assert_eq!(descriptor_held(&about("0100000", lease)), None);
    }

    #[test]
    fn mount_points_and_mappings_are_read_with_spaces_in_them() {
        let mounts =
            mounts("36 35 98:0 /mnt1 / rw - overlay overlay rw\n40 36 8:1 /v /my\\040data rw - ext4 /dev/sda rw\n");
        assert_eq!(mounts, [(36, "/".into()), (40, "/my data".into())].into());
        let maps =
            b"7f00-7f01 rw-s 00000000 08:01 12   /my data/lock.mdb\n7f01-7f02 rw-p 00000000 08:01 13   /my data/x\n\
            7f02-7f03 r--s 00000000 08:01 14   /my data/y\n7f03-7f04 rw-s 00000000 00:01 15   /dev/zero (deleted)\n";
        assert_eq!(mapped_for_writing(maps), BTreeSet::from(["/my data/lock.mdb".into()]));
    }

    #[test]
    fn the_most_that_is_done_with_a_file_is_told_once_for_all_processes_of_a_name() {
        let held = |path: &str, hold, process: &str| HeldFile {
            mount: 1,
            path: path.into(),
            hold,
            name: "php".into(),
            process: process.into(),
        };
        let all = [held("/d/b", Hold::Open, "1"), held("/d/a/c", Hold::Open, "1"), held("/d/a/c", Hold::Locked, "2")];
        let told: Vec<_> = files(all.iter(), Path::new("/d")).into_iter().collect();
        let file =
            |hold, file: &str, processes| FileInUse { hold, file: file.into(), process: "php".into(), processes };
        assert_eq!(told, [file(Hold::Locked, "a/c", 2), file(Hold::Open, "b", 1)]);
    }

    #[test]
    fn what_this_process_holds_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let written = File::create(directory.path().join("written")).unwrap();
        let locked = File::create(directory.path().join("locked")).unwrap();
        locked.lock().unwrap();
        let read = File::open(directory.path().join("written")).unwrap();
        assert!(written.as_raw_fd() != read.as_raw_fd());
        let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap());
        let held = held_by(Path::new("/proc/self"), &mounts).unwrap();
        let ours = held.into_iter().filter(|one| one.path.starts_with(directory.path()));
        let told: Vec<_> = ours.map(|one| (one.path.file_name().unwrap().to_owned(), one.hold)).collect();
        assert_eq!(told, [("locked".into(), Hold::Locked), ("written".into(), Hold::Open)]);
    }

    #[test]
    fn a_directory_that_was_filled_when_it_was_made_was_never_written() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("sub/code"), "x").unwrap();
        assert!(never_written(directory.path()).unwrap());
        assert!(!never_written(Path::new("/proc")).unwrap(), "no birth times there");
    }
}
